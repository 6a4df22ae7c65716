"""Charts as inline SVG. One look for all: thin lines, direct labels, no boxes, colours told apart by anyone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

COLOURS = ("#3b6fb6", "#d9822b", "#3a9d6e", "#a5568f", "#8a7a3d", "#5b8aa8", "#b5534f")
INK, FAINT = "#22262e", "#d7dae0"
_STYLE: dict[Any, Any] = {
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


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def loss_curves(phases: Mapping[str, Sequence[Mapping[str, Any]]], smooth_steps: int = 9) -> str:
    """Draw training loss and held-out loss over all phases against tokens, with the borders between phases.

    `phases` maps a phase to its steps; a step has tokens (cumulative), loss, and sometimes validation (set -> loss).
    """
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(9, 3.6))
        sets = sorted({name for rows in phases.values() for row in rows for name in row.get("validation", {})})
        colour_of = {name: COLOURS[(i + 1) % len(COLOURS)] for i, name in enumerate(sets)}
        labelled: set[str] = set()
        for number, (phase, rows) in enumerate(phases.items()):
            train = [(row["tokens"], row["loss"]) for row in rows if "loss" in row]
            if not train:
                continue
            x, y = zip(*train, strict=True)
            axes.plot(x, y, color=FAINT, linewidth=0.8)
            axes.plot(
                x,
                _smooth(y, smooth_steps),
                color=COLOURS[0],
                linewidth=1.8,
                label="training, smoothed" if number == 0 else None,
            )
            if number:
                axes.axvline(x[0], color=INK, linewidth=0.6, linestyle=":")
            axes.annotate(
                phase,
                (x[0], 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(4, -2),
                textcoords="offset points",
                va="top",
                color=INK,
                fontweight="bold",
            )
            for name in sets:
                points = [(r["tokens"], r["validation"][name]) for r in rows if name in r.get("validation", {})]
                if points:
                    axes.plot(
                        *zip(*points, strict=True),
                        marker="o",
                        markersize=3.5,
                        linewidth=1.2,
                        color=colour_of[name],
                        label=None if name in labelled else f"held out: {name}",
                    )
                    labelled.add(name)
        axes.set_xlabel("tokens trained on")
        axes.set_ylabel("loss (nats per token)")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M" if value else "0")
        axes.legend(frameon=False, fontsize=8.5, loc="upper right", bbox_to_anchor=(1.0, 0.94))
        return _svg(figure)


def _smooth(values: Sequence[float], width: int) -> list[float]:
    half = width // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def series(rows: Sequence[tuple[float, float]], label: str, x_label: str = "step") -> str:
    """Draw one small line."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(4.3, 2.1))
        if rows:
            axes.plot(*zip(*rows, strict=True), color=COLOURS[0], linewidth=1.4)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(x_label)
        axes.set_title(label, loc="left", fontsize=10)
        return _svg(figure)


def funnel(stages: Sequence[tuple[str, int, int]]) -> str:
    """Draw what each stage (name, read, kept) let through, as bars on one scale."""
    with plt.rc_context(_STYLE):
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
        return _svg(figure)


def intervals(rows: Sequence[tuple[str, str, float, float, float]], label: str, reference: str = "") -> str:
    """Draw values with intervals: rows of (group, series, value, low, high); series `reference` as an open mark."""
    groups = list(dict.fromkeys(row[0] for row in rows))
    names = list(dict.fromkeys(row[1] for row in rows))
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(9, 0.36 * len(groups) + 0.9))
        for number, name in enumerate(names):
            offset = (number - (len(names) - 1) / 2) * 0.72 / max(len(names), 1)
            picked = [row for row in rows if row[1] == name]
            y = [groups.index(row[0]) + offset for row in picked]
            x = [row[2] for row in picked]
            colour = INK if name == reference else COLOURS[number % len(COLOURS)]
            for yi, row in zip(y, picked, strict=True):
                axes.plot([row[3], row[4]], [yi, yi], color=colour, linewidth=1.4, alpha=0.6)
            axes.plot(
                x,
                y,
                "D" if name == reference else "o",
                color=colour,
                markersize=4.5,
                label=name,
                markerfacecolor="white" if name == reference else colour,
            )
        axes.set_yticks(range(len(groups)), groups)
        axes.invert_yaxis()
        axes.set_xlabel(label)
        axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return _svg(figure)


def bars(rows: Sequence[tuple[str, float, str]], label: str, unit_height: float = 0.3) -> str:
    """Draw named amounts: rows of (name, amount, text behind the bar)."""
    with plt.rc_context(_STYLE):
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
        return _svg(figure)
