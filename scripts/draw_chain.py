"""Draw the picture of the chain that README and docs show, `docs/images/chain.svg`."""

from __future__ import annotations

from html import escape
from pathlib import Path

COLUMNS = [
    ("outside world", ["packages and docs", "git histories", "benchmarks"]),
    ("corpus", ["collect", "history", "prompts"]),
    ("transform", ["clean, parse, filter", "dedup, decontaminate", "evolution triplets"]),
    ("tokens", ["tokenizer", "samples", "packed rows"]),
    ("train", ["general", "code", "annealing"]),
    ("eval", ["bits per byte", "completion", "programs in a sandbox"]),
    ("report", ["one page with lineage"]),
]
WIDTH, HEIGHT, GAP, TOP = 158, 34, 30, 34


def main() -> None:
    """Write the SVG."""
    parts = []
    tallest = max(len(boxes) for _, boxes in COLUMNS)
    total_height = TOP + tallest * (HEIGHT + 10) + 6
    for i, (title, boxes) in enumerate(COLUMNS):
        x = i * (WIDTH + GAP)
        parts.append(f'<text class="t" x="{x + WIDTH / 2}" y="20">{escape(title)}</text>')
        shift = (tallest - len(boxes)) * (HEIGHT + 10) / 2
        for j, box in enumerate(boxes):
            y = TOP + shift + j * (HEIGHT + 10)
            parts.append(f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>')
            parts.append(f'<text x="{x + WIDTH / 2}" y="{y + 21}">{escape(box)}</text>')
        if i:
            y = TOP + tallest * (HEIGHT + 10) / 2 - 5
            parts.append(f'<path d="M{x - GAP + 5},{y} h{GAP - 12} m-6,-5 l6,5 l-6,5"/>')
    width = len(COLUMNS) * (WIDTH + GAP) - GAP
    style = (
        "rect{fill:#fff;stroke:#aeb7c5} text{font:12px system-ui,sans-serif;fill:#22262e;text-anchor:middle}"
        ".t{font-weight:600;fill:#3b6fb6;font-size:13px} path{stroke:#7a8597;stroke-width:1.6;fill:none}"
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-6 0 {width + 12} {total_height}" width="{width}">'
        f'<style>{style}</style><rect x="-6" y="0" width="{width + 12}" height="{total_height}" style="stroke:none"/>'
        f"{''.join(parts)}</svg>\n"
    )
    target = Path(__file__).parents[1] / "docs" / "images" / "chain.svg"
    target.write_text(svg)


if __name__ == "__main__":
    main()
