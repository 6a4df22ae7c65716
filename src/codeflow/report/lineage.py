"""The lineage of a run as a picture: every artifact a box, every input an arrow, laid out left to right by depth."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from codeflow.report.gather import Artifact

_BOX_W, _BOX_H, _GAP_X, _GAP_Y = 128, 40, 44, 16


def draw(artifacts: Mapping[str, Artifact]) -> str:
    """Return an SVG of the artifacts and what each was made from."""
    sources = {name: _sources(artifact, artifacts) for name, artifact in artifacts.items()}
    depth: dict[str, int] = {}
    for name in artifacts:  # the chain's order is topological
        depth[name] = 1 + max((depth[source] for source in sources[name]), default=-1)
    columns: dict[int, list[str]] = {}
    for name in artifacts:
        columns.setdefault(depth[name], []).append(name)
    tallest = max(len(column) for column in columns.values())
    place: dict[str, tuple[float, float]] = {}
    for x, column in columns.items():
        shift = (tallest - len(column)) * (_BOX_H + _GAP_Y) / 2
        for y, name in enumerate(column):
            place[name] = (x * (_BOX_W + _GAP_X), shift + y * (_BOX_H + _GAP_Y))
    width = (max(columns) + 1) * (_BOX_W + _GAP_X) - _GAP_X
    height = tallest * (_BOX_H + _GAP_Y)
    arrows = [_arrow(place[source], place[name]) for name in artifacts for source in sources[name]]
    boxes = [_box(artifacts[name], *place[name]) for name in artifacts]
    return (
        f'<svg class="lineage" viewBox="-4 -4 {width + 8} {height + 8}" width="{width}">{"".join(arrows + boxes)}</svg>'
    )


def _sources(artifact: Artifact, artifacts: Mapping[str, Artifact]) -> list[str]:
    names = [Path(record.path).name for record in artifact.manifest.inputs.values()]
    return [name for name in dict.fromkeys(names) if name in artifacts]


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1, x2, y2 = start[0] + _BOX_W, start[1] + _BOX_H / 2, end[0], end[1] + _BOX_H / 2
    bend = max(24.0, (x2 - x1) / 2)
    return f'<path d="M{x1},{y1} C{x1 + bend},{y1} {x2 - bend},{y2} {x2},{y2}"/>'


def _box(artifact: Artifact, x: float, y: float) -> str:
    return (
        f'<a href="#artifact-{escape(artifact.name)}"><rect x="{x}" y="{y}" width="{_BOX_W}" height="{_BOX_H}" rx="6"/>'
        f'<text x="{x + 10}" y="{y + 17}">{escape(artifact.name)}</text>'
        f'<text class="fingerprint" x="{x + 10}" y="{y + 31}">{artifact.short}</text></a>'
    )
