"""Which documents of a component are kept, and how the work is cut."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.transform import clusters
from codeflow.transform.spill import Spill

EDGES = st.sets(st.tuples(st.integers(0, 25), st.integers(0, 25)).filter(lambda e: e[0] < e[1]), min_size=1)


def components(neighbours: dict[int, dict[int, float]]) -> list[list[int]]:
    found: list[list[int]] = []
    for number in sorted(neighbours):
        if not any(number in component for component in found):
            reached, frontier = {number}, [number]
            while frontier:
                fresh = set(neighbours[frontier.pop()]) - reached
                reached |= fresh
                frontier += fresh
            found.append(sorted(reached))
    return found


@given(EDGES, st.sampled_from(["cover", "component"]), st.randoms())
def test_choice(edges: set[tuple[int, int]], rule: str, shuffler: random.Random) -> None:
    bits = np.full(len(edges), 0.9).view(np.int64)
    neighbours = clusters.neighbours_of(np.column_stack([np.array(sorted(edges), np.int64), bits]))
    for component in components(neighbours):
        shuffler.shuffle(component)  # any keep order
        chosen = clusters.choose(component, neighbours, rule)
        dropped = [number for _, members in chosen for number in members]
        kept = set(component) - set(dropped)
        assert len(dropped) == len(set(dropped))
        assert component[0] in kept
        assert all(best in kept for best, _ in chosen)
        if rule == "component":
            assert kept == {component[0]}
        else:
            assert all(number in neighbours[best] for best, members in chosen for number in members)
            assert not any(b in neighbours[a] for a, b in combinations(kept, 2))  # nothing alike is left
            place = {number: i for i, number in enumerate(component)}
            assert all(place[best] < place[number] for best, members in chosen for number in members)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=60), st.integers(1, 20), st.sampled_from([13, 100]))
@settings(max_examples=50, deadline=None)
def test_cuts_divide_the_roots_and_bound_the_edges(
    tmp_path_factory: pytest.TempPathFactory, roots: list[int], n_edges: int, width: int
) -> None:
    rooted = Spill(tmp_path_factory.mktemp("cuts") / "rooted", 4, width).create()
    rooted.add(np.array([[root, 0, 0, 0] for root in roots], np.int64))
    cuts = [cut for part in rooted.parts() for cut in clusters._cuts(part, rooted, n_edges)]
    assert sorted(root for root in roots for low, high in cuts if low <= root < high) == sorted(roots)
    for low, high in cuts:
        inside = [root for root in roots if low <= root < high]
        largest = max(inside.count(root) for root in set(inside))
        assert len(inside) < n_edges + largest


def test_jaccard_of_a_stranger_is_computed(tmp_path: Path) -> None:
    from codeflow.core.records import read_records
    from codeflow.transform.dedup import DedupConfig, NearConfig, run
    from tests.transform.corpora import document, make, write_documents

    words = [f"w{i}" for i in range(400)]
    documents = [
        document(" ".join(words[start : start + 300]), name) for start, name in ((0, "a"), (30, "b"), (60, "c"))
    ]
    source = write_documents(tmp_path / "in", documents)
    config = DedupConfig(near=NearConfig(rule="component"))
    make(run, config, {"documents": source}, tmp_path / "out")
    (cluster,) = read_records(tmp_path / "out" / "clusters-00000.parquet", clusters.Cluster)
    assert cluster.paths == ("shop/b", "shop/c")
    assert cluster.jaccards == (266 / 326, 236 / 356)  # a and c meet only through b
