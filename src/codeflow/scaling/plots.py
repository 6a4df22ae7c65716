"""Plots of fits and plans as PNG files; each answers one question and is drawn from a fit or a plan alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codeflow.core.storage import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from codeflow.scaling.fit import Fitted
    from codeflow.scaling.runs import Points

_COLOURS = ("#3b6fb6", "#d9822b", "#3a9d6e", "#a5568f", "#8a7a3d", "#5b8aa8", "#b5534f")
_INK, _FAINT = "#22262e", "#d7dae0"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "grid.color": "#eceef1",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
_SIZES_LABELLED = 8


@contextmanager
def _page(
    path: Path, n_columns: int, width: float = 4.2, height: float = 3.2
) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """Yield a figure with a row of axes and write it to `path` when the block ends."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width * n_columns, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, n_columns, squeeze=False)[0]
        yield figure, list(axes)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def draw_fit(path: Path, fitted: Fitted, points: Points, title: str) -> None:
    """Draw measured loss against tokens with the law's lines where runs are of one language, else against the law."""
    with _page(path, 1, 5.6, 3.8) as (_, (axes,)):
        axes.set_title(title, loc="left")
        if len(points.languages) == 1:
            _curves(axes, fitted, points)
        else:
            _predicted_against_measured(axes, fitted, points)


def _curves(axes: Axes, fitted: Fitted, points: Points) -> None:
    sizes = np.unique(points.n_parameters)
    shown = sizes if len(sizes) <= _SIZES_LABELLED else np.quantile(sizes, np.linspace(0, 1, 6))
    grid = np.geomspace(points.n_tokens.min(), points.n_tokens.max() * 2, 60)
    share = np.ones((len(grid), 1))
    for number, size in enumerate(shown):
        colour = _COLOURS[number % len(_COLOURS)]
        value, low, high = fitted.predict(np.full(len(grid), size), grid, share)
        axes.plot(grid, value, color=colour, linewidth=1.2, label=f"N = {_si(size)}")
        axes.fill_between(grid, low, high, color=colour, alpha=0.12, linewidth=0)
        mine = points.n_parameters == size
        axes.plot(points.n_tokens[mine], points.loss[mine], "o", color=colour, markersize=4)
    if len(sizes) > _SIZES_LABELLED:
        axes.plot(points.n_tokens, points.loss, ".", color=_INK, markersize=3, zorder=0)
    _log_counts(axes, points.n_tokens)
    axes.set_xlabel("tokens")
    axes.set_ylabel("loss, nats per token")
    axes.legend(fontsize=8)


def _predicted_against_measured(axes: Axes, fitted: Fitted, points: Points) -> None:
    value, low, high = fitted.predict(points.n_parameters, points.n_tokens, points.shares)
    axes.vlines(points.loss, low, high, color=_FAINT, linewidth=1)
    for name, mine, colour in _by_language(points):
        axes.plot(points.loss[mine], value[mine], "o", color=colour, markersize=4, label=name)
    ends = [points.loss.min(), points.loss.max()]
    axes.plot(ends, ends, color=_INK, linewidth=0.6)
    axes.set_xlabel("measured loss, nats per token")
    axes.set_ylabel("loss by the law, and its interval")
    axes.legend(fontsize=8)


def draw_residuals(path: Path, fitted: Fitted, points: Points, title: str) -> None:
    """Draw log(measured / law) against size, tokens and loss: a trend in any of them is a wrong law."""
    residuals = 100 * np.array(fitted.fit.residuals)
    columns = (("parameters", points.n_parameters), ("tokens", points.n_tokens), ("loss, nats per token", points.loss))
    with _page(path, 3, 3.4, 2.9) as (figure, row):
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        for axes, (label, values) in zip(row, columns, strict=True):
            axes.axhline(0, color=_INK, linewidth=0.6)
            axes.axhspan(-200 * fitted.fit.noise, 200 * fitted.fit.noise, color=_COLOURS[0], alpha=0.08, linewidth=0)
            for name, mine, colour in _by_language(points):
                axes.plot(values[mine], residuals[mine], "o", markersize=3, color=colour, label=name)
            axes.set_xlabel(label)
        _log_counts(row[0], points.n_parameters)
        _log_counts(row[1], points.n_tokens)
        row[0].set_ylabel("measured over law, %")
        if len(points.languages) > 1:
            row[2].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _by_language(points: Points) -> Iterator[tuple[str, NDArray[np.bool_], str]]:
    """Yield each language's name, its runs alone and a colour; then the mixtures."""
    alone = points.shares.max(1) > 1 - 1e-6
    largest = points.shares.argmax(1)
    for number, language in enumerate(points.languages):
        yield language, alone & (largest == number), _COLOURS[number % len(_COLOURS)]
    if not alone.all():
        yield "mixtures", ~alone, _INK


def _log_counts(axes: Axes, values: NDArray[np.float64]) -> None:
    """Make the x axis logarithmic; a grid of few values is labelled at these, others at powers of ten."""
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    marks = np.unique(values)
    if len(marks) <= _SIZES_LABELLED:
        axes.set_xticks(marks)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _si(value)))


def draw_shares(
    path: Path,
    rows: Mapping[str, Mapping[str, float]],
    title: str,
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Draw allocations side by side: one group of bars per language, one colour per row (name -> language -> share).

    `intervals` are of the first row's shares.
    """
    languages = sorted({language for row in rows.values() for language in row})
    with _page(path, 1, max(5.0, 1.1 * len(languages) + 2), 3.4) as (_, (axes,)):
        axes.set_title(title, loc="left")
        width = 0.8 / len(rows)
        for number, (name, row) in enumerate(rows.items()):
            places = np.arange(len(languages)) + (number - (len(rows) - 1) / 2) * width
            values = [100 * row.get(language, 0.0) for language in languages]
            axes.bar(places, values, width * 0.92, color=_COLOURS[number % len(_COLOURS)], label=name)
            if intervals and number == 0:
                low, high = (np.array([100 * intervals[language][end] for language in languages]) for end in (0, 1))
                axes.vlines(places, low, high, color=_INK, linewidth=1.2)
        axes.set_xticks(np.arange(len(languages)), languages)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("share of the tokens, %")
        axes.legend(fontsize=8)


def draw_matrix(path: Path, languages: Sequence[str], values: Sequence[Sequence[float]], title: str) -> None:
    """Draw a synergy matrix: rows are targets, columns what was mixed in; cells without a measurement stay empty."""
    matrix = np.array(values, np.float64)
    limit = float(np.nanmax(np.abs(matrix))) if np.isfinite(matrix).any() else 1.0
    with _page(path, 1, 0.9 * len(languages) + 2.4, 0.7 * len(languages) + 1.6) as (_, (axes,)):
        axes.grid(visible=False)
        axes.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit)
        axes.set_title(title, loc="left")
        axes.set_xticks(range(len(languages)), languages, rotation=30, ha="right")
        axes.set_yticks(range(len(languages)), languages)
        for i, j in np.argwhere(np.isfinite(matrix)):
            dark = abs(matrix[i, j]) > 0.6 * limit
            axes.text(j, i, f"{matrix[i, j]:+.1f}", ha="center", va="center", color="white" if dark else _INK)


def _si(value: float) -> str:
    """Return a count with a decimal prefix."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
