"""Stars against a flood fill, on any graph, in any order, however it is parted; long chains and hubs."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.transform.components import roots_of, stars

GRAPHS = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)).filter(lambda e: e[0] != e[1]), max_size=40)


def flood(edges: list[tuple[int, int]], n: int) -> list[int]:
    """The least number that each number is connected to."""
    neighbours: dict[int, set[int]] = {number: set() for number in range(n)}
    for a, b in edges:
        neighbours[a].add(b)
        neighbours[b].add(a)
    roots = [-1] * n
    for start in range(n):
        frontier = [start] if roots[start] < 0 else []
        while frontier:
            number = frontier.pop()
            if roots[number] < 0:
                roots[number] = start
                frontier += neighbours[number]
    return roots


def found(edges: list[tuple[int, int]], n: int, width: int, folder: Path) -> list[int]:
    half = len(edges) // 2
    arrays = [np.array(part, np.int64).reshape(-1, 2) for part in (edges[:half], edges[half:])]
    spill = stars(arrays, width, folder)
    return np.concatenate([roots_of(part, spill) for part in range(-(-n // width))])[:n].tolist()


@given(GRAPHS, st.sampled_from([1, 7, 100]), st.randoms())
@settings(max_examples=40, deadline=None)
def test_stars_are_those_of_a_flood_fill(
    tmp_path_factory: pytest.TempPathFactory, edges: list[tuple[int, int]], width: int, shuffler: random.Random
) -> None:
    shuffled = [(e if shuffler.random() < 0.5 else e[::-1]) for e in edges]
    shuffler.shuffle(shuffled)
    assert found(shuffled, 26, width, tmp_path_factory.mktemp("graph")) == flood(edges, 26)


@pytest.mark.parametrize(
    "edges",
    [
        [(i, i + 1) for i in range(3000)],
        [(i, i + 1) for i in reversed(range(0, 3000, 2))] + [(i, i + 1) for i in range(1, 2999, 2)],
        [(2999, i) for i in range(2999)],
        [(0, i) for i in range(1, 3000)],
        [(i, i // 2) for i in range(1, 3000)],
    ],
    ids=["chain", "zigzag", "last hub", "first hub", "tree"],
)
def test_shapes(tmp_path: Path, edges: list[tuple[int, int]]) -> None:
    assert found(edges, 3001, 1000, tmp_path) == flood(edges, 3001)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("edges")) == []  # cleaned up
