"""The lineage of a run as a picture: every artifact a box, inputs as arrows, from documents at the top to the scores.

An arrow that a longer way implies is left out (the tokenizer, which everything reads, would draw most of them); the
table below the picture has all. Artifacts stand as low as what is made from them allows. Within a layer they are
ordered so that arrows cross little: by the mean place of their neighbours, in sweeps down and up; arrows over several
layers have a place of their own in each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

from codeflow.report.gather import Artifact

_BOX_W, _BOX_H, _GAP_X, _GAP_Y, _BEND_W = 146, 38, 14, 26, 8
_WIDEST = 7  # boxes beside each other
_SWEEPS = 8
_Way = tuple[str, ...]  # an arrow's nodes, one in each layer: source, bends, target


def draw(artifacts: Mapping[str, Artifact]) -> str:
    """Return an SVG of the artifacts and what each was made from."""
    sources = reduced({name: _sources(artifact, artifacts) for name, artifact in artifacts.items()})
    layer = layers(sources)
    nodes: dict[int, list[str]] = {}
    for name in artifacts:
        nodes.setdefault(layer[name], []).append(name)
    ways = [_way(source, name, layer, nodes) for name in artifacts for source in sources[name]]
    _order(nodes, ways)
    place = _places(nodes, artifacts)
    width = max(x for x, _ in place.values()) + _BOX_W / 2
    height = max(y for _, y in place.values()) + _BOX_H
    arrows = [_arrow(way, place) for way in ways]
    boxes = [_box(artifact, *place[name]) for name, artifact in artifacts.items()]
    return (
        f'<svg class="lineage" viewBox="-4 -4 {width + 8:g} {height + 8:g}" width="{width:g}">'
        f"{''.join(arrows + boxes)}</svg>"
    )


def _sources(artifact: Artifact, artifacts: Mapping[str, Artifact]) -> list[str]:
    names = [Path(record.path).name for record in artifact.manifest.inputs.values()]
    return [name for name in dict.fromkeys(names) if name in artifacts]


def reduced(sources: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return each artifact's sources without those that its other sources were made from. Order: topological."""
    ancestors: dict[str, set[str]] = {}
    for name, found in sources.items():
        ancestors[name] = {*found}.union(*(ancestors[source] for source in found))
    return {
        name: [one for one in found if not any(one in ancestors[other] for other in found)]
        for name, found in sources.items()
    }


def layers(sources: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return each artifact's layer, from 0: right above the first that is made from it, else below its own sources."""
    depth: dict[str, int] = {}
    for name, found in sources.items():
        depth[name] = 1 + max((depth[source] for source in found), default=-1)
    readers: dict[str, list[str]] = {name: [] for name in sources}
    for name, found in sources.items():
        for source in found:
            readers[source].append(name)
    layer: dict[str, int] = {}
    for name in reversed(list(sources)):
        layer[name] = min((layer[reader] - 1 for reader in readers[name]), default=depth[name])
    return layer


def _way(source: str, name: str, layer: Mapping[str, int], nodes: Mapping[int, list[str]]) -> _Way:
    """Return the arrow's way; its bends are added to the layers between."""
    bends = [f"{source} > {name} > {between}" for between in range(layer[source] + 1, layer[name])]
    for between, bend in enumerate(bends, layer[source] + 1):
        nodes[between].append(bend)
    return (source, *bends, name)


def _order(nodes: dict[int, list[str]], ways: Sequence[_Way]) -> None:
    """Order every layer by the mean place of neighbours in the layer before, then of those behind, and so on."""
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for way in ways:
        for one, two in pairwise(way):
            above.setdefault(two, []).append(one)
            below.setdefault(one, []).append(two)
    for sweep in range(_SWEEPS):
        neighbours = below if sweep % 2 else above
        for number in sorted(nodes, reverse=bool(sweep % 2)):
            place = {name: i / max(len(row) - 1, 1) for row in nodes.values() for i, name in enumerate(row)}
            beside = {name: [place[other] for other in neighbours.get(name, [name])] for name in nodes[number]}
            nodes[number].sort(key=lambda name: sum(beside[name]) / len(beside[name]))


def _places(nodes: Mapping[int, Sequence[str]], artifacts: Mapping[str, Artifact]) -> dict[str, tuple[float, float]]:
    """Return each node's middle (x) and top (y); a layer of too many boxes takes several lines."""
    lines: list[list[str]] = []
    for number in sorted(nodes):
        row = list(nodes[number])
        n_lines = -(-sum(name in artifacts for name in row) // _WIDEST) or 1
        lines += [row[i::n_lines] for i in range(n_lines)]
    widths = [[_BOX_W if name in artifacts else _BEND_W for name in line] for line in lines]
    widest = max(sum(line) + _GAP_X * (len(line) - 1) for line in widths)
    place: dict[str, tuple[float, float]] = {}
    for number, (line, sizes) in enumerate(zip(lines, widths, strict=True)):
        x = (widest - sum(sizes) - _GAP_X * (len(sizes) - 1)) / 2
        for name, size in zip(line, sizes, strict=True):
            place[name] = (x + size / 2, number * (_BOX_H + _GAP_Y))
            x += size + _GAP_X
    return place


def _arrow(way: _Way, place: Mapping[str, tuple[float, float]]) -> str:
    x, y = place[way[0]]
    text = f"M{x:g},{y + _BOX_H:g}"
    y += _BOX_H
    for name in way[1:]:
        x_next, y_next = place[name]
        bend = (y_next - y) / 2
        text += f" C{x:g},{y + bend:g} {x_next:g},{y_next - bend:g} {x_next:g},{y_next:g}"
        x, y = x_next, y_next
        if name != way[-1]:
            y += _BOX_H
            text += f" V{y:g}"
    return f'<path d="{text}"/>'


def _box(artifact: Artifact, x: float, y: float) -> str:
    name, kind = escape(artifact.name), escape(artifact.manifest.kind)
    return (
        f'<a href="#artifact-{name}"><rect class="{kind}" '
        f'x="{x - _BOX_W / 2:g}" y="{y:g}" width="{_BOX_W}" height="{_BOX_H}" rx="6"/>'
        f'<text x="{x:g}" y="{y + 16:g}">{name}</text>'
        f'<text class="fingerprint" x="{x:g}" y="{y + 30:g}">{kind} {artifact.short}</text></a>'
    )
