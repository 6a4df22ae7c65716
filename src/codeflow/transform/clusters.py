"""From verified pairs to clusters: what is alike hangs together, and one document of each cluster is kept.

    edges of all shards -> stars (`components`) -> edges parted by the root of their component -> per part: clusters

A part holds about `partition_entries` edges and the keys of their documents; a component is never divided, so a process
needs room for the largest one. All orders follow from the documents' numbers: the outcome depends neither on the number
of processes nor on how the work is parted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codeflow.core.manifest import Counts
from codeflow.core.progress import Bar
from codeflow.core.records import write_records
from codeflow.transform import minhash
from codeflow.transform.components import roots_of, stars
from codeflow.transform.decisions import NEAR
from codeflow.transform.dedup import KeepConfig, NearConfig
from codeflow.transform.fingerprints import Int64, keep_order, keys_of, save_arrays
from codeflow.transform.forks import origins_of
from codeflow.transform.near_dedup import SetReader
from codeflow.transform.spill import Spill

_EDGE = 3  # left, right, and the bits of their Jaccard index


@dataclass(frozen=True, slots=True)
class Cluster:
    """One kept document and those dropped in its favour."""

    id: str  # of the kept document
    kept: str  # "repository/path" of the kept document
    members: tuple[str, ...]  # ids of the dropped documents, the most similar first
    paths: tuple[str, ...]  # "repository/path" of each
    jaccards: tuple[float, ...]  # exact, to the kept document


@dataclass(frozen=True)
class ClusterJob:
    """The components whose roots lie in [low, high), a piece of one part of the rooted edges."""

    number: int
    low: int
    high: int
    rooted: Spill  # rows: root, left, right, bits of the Jaccard index
    near: NearConfig
    keep: KeepConfig
    scratch: Path
    output: Path

    @property
    def name(self) -> str:
        return f"clusters-{self.number:05d}"


def cluster_jobs(near: NearConfig, keep: KeepConfig, width: int, scratch: Path, output: Path) -> list[ClusterJob]:
    """Find the components of the verified pairs; return jobs of about `partition_entries` edges each."""
    rooted = _rooted(width, scratch)
    cuts = [cut for part in rooted.parts() for cut in _cuts(part, rooted, near.partition_entries)]
    return [ClusterJob(i, low, high, rooted, near, keep, scratch, output) for i, (low, high) in enumerate(cuts)]


def _edges(scratch: Path) -> Iterator[Int64]:
    """Yield the verified pairs shard by shard, with the bits of their Jaccard indices, (E, 3)."""
    for path in sorted(scratch.glob("edges-*.pairs.npy")):
        pairs = np.load(path, allow_pickle=False)
        jaccards = np.load(path.with_name(path.name.replace(".pairs.", ".jaccards.")), allow_pickle=False)
        yield np.column_stack([pairs, jaccards.view(np.int64)])


def _rooted(width: int, scratch: Path) -> Spill:
    with Bar("components", None, "edges") as bar:

        def seen(n_edges: int, n_round: int) -> None:
            pace = (bar.done + n_edges) / max(bar.seconds, 1e-3)
            bar.advance(n_edges, f"{pace:,.0f}/s, round {n_round}")

        found = stars((edges[:, :2] for edges in _edges(scratch)), width, scratch / "components", seen)
    by_left = Spill(scratch / "edges-by-left", _EDGE, width).create()
    for edges in _edges(scratch):
        by_left.add(edges)
    rooted = Spill(scratch / "edges-by-root", 1 + _EDGE, width).create()
    for part in by_left.parts():
        roots = roots_of(part, found)
        for edges in by_left.chunks(part):
            rooted.add(np.column_stack([roots[edges[:, 0] - part * width], edges]))
    return rooted


def _cuts(part: int, rooted: Spill, n_edges: int) -> list[tuple[int, int]]:
    """Cut a part's range of roots where about `n_edges` edges have come together."""
    low = part * rooted.width
    counts = np.zeros(rooted.width, np.int64)
    for rows in rooted.chunks(part):
        counts += np.bincount(rows[:, 0] - low, minlength=rooted.width)
    piece = (np.cumsum(counts) - 1) // n_edges  # of the last edge of each root
    starts = [0, *(np.flatnonzero(piece[1:] > piece[:-1]) + 1).tolist(), rooted.width]
    return [(low + a, low + b) for a, b in itertools.pairwise(starts) if counts[a:b].any()]


def resolve(job: ClusterJob) -> Counts:
    """Write the clusters of some components, and the numbers dropped and kept, sorted by `dropped`."""
    part = job.low // job.rooted.width
    inside = [rows[(rows[:, 0] >= job.low) & (rows[:, 0] < job.high)] for rows in job.rooted.chunks(part)]
    edges = np.concatenate(inside)
    edges = edges[np.lexsort((edges[:, 2], edges[:, 1], edges[:, 0]))]
    keys = keys_of(np.unique(edges[:, 1:3]), job.scratch)
    starts = np.flatnonzero(np.diff(edges[:, 0], prepend=-1))
    drops: list[tuple[int, int]] = []
    forks = origins_of(job.scratch)

    def records() -> Iterator[Cluster]:
        reader = SetReader(job.scratch)
        for component in np.split(edges[:, 1:], starts[1:]):
            neighbours = neighbours_of(component)
            ordered = sorted(neighbours, key=lambda number: keep_order(keys[number], job.keep, forks))
            for kept, members in choose(ordered, neighbours, job.near.rule):
                drops.extend((number, kept) for number in members)
                yield _record(kept, members, neighbours[kept], keys, reader)

    n_clusters = write_records(job.output / f"{job.name}.parquet", records(), Cluster)
    numbers = np.array(sorted(drops), np.int64).reshape(-1, 2)
    save_arrays(job.scratch / job.name, dropped=numbers[:, 0], kept=numbers[:, 1])
    return Counts(
        read=len(keys),
        kept=len(keys) - len(drops),
        dropped={NEAR: len(drops)} if drops else {},
        notes={"near_duplicate_clusters": n_clusters},
    )


def neighbours_of(edges: Int64) -> dict[int, dict[int, float]]:
    """Return each document's verified near-duplicates with their Jaccard indices, from rows (E, 3)."""
    found: dict[int, dict[int, float]] = {}
    jaccards = np.ascontiguousarray(edges[:, 2]).view(np.float64).tolist()
    for (left, right), jaccard in zip(edges[:, :2].tolist(), jaccards, strict=True):
        found.setdefault(left, {})[right] = jaccard
        found.setdefault(right, {})[left] = jaccard
    return found


def choose(component: Sequence[int], neighbours: dict[int, dict[int, float]], rule: str) -> list[tuple[int, list[int]]]:
    """Return (kept, dropped) numbers for a component whose documents are given in keep order, the best first.

    component: the best is kept and all others are dropped, as is usual; the ends of a chain of near-duplicates may then
    go in favour of something they hardly resemble. cover: the best is kept and its direct neighbours are dropped, then
    the same with what remains, so that every dropped document is a verified near-duplicate of the one kept for it.
    """
    if rule == "component":
        return [(component[0], list(component[1:]))]
    rank = {number: place for place, number in enumerate(component)}
    clusters = []
    for number in component:
        if number in rank:
            del rank[number]
            dropped = sorted(neighbours[number].keys() & rank.keys(), key=rank.__getitem__)
            for other in dropped:
                del rank[other]
            clusters.append((number, dropped))
    return [cluster for cluster in clusters if cluster[1]]


def _record(
    kept: int, members: list[int], known: dict[int, float], keys: dict[int, dict[str, Any]], reader: SetReader
) -> Cluster:
    strangers = [number for number in members if number not in known]  # alike through others
    own = reader.read(kept) if strangers else None
    alike = known | {number: minhash.jaccard(own, reader.read(number)) for number in strangers if own is not None}
    ordered = sorted(members, key=lambda number: (-alike[number], number))
    return Cluster(
        id=keys[kept]["id"],
        kept=f"{keys[kept]['repository']}/{keys[kept]['path']}",
        members=tuple(keys[number]["id"] for number in ordered),
        paths=tuple(f"{keys[number]['repository']}/{keys[number]['path']}" for number in ordered),
        jaccards=tuple(alike[number] for number in ordered),
    )
