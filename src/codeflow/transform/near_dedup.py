"""Nearly equal documents: MinHash-LSH for candidates, the exact Jaccard index for the verdict.

Memory: a band partition holds `partition_entries` keys (16 bytes each); a verifying process holds the shingle sets of
the candidates of one shard plus one other document; resolving holds, for documents in a verified pair only, their
numbers, keys and edges. Documents without a near-duplicate appear in no list that spans the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codeflow.core.manifest import Counts
from codeflow.core.records import write_records
from codeflow.transform import minhash
from codeflow.transform.dedup import KeepConfig, NearConfig
from codeflow.transform.fingerprints import (
    Int64,
    ShardJob,
    keep_order,
    keys_of,
    load_array,
    save_arrays,
    text_batches,
)

Clusters = list[tuple[int, list[int]]]  # (kept, dropped) numbers
_HASHES = 1 << 64


@dataclass(frozen=True, slots=True)
class Cluster:
    """One kept document and those dropped in its favour."""

    id: str  # of the kept document
    kept: str  # "repository/path" of the kept document
    members: tuple[str, ...]  # ids of the dropped documents, the most similar first
    paths: tuple[str, ...]  # "repository/path" of each
    jaccards: tuple[float, ...]  # exact, to the kept document


@dataclass(frozen=True)
class BandJob:
    """Some bands, and one range of their keys."""

    first: int
    last: int  # not included
    part: int
    parts: int
    reach: int
    scratch: Path

    @property
    def name(self) -> str:
        return f"pairs-{self.first:03d}-{self.part:05d}"


def banding(near: NearConfig) -> tuple[int, int]:
    """Return (n_bands, n_rows) that follow from the threshold."""
    return minhash.bands_for(near.threshold, near.n_permutations, near.band_recall)


def band_jobs(near: NearConfig, n_documents: int, scratch: Path) -> list[BandJob]:
    """Split bands and key ranges so that each job holds about `partition_entries` keys at a time."""
    n_bands, _ = banding(near)
    parts = max(1, -(-n_documents // near.partition_entries))
    step = max(1, near.partition_entries // max(n_documents, 1))
    firsts = range(0, n_bands, step)
    return [
        BandJob(first, min(first + step, n_bands), part, parts, near.bucket_reach, scratch)
        for first in firsts
        for part in range(parts)
    ]


def pair(job: BandJob) -> Counts:
    """Write the candidate pairs (P, 2) of some bands and one range of keys, sorted, smaller number first."""
    dropped = load_array(job.scratch / "dropped", "numbers", mapped=False)
    found = [_pairs_of_band(job, band, dropped) for band in range(job.first, job.last)]
    pairs = np.unique(np.concatenate([pairs for pairs, _ in found]), axis=0)
    save_arrays(job.scratch / job.name, pairs=pairs)
    n_crowded = sum(n for _, n in found)
    return Counts(notes={"crowded_buckets": n_crowded} if n_crowded else {})


def _pairs_of_band(job: BandJob, band: int, dropped: Int64) -> tuple[Int64, int]:
    low = np.uint64(job.part * _HASHES // job.parts)
    high = np.uint64((job.part + 1) * _HASHES // job.parts - 1)
    keys, numbers = [], []
    for path in sorted(job.scratch.glob("bands-*.keys.npy")):
        stem = path.with_name(path.name.removesuffix(".keys.npy"))
        row = load_array(stem, "keys")[band]
        first, last = np.searchsorted(row, low, "left"), np.searchsorted(row, high, "right")
        found = np.array(load_array(stem, "numbers")[band, first:last])
        here = ~_contains(dropped, found)
        keys.append(np.array(row[first:last])[here])
        numbers.append(found[here])
    return bucket_pairs(np.concatenate(keys), np.concatenate(numbers), job.reach)


def bucket_pairs(keys: npt.NDArray[np.uint64], numbers: Int64, reach: int) -> tuple[Int64, int]:
    """Return the sorted pairs (P, 2) of documents with equal keys, and the number of crowded buckets.

    A bucket with more than `reach` + 1 documents is crowded: there each is paired with the next `reach` in order of
    number and with the bucket's first, so that its pairs grow with its size and not with its square.
    """
    order = np.lexsort((numbers, keys))
    keys, numbers = keys[order], numbers[order]
    left, right = [], []
    for distance in range(1, min(reach, keys.size - 1) + 1):
        at = np.flatnonzero(keys[distance:] == keys[:-distance])
        if at.size == 0:
            break
        left.append(numbers[at])
        right.append(numbers[at + distance])
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if keys.size else np.empty(0, np.int64)
    lengths = np.diff(np.append(starts, keys.size))
    crowded = lengths > reach + 1
    for start, length in zip(starts[crowded], lengths[crowded], strict=True):
        left.append(np.full(length - reach - 1, numbers[start]))
        right.append(numbers[start + reach + 1 : start + length])
    if not left:
        return np.empty((0, 2), np.int64), 0
    pairs = np.stack([np.concatenate(left), np.concatenate(right)], axis=1)
    return np.unique(pairs, axis=0), int(crowded.sum())


def _contains(ordered: npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return whether each value is in the sorted array."""
    if ordered.size == 0:
        return np.zeros(values.size, bool)
    at = np.minimum(np.searchsorted(ordered, values), ordered.size - 1)
    return ordered[at] == values


def write_candidates(scratch: Path) -> int:
    """Write the sorted numbers of all documents that stand in a candidate pair; return their number."""
    found = np.empty(0, np.int64)
    for path in sorted(scratch.glob("pairs-*.npy")):
        found = np.union1d(found, np.load(path, allow_pickle=False).ravel())
    save_arrays(scratch / "candidates", numbers=found)
    return int(found.size)


def write_sets(job: ShardJob) -> Counts:
    """Write the shingle sets of the shard's candidates: numbers (C,), offsets (C + 1,), hashes (sum of sizes,)."""
    assert job.config.near
    candidates = load_array(job.scratch / "candidates", "numbers")
    low, high = np.searchsorted(candidates, [job.start, job.stop])
    numbers = np.array(candidates[low:high])
    path = job.scratch / f"sets-{job.index:05d}"
    sets = list(_sets(job, numbers, job.config.near.n_tokens))
    offsets = np.cumsum([0, *(s.size for s in sets)], dtype=np.int64)
    hashes = np.concatenate(sets) if sets else np.empty(0, np.uint64)
    save_arrays(path, numbers=numbers, offsets=offsets, hashes=hashes)
    return Counts()


def _sets(job: ShardJob, numbers: Int64, n_tokens: int) -> Iterator[minhash.UInt64]:
    start = job.start
    for _, data, offsets in text_batches(job.source, []) if numbers.size else ():
        stop = start + offsets.size - 1
        low, high = np.searchsorted(numbers, [start, stop])
        for row in numbers[low:high] - start:
            yield minhash.shingle_set(data[offsets[row] : offsets[row + 1]], n_tokens)
        start = stop


class SetReader:
    """Reads shingle sets by document number. Holds one shard's numbers and offsets at a time, and no set."""

    def __init__(self, scratch: Path) -> None:
        self._stops = load_array(scratch / "layout", "stops", mapped=False)
        self._scratch = scratch
        self._shard = -1
        self._numbers = self._offsets = np.empty(0, np.int64)

    def read(self, number: int) -> minhash.UInt64:
        """Return the sorted distinct shingle hashes of a candidate document."""
        shard = int(np.searchsorted(self._stops, number, "right"))
        path = self._scratch / f"sets-{shard:05d}"
        if shard != self._shard:
            self._numbers = load_array(path, "numbers", mapped=False)
            self._offsets = load_array(path, "offsets", mapped=False)
            self._shard = shard
        row = int(np.searchsorted(self._numbers, number))
        assert self._numbers[row] == number, f"document {number} is no candidate"
        start, stop = int(self._offsets[row]), int(self._offsets[row + 1])
        return np.array(load_array(path, "hashes")[start:stop])


def verify(job: ShardJob) -> Counts:
    """Verify the candidate pairs whose smaller number lies in this shard.

    Writes the edges: pairs (E, 2) sorted, and their exact Jaccard indices (E,).
    """
    assert job.config.near
    parts = []
    for path in sorted(job.scratch.glob("pairs-*.npy")):
        pairs = np.load(path, mmap_mode="r", allow_pickle=False)
        low, high = np.searchsorted(pairs[:, 0], [job.start, job.stop])
        parts.append(np.array(pairs[low:high]))
    pairs = np.unique(np.concatenate(parts), axis=0)
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]  # by the far document: it is read once
    reader = SetReader(job.scratch)
    near = {number: reader.read(number) for number in np.unique(pairs[:, 0]).tolist()}
    similarity = np.empty(len(pairs))
    far_number, far = -1, np.empty(0, np.uint64)
    for row, (left, right) in enumerate(pairs.tolist()):
        if right != far_number:
            far_number, far = right, reader.read(right)
        similarity[row] = minhash.jaccard(near[left], far)
    alike = similarity >= job.config.near.threshold
    pairs, similarity = pairs[alike], similarity[alike]
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    save_arrays(job.scratch / f"edges-{job.index:05d}", pairs=pairs[order], jaccards=similarity[order])
    return Counts(notes={"candidate_pairs": len(alike), "near_duplicate_pairs": int(alike.sum())})


def read_edges(scratch: Path) -> Int64:
    """Return the verified pairs (E, 2) of the whole corpus."""
    parts = [np.load(path, allow_pickle=False) for path in sorted(scratch.glob("edges-*.pairs.npy"))]
    return np.concatenate(parts) if parts else np.empty((0, 2), np.int64)


def components(edges: Int64) -> list[list[int]]:
    """Return the connected components of a graph as ascending lists of numbers, ordered by their first.

    Union-find over the documents that have an edge, renumbered densely; the smaller root wins, so the result does not
    depend on the order of edges.
    """
    numbers, ends = np.unique(edges, return_inverse=True)
    parent = list(range(numbers.size))

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for left, right in ends.reshape(-1, 2).tolist():
        a, b = find(left), find(right)
        if a != b:
            parent[max(a, b)] = min(a, b)
    members: dict[int, list[int]] = {}
    for node, number in enumerate(numbers.tolist()):
        members.setdefault(find(node), []).append(number)
    return list(members.values())


def choose(component: Sequence[int], neighbours: dict[int, set[int]], rule: str) -> list[tuple[int, list[int]]]:
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
            dropped = sorted(neighbours[number] & rank.keys(), key=rank.__getitem__)
            for other in dropped:
                del rank[other]
            clusters.append((number, dropped))
    return [cluster for cluster in clusters if cluster[1]]


def neighbours_of(edges: Int64) -> dict[int, set[int]]:
    """Return each document's verified near-duplicates."""
    found: dict[int, set[int]] = {}
    for left, right in edges.tolist():
        found.setdefault(left, set()).add(right)
        found.setdefault(right, set()).add(left)
    return found


def find_clusters(
    near: NearConfig, keep: KeepConfig, jobs: list[ShardJob], scratch: Path
) -> list[tuple[int, list[int]]]:
    """Return the clusters of the corpus as (kept, dropped) numbers, by kept number."""
    edges = read_edges(scratch)
    keys = keys_of(np.unique(edges), jobs, scratch)
    neighbours = neighbours_of(edges)
    clusters: Clusters = []
    for component in components(edges):
        ordered = sorted(component, key=lambda number: keep_order(keys[number], keep))
        clusters += choose(ordered, neighbours, near.rule)
    return sorted(clusters)


def write_clusters(clusters: Clusters, jobs: list[ShardJob], scratch: Path, path: Path) -> None:
    """Write the clusters with the exact Jaccard index of each dropped document to the kept one."""
    numbers = np.array(sorted({n for kept, members in clusters for n in (kept, *members)}), np.int64)
    keys, reader = keys_of(numbers, jobs, scratch), SetReader(scratch)

    def place(number: int) -> str:
        return f"{keys[number]['repository']}/{keys[number]['path']}"

    def record(kept: int, members: list[int]) -> Cluster:
        own = reader.read(kept)
        alike = {number: minhash.jaccard(own, reader.read(number)) for number in members}
        ordered = sorted(members, key=lambda number: (-alike[number], number))
        return Cluster(
            id=keys[kept]["id"],
            kept=place(kept),
            members=tuple(keys[number]["id"] for number in ordered),
            paths=tuple(place(number) for number in ordered),
            jaccards=tuple(alike[number] for number in ordered),
        )

    write_records(path, (record(kept, members) for kept, members in clusters), Cluster)
