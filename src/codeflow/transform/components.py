"""Connected components of a graph that no process can hold.

Large-star and small-star steps take turns (Kiveris et al., "Connected Components in MapReduce and Beyond", 2014): the
first ties every greater neighbour of a node to the least of its neighbourhood, the second every lesser one. Both keep
the components, neither adds edges, and what is left when nothing changes is a star around each component's least
node. The number of rounds grows with the logarithm of the number of nodes (squared at worst), not with the length of
chains.

Edges lie in spills, parted by node. A step reads a part twice: once for the least neighbour of each of its nodes
(8 bytes for each number of the part's range), once to write the new edges. A node with a million edges is no trouble.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from codeflow.transform.spill import Int64, Spill, distinct_rows


def stars(
    edges: Iterable[Int64], width: int, folder: Path, on_edges: Callable[[int, int], None] = lambda _n, _round: None
) -> Spill:
    """Return the stars of a graph as rows (node, root), node > root, parted by node; roots have no row of their own.

    edges: arrays (E, 2) of numbers, in any order and direction, without loops. width: numbers per part. The same rows
    may come more than once. `on_edges` is told, after each stretch of work, how many edges it saw, and the round.
    """
    both = Spill(folder / "edges", 2, width).create()
    for pairs in edges:
        both.add(_both_ways(pairs))
        on_edges(len(pairs), 0)
    n_rounds = 0
    while True:
        up = Spill(folder / f"stars-{n_rounds}", 2, width).create()
        changed = _large_star(both, up, lambda n, number=n_rounds + 1: on_edges(n, number))
        shutil.rmtree(both.folder)
        both = Spill(folder / f"edges-{n_rounds}", 2, width).create()
        changed |= _small_star(up, both, lambda n, number=n_rounds + 1: on_edges(n, number))
        if not changed:
            shutil.rmtree(both.folder)
            return up
        shutil.rmtree(up.folder)
        n_rounds += 1


def roots_of(part: int, found: Spill) -> Int64:
    """Return the root of every number of a part's range, (width,); a number without a star is its own root."""
    low = part * found.width
    roots = np.arange(low, low + found.width)
    for rows in found.chunks(part):
        roots[rows[:, 0] - low] = rows[:, 1]
    return roots


def _both_ways(pairs: Int64) -> Int64:
    return np.concatenate([pairs, pairs[:, ::-1]])


def _least_neighbours(part: int, edges: Spill) -> Int64:
    """Return the least of each number's neighbourhood, itself included, for the range of a part."""
    low = part * edges.width
    least = np.arange(low, low + edges.width)
    for rows in edges.chunks(part):
        np.minimum.at(least, rows[:, 0] - low, rows[:, 1])
    return least


def _large_star(both: Spill, up: Spill, seen: Callable[[int], None]) -> bool:
    """Write (v, least of u's neighbourhood) for each edge (u, v), v > u, parted by v; return whether one is new."""
    changed = False
    for part in both.parts():
        low, least = part * both.width, _least_neighbours(part, both)
        for rows in both.chunks(part):
            rows = rows[rows[:, 1] > rows[:, 0]]
            targets = least[rows[:, 0] - low]
            changed |= bool((targets != rows[:, 0]).any())
            up.add(distinct_rows(np.stack([rows[:, 1], targets], axis=1)))
            seen(len(rows))
    return changed


def _small_star(up: Spill, both: Spill, seen: Callable[[int], None]) -> bool:
    """Tie the lesser neighbours of each node, and itself, to the least; write both ways; return whether one is new."""
    changed = False
    for part in up.parts():
        low, least = part * up.width, _least_neighbours(part, up)
        for rows in up.chunks(part):
            targets = least[rows[:, 0] - low]
            moved = rows[:, 1] != targets
            changed |= bool(moved.any())
            both.add(_both_ways(distinct_rows(np.stack([rows[moved, 1], targets[moved]], axis=1))))
            seen(len(rows))
        nodes = np.flatnonzero(least != np.arange(low, low + up.width))
        both.add(_both_ways(np.stack([nodes + low, least[nodes]], axis=1)))
    return changed
