"""Charts of training as inline SVG: losses over phases, a fold's jump, reinforcement learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from codeflow.report.charts import COLOURS, FAINT, INK, STYLE, smooth, svg

Rows = Sequence[Mapping[str, Any]]
_NARROWEST = 0.17  # of the figure's width, so that a short phase still has room for its name


@dataclass(frozen=True)
class Panel:
    """One phase: its name, and the steps of each model trained in it."""

    name: str
    lines: Mapping[str, Rows] = field(default_factory=dict)


def losses(panels: Sequence[Panel], borders: Mapping[int, str] | None = None, from_zero: bool = False) -> str:
    """Draw training and held-out loss of phases side by side on one scale of loss, wide by their tokens.

    A step has tokens (cumulative), loss, and sometimes validation (set -> loss); of the sets those are drawn that every
    panel has. `borders` name what happened before a panel, by its number. With `from_zero` tokens are counted from each
    panel's start.
    """
    panels = [panel for panel in panels if any(any("loss" in row for row in rows) for rows in panel.lines.values())]
    if not panels:
        return ""
    spans = [_span(panel) for panel in panels]
    total = sum(end - start for start, end in spans) or 1.0
    widths = [max((end - start) / total, _NARROWEST) for start, end in spans]
    sets = sorted(set.intersection(*(_sets(panel) for panel in panels)))
    with plt.rc_context(STYLE):
        figure, found = plt.subplots(
            1, len(panels), figsize=(10.4, 3.7), sharey=True, squeeze=False, width_ratios=widths
        )
        figure.subplots_adjust(wspace=0.035)
        for number, (axes, panel, span) in enumerate(zip(found[0], panels, spans, strict=True)):
            _panel(axes, panel, sets)
            axes.set_xlim(span[0], span[1] if span[1] > span[0] else span[0] + 1)
            axes.set_xticks([*span] if number == 0 or from_zero else [span[1]])
            for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=False):
                label.set_horizontalalignment(side if from_zero else "center")
            shift = span[0] if from_zero else 0.0
            axes.xaxis.set_major_formatter(lambda value, _, shift=shift: _tokens(value - shift))
            axes.set_title(panel.name, loc="left", fontsize=10, fontweight="bold")
            if number:
                axes.tick_params(left=False)
                axes.spines["left"].set(linestyle=":", color=INK, linewidth=0.8)
            if borders and number in borders:
                axes.spines["left"].set(linestyle="-", color=COLOURS[6], linewidth=1.6)
                axes.annotate(
                    borders[number], (0, 0.02), (4, 0), "axes fraction", "offset points", color=COLOURS[6], fontsize=9
                )
        found[0][0].set_ylabel("loss (nats per token)")
        figure.supxlabel("tokens trained on", fontsize=10, y=-0.04)
        known: dict[str, Any] = {}
        for axes in found[0]:
            known |= {label: line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(
            known.values(), known.keys(), frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(0.9, 0.9)
        )
        return svg(figure)


def mixtures(panels: Sequence[Panel]) -> str:
    """Draw the shares of the sets over the steps of phases whose weights change, a panel each; a dot is a change.

    A row has `mixture` (set -> weight) where its batch is the first with these weights.
    """
    panels = [panel for panel in panels if any("mixture" in row for rows in panel.lines.values() for row in rows)]
    if not panels:
        return ""
    with plt.rc_context(STYLE):
        figure, found = plt.subplots(1, len(panels), figsize=(min(4.6 * len(panels), 10.4), 2.6), squeeze=False)
        for axes, panel in zip(found[0], panels, strict=True):
            rows = [row for rows in panel.lines.values() for row in rows]
            changes = [(row["step"], row["mixture"]) for row in rows if "mixture" in row]
            last = max(row["step"] for row in rows)
            for place, name in enumerate(sorted({name for _, weights in changes for name in weights})):
                shares = [(step, weights.get(name, 0.0) / sum(weights.values())) for step, weights in changes]
                x, y = zip(*shares, (last, shares[-1][1]), strict=True)
                colour = COLOURS[place % len(COLOURS)]
                axes.step(x, y, where="post", color=colour, linewidth=1.4, label=name)
                axes.plot(x[:-1], y[:-1], "o", color=colour, markersize=3)
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.set_title(panel.name, loc="left", fontsize=10, fontweight="bold")
            axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.18), ncols=3)
        found[0][0].set_ylabel("share of the rows")
        return svg(figure)


def _tokens(n: float) -> str:
    return f"{n / 1e6:.2g} M" if n >= 1e6 else f"{n / 1e3:.3g} k" if n >= 1e3 else f"{n:.0f}"


def _span(panel: Panel) -> tuple[float, float]:
    tokens = [row["tokens"] for rows in panel.lines.values() for row in rows if "tokens" in row]
    return min(tokens), max(tokens)


def _sets(panel: Panel) -> set[str]:
    return {name for rows in panel.lines.values() for row in rows for name in row.get("validation", {})}


def _panel(axes: Axes, panel: Panel, sets: Sequence[str]) -> None:
    dashes = ("-", "--", ":", "-.")
    for number, (label, rows) in enumerate(panel.lines.items()):
        steps = [(row["tokens"], row["loss"]) for row in rows if "loss" in row]
        if not steps:
            continue
        x, y = zip(*steps, strict=True)
        style = dashes[number % len(dashes)]
        colour = COLOURS[(0, 3, 5, 6)[number % 4]]
        axes.plot(x, y, color=FAINT, linewidth=0.7, zorder=1)
        axes.plot(x, smooth(y), color=colour, linestyle=style, linewidth=1.8 - 0.4 * bool(number), label=label)
        for place, name in enumerate(sets):
            points = [(r["tokens"], r["validation"][name]) for r in rows if name in r.get("validation", {})]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    marker="o",
                    markersize=3,
                    linestyle=style,
                    linewidth=1.1,
                    color=COLOURS[1 + place % (len(COLOURS) - 1)],
                    label=f"held out: {name}" if number == 0 else None,
                )


def held_out(parts: Sequence[tuple[str, Sequence[tuple[str, Mapping[str, float]]]]], sets: Sequence[str]) -> str:
    """Draw held-out losses as dots, a row per model and a colour per set; each part (title, rows) has its own panel."""
    heights = [max(len(rows), 1) for _, rows in parts]
    with plt.rc_context(STYLE):
        figure, found = plt.subplots(
            len(parts),
            1,
            figsize=(8, 0.32 * sum(heights) + 0.75 * len(parts)),
            sharex=True,
            squeeze=False,
            height_ratios=heights,
        )
        for axes, (title, rows) in zip(found[:, 0], parts, strict=True):
            for place, name in enumerate(sets):
                points = [(values[name], i) for i, (_, values) in enumerate(rows) if name in values]
                if points:
                    axes.plot(*zip(*points, strict=True), "o", markersize=5, color=COLOURS[1 + place], label=name)
            axes.set_yticks(range(len(rows)), [label for label, _ in rows])
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.set_title(title, loc="left", fontsize=10)
        found[-1, 0].set_xlabel("held-out loss (nats per token)")
        found[0, 0].legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure.tight_layout()
        return svg(figure)


@dataclass(frozen=True)
class Run:
    """One run of reinforcement learning."""

    name: str
    rows: Rows
    control: bool = False  # rewarded at random


def reinforcement(runs: Sequence[Run], key: str, label: str, wide: bool = False) -> str:
    """Draw one measurement of several runs by step: smoothed, with the raw values behind; controls dashed in grey."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9, 3.2) if wide else (3.3, 1.9))
        for number, run in enumerate(runs):
            points = [(row["step"], row[key]) for row in run.rows if key in row]
            if not points:
                continue
            x, y = zip(*points, strict=True)
            colour = "#7d8694" if run.control else COLOURS[number % len(COLOURS)]
            axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.35)
            axes.plot(x, smooth(y), color=colour, linewidth=1.8, linestyle="--" if run.control else "-", label=run.name)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step")
        axes.set_title(label, loc="left", fontsize=10)
        if wide:
            axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return svg(figure)
