"""Nearly equal documents: MinHash-LSH for candidates, the exact Jaccard index for the verdict.

Memory: a band partition holds `partition_entries` keys (16 bytes each) and their pairs; a verifying process holds the
shingle sets of the candidates of one shard plus one other document. Nothing spans the corpus. What becomes of the
verified pairs is in `clusters`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codeflow.core.manifest import Counts
from codeflow.transform import minhash
from codeflow.transform.decisions import DroppedReader
from codeflow.transform.dedup import NearConfig
from codeflow.transform.fingerprints import (
    Int64,
    ShardJob,
    load_array,
    save_arrays,
    text_batches,
)
from codeflow.transform.spill import distinct_rows

_HASHES = 1 << 64


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
    """Write the candidate pairs (P, 2) of some bands and one range of keys, sorted, smaller number first.

    The distinct greater numbers (R,) of the pairs are written beside them, so that a shard finds its own quickly.
    """
    found = [_pairs_of_band(job, band) for band in range(job.first, job.last)]
    pairs = distinct_rows(np.concatenate([pairs for pairs, _, _ in found]))
    save_arrays(job.scratch / job.name, pairs=pairs, greater=np.unique(pairs[:, 1]))
    n_crowded, n_keys = sum(n for _, n, _ in found), sum(n for _, _, n in found)
    return Counts(read=n_keys, kept=n_keys, notes={"crowded_buckets": n_crowded} if n_crowded else {})


def _pairs_of_band(job: BandJob, band: int) -> tuple[Int64, int, int]:
    """Return (pairs, crowded buckets, keys read)."""
    dropped = DroppedReader(job.scratch)
    low = np.uint64(job.part * _HASHES // job.parts)
    high = np.uint64((job.part + 1) * _HASHES // job.parts - 1)
    keys, numbers = [], []
    for path in sorted(job.scratch.glob("bands-*.keys.npy")):
        stem = path.with_name(path.name.removesuffix(".keys.npy"))
        row = load_array(stem, "keys")[band]
        first, last = np.searchsorted(row, low, "left"), np.searchsorted(row, high, "right")
        found = np.array(load_array(stem, "numbers")[band, first:last])
        here = ~dropped.contains(found)
        keys.append(np.array(row[first:last])[here])
        numbers.append(found[here])
    return *bucket_pairs(np.concatenate(keys), np.concatenate(numbers), job.reach), sum(map(len, keys))


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
    return distinct_rows(pairs), int(crowded.sum())


def count_pairs(scratch: Path) -> int:
    """Return the number of candidate pairs, those of several bands counted several times; reads no array."""
    return sum(len(np.load(path, mmap_mode="r", allow_pickle=False)) for path in scratch.glob("pairs-*.pairs.npy"))


def _candidates_of(job: ShardJob) -> Int64:
    """Return the sorted numbers of the shard's documents that stand in a candidate pair."""
    parts = [np.empty(0, np.int64)]
    for path in sorted(job.scratch.glob("pairs-*.pairs.npy")):
        lesser = np.load(path, mmap_mode="r", allow_pickle=False)[:, 0]
        greater = load_array(path.with_name(path.name.removesuffix(".pairs.npy")), "greater")
        for numbers in (lesser, greater):
            low, high = np.searchsorted(numbers, [job.start, job.stop])
            parts.append(np.unique(numbers[low:high]))
    return np.unique(np.concatenate(parts))


def write_sets(job: ShardJob) -> Counts:
    """Write the shingle sets of the shard's candidates: numbers (C,), offsets (C + 1,), hashes (sum of sizes,)."""
    assert job.config.near
    numbers = _candidates_of(job)
    path = job.scratch / f"sets-{job.index:05d}"
    sets = list(_sets(job, numbers, job.config.near.n_tokens))
    offsets = np.cumsum([0, *(s.size for s in sets)], dtype=np.int64)
    hashes = np.concatenate(sets) if sets else np.empty(0, np.uint64)
    save_arrays(path, numbers=numbers, offsets=offsets, hashes=hashes)
    return Counts(read=len(numbers), kept=len(numbers))


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
    for path in sorted(job.scratch.glob("pairs-*.pairs.npy")):
        pairs = np.load(path, mmap_mode="r", allow_pickle=False)
        low, high = np.searchsorted(pairs[:, 0], [job.start, job.stop])
        parts.append(np.array(pairs[low:high]))
    pairs = distinct_rows(np.concatenate(parts))
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
    n_read, n_alike = len(alike), int(alike.sum())
    return Counts(
        read=n_read,
        kept=n_alike,
        dropped={"below_threshold": n_read - n_alike} if n_read > n_alike else {},
        notes={"candidate_pairs": n_read, "near_duplicate_pairs": n_alike},
    )
