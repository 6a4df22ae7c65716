"""Charts as inline SVG. One look for all: thin lines, direct labels, no boxes, colours told apart by anyone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

COLOURS = ("#3b6fb6", "#d9822b", "#3a9d6e", "#a5568f", "#8a7a3d", "#5b8aa8", "#b5534f")
INK, FAINT = "#22262e", "#d7dae0"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "codeflow",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": "#eceef1",
    "axes.axisbelow": True,
}


def svg(figure: Figure) -> str:
    """Return the figure as an SVG element, the same bytes for the same figure, and close it."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def smooth(values: Sequence[float], width: int = 9) -> list[float]:
    """Return the mean of each value with its `width - 1` neighbours, of fewer at the ends."""
    half = width // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def series(rows: Sequence[tuple[float, float]], label: str, x_label: str = "step") -> str:
    """Draw one small line."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(3.3, 1.9))
        if rows:
            axes.plot(*zip(*rows, strict=True), color=COLOURS[0], linewidth=1.4)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(x_label)
        axes.set_title(label, loc="left", fontsize=10)
        return svg(figure)


def funnel(stages: Sequence[tuple[str, int, int]]) -> str:
    """Draw what each stage (name, read, kept) let through, as bars on one scale."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9, 0.42 * len(stages) + 0.6))
        top = max((read for _, read, _ in stages), default=1)
        for i, (_, read, kept) in enumerate(stages):
            axes.barh(i, read, color="#e6e9ee", height=0.66)
            axes.barh(i, kept, color=COLOURS[0], height=0.66)
            share = f"{kept / read:.1%}" if read else "nothing read"
            axes.text(read + top * 0.01, i, f"{kept:,} of {read:,}  ({share})", va="center", color=INK, fontsize=9)
        axes.set_yticks(range(len(stages)), [name for name, _, _ in stages])
        axes.invert_yaxis()
        axes.set_xlim(0, top * 1.28)
        axes.grid(False)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        return svg(figure)


def intervals(rows: Sequence[tuple[str, str, float, float, float]], label: str) -> str:
    """Draw values with intervals: rows of (group, series, value, low, high), a line per group."""
    groups = list(dict.fromkeys(row[0] for row in rows))
    names = list(dict.fromkeys(row[1] for row in rows))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.4, 0.4 * len(groups) + 0.9))
        for number, name in enumerate(names):
            offset = (number - (len(names) - 1) / 2) * 0.72 / max(len(names), 1)
            picked = [row for row in rows if row[1] == name]
            y = [groups.index(row[0]) + offset for row in picked]
            colour = COLOURS[number % len(COLOURS)]
            for yi, row in zip(y, picked, strict=True):
                axes.plot([row[3], row[4]], [yi, yi], color=colour, linewidth=1.4, alpha=0.6)
            axes.plot([row[2] for row in picked], y, "o", color=colour, markersize=4, label=name)
        axes.set_yticks(range(len(groups)), groups)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlabel(label)
        axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return svg(figure)


def bars(rows: Sequence[tuple[str, float, str]], label: str, unit_height: float = 0.3) -> str:
    """Draw named amounts: rows of (name, amount, text behind the bar)."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, unit_height * max(len(rows), 1) + 0.7))
        top = max((amount for _, amount, _ in rows), default=1.0) or 1.0
        axes.barh(range(len(rows)), [amount for _, amount, _ in rows], color=COLOURS[0], height=0.66)
        for i, (_, amount, text) in enumerate(rows):
            axes.text(amount + top * 0.01, i, text, va="center", fontsize=8.5, color=INK)
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, top * 1.3)
        axes.grid(False)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.set_title(label, loc="left", fontsize=10)
        return svg(figure)


def lanes(rows: Sequence[tuple[str, float, float]], label: str) -> str:
    """Draw when stages ran: rows of (name, start in seconds, seconds), one bar each."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9, 0.24 * max(len(rows), 1) + 0.7))
        end = max((start + seconds for _, start, seconds in rows), default=1.0) or 1.0
        axes.barh(
            range(len(rows)),
            [max(s, end / 600) for _, _, s in rows],
            left=[s for _, s, _ in rows],
            color=COLOURS[0],
            height=0.66,
        )
        for i, (_, start, seconds) in enumerate(rows):
            axes.text(start + seconds + end * 0.008, i, f"{seconds:.1f} s", va="center", fontsize=8, color=INK)
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8.5)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, end * 1.09)
        axes.set_xlabel("seconds during which any stage ran")
        axes.set_title(label, loc="left", fontsize=10)
        return svg(figure)


def calibration(lines: Mapping[str, Sequence[tuple[float, float, int]]], label: str) -> str:
    """Draw what scores mean: per name the bins' (mean score, mean label, documents), beside the diagonal.

    Bins with less than a hundredth of the documents are left out: their mean label is noise.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(3.9, 3.3))
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2)
        for number, (name, bins) in enumerate(lines.items()):
            total = sum(count for _, _, count in bins)
            held = [one for one in bins if one[2] >= total / 100]
            x, y, n = zip(*held, strict=True) if held else ((), (), ())
            sizes = [6 + 60 * count / sum(n) for count in n]
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(x, y, color=colour, linewidth=1.2, alpha=0.7)
            axes.scatter(x, y, s=sizes, color=colour, label=name)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("mean score")
        axes.set_ylabel("mean label")
        axes.set_title(label, loc="left", fontsize=10)
        if lines:
            axes.legend(frameon=False, fontsize=8.5)
        return svg(figure)


def histogram(counts: Sequence[int], label: str) -> str:
    """Draw how many things fall into each of equal parts of 0..1."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(3.9, 2.2))
        width = 1 / max(len(counts), 1)
        axes.bar([(i + 0.5) * width for i in range(len(counts))], counts, width=0.92 * width, color=COLOURS[0])
        axes.set_xlim(0, 1)
        axes.set_xlabel("score")
        axes.set_title(label, loc="left", fontsize=10)
        return svg(figure)


def two_histograms(
    edges: npt.NDArray[np.float64],
    kept: npt.NDArray[np.int64],
    dropped: npt.NDArray[np.int64],
    x_label: str,
    log: bool = False,
    small: bool = False,
) -> str:
    """Draw the shares of kept (filled) and dropped (outlined) things in the bins between `edges` (n + 1,)."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(2.4, 0.55) if small else (7.2, 2.3))
        for counts, name, colour in ((kept, "kept", COLOURS[0]), (dropped, "dropped", COLOURS[1])):
            if counts.sum():
                filled = {"fill": True, "alpha": 0.35} if name == "kept" else {}
                axes.stairs(counts / counts.sum(), edges, color=colour, linewidth=1.3, label=name, **filled)
                if filled:
                    axes.stairs(counts / counts.sum(), edges, color=colour, linewidth=1.0)
        if log:
            axes.set_xscale("log")
        axes.grid(False)
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)
        if small:
            axes.xaxis.set_visible(False)
        else:
            axes.set_xlabel(x_label)
            if kept.sum() or dropped.sum():
                axes.legend(frameon=False, fontsize=9)
        return svg(figure)
