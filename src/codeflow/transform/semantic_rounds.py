"""Which documents stay, decided over clusters that share documents and that no process sees together.

A document stays when none that stays and comes before it in keep order is its neighbour in a common cluster. That is
one walk through the corpus in keep order; here it is done in rounds over clusters, each on its own:

    free      nothing undecided or kept before it is its neighbour here
    held up   an undecided one is
    dropped   a kept one is

After a round, a document that is dropped anywhere is dropped, one that is free everywhere is kept, and the others wait
for the next round. The first undecided one in keep order is always decided, so the rounds end; the outcome is the
walk's.

Files in the scratch folder, by part (some clusters) or by range of document numbers:

    ordered-PPPPP    members (R,) of the part's clusters one behind the other, each in keep order; starts (C + 1,);
                     vectors (R, d), read by mapping
    decide-RRR-PPPPP what a round says of each undecided member: numbers, ascending, and verdicts
    states-RRR-NNNNN what is known of the documents of a range before round R
    named-PPPPP      of each dropped member its most similar kept predecessor: numbers, ascending, kept, cosines
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codeflow.core.manifest import Counts
from codeflow.core.storage import atomic_path
from codeflow.transform.fingerprints import Int64, UInt8, array_path, keep_order, keys_of, load_array, save_arrays
from codeflow.transform.semantic_dedup import REASON
from codeflow.transform.vectors import VectorReader

if TYPE_CHECKING:
    from codeflow.transform.dedup import KeepConfig
    from codeflow.transform.fingerprints import ShardJob
    from codeflow.transform.spill import Spill
    from codeflow.transform.vectors import Vectors

UNDECIDED, KEPT, DROPPED = 0, 1, 2  # states
FREE, HELD_UP, FALLEN = 1, 2, 3  # verdicts of a cluster; the greatest counts
_ROWS = 512
_COLUMNS = 8192
_COPIED_BYTES = 2**24  # of vectors, at a time
_ROUNDING = 1e-6  # of a cosine of float32 vectors: equal ones may have one just below 1


@dataclass(frozen=True)
class OrderJob:
    """One part of the assigned documents, to be put in order."""

    part: int
    assigned: Spill  # rows: cluster, document number
    shards: tuple[ShardJob, ...]
    keep: KeepConfig
    scratch: Path

    @property
    def name(self) -> str:
        return f"order-{self.part:05d}"


@dataclass(frozen=True)
class RoundJob:
    """The clusters of one part in one round."""

    step: str  # "decide", or "name" after the last round
    round: int
    part: int
    threshold: float
    alone: bool  # every document is in one cluster: what is free there stays
    width: int  # document numbers of a range
    scratch: Path

    @property
    def name(self) -> str:
        return f"{self.step}-{self.round:03d}-{self.part:05d}"


def order(job: OrderJob) -> Counts:
    """Write the members of each cluster of a part in keep order, and their vectors."""
    rows = job.assigned.read(job.part)
    keys = keys_of(np.unique(rows[:, 1]), job.scratch)
    numbers = np.array(sorted(keys, key=lambda number: keep_order(keys[number], job.keep)), np.int64)
    by_number = np.argsort(numbers)
    ranks = by_number[np.searchsorted(numbers[by_number], rows[:, 1])]
    rows = rows[np.lexsort((ranks, rows[:, 0]))]
    members = np.ascontiguousarray(rows[:, 1])
    starts = np.flatnonzero(np.append(True, rows[1:, 0] != rows[:-1, 0]))
    path = job.scratch / f"ordered-{job.part:05d}"
    reader = VectorReader(job.shards)
    at_once = max(1, _COPIED_BYTES // (4 * max(1, reader.dim)))
    with atomic_path(array_path(path, "vectors")) as temporary:
        shape = (members.size, reader.dim)
        vectors = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        for low in range(0, members.size, at_once):
            vectors[low : low + at_once] = reader.read(members[low : low + at_once])
        vectors.flush()
        del vectors
    save_arrays(path, members=members, starts=np.append(starts, members.size))
    return Counts(read=members.size, kept=members.size)


def decide(job: RoundJob) -> Counts:
    """Write the verdicts of one round on the undecided members of a part."""
    numbers, verdicts = [np.empty(0, np.int64)], [np.empty(0, np.uint8)]
    for members, vectors, states in _clusters(job):
        undecided = states == UNDECIDED
        if undecided.any():
            found = judged(vectors, states, job.threshold, job.alone)
            numbers.append(members[undecided])
            verdicts.append(found[undecided])
    every = np.concatenate(verdicts)
    _save_by_number(job.scratch / job.name, np.concatenate(numbers), verdicts=every)
    n_fallen = int((every == FALLEN).sum())
    return Counts(read=every.size, kept=every.size - n_fallen, dropped={REASON: n_fallen} if n_fallen else {})


def name(job: RoundJob) -> Counts:
    """Write the most similar kept predecessor of each dropped member of a part, where its cluster has one."""
    numbers, kept, cosines = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for members, vectors, states in _clusters(job):
        rows, places, values = favoured(vectors, states)
        numbers.append(members[rows])
        kept.append(members[places])
        cosines.append(values)
    _save_by_number(
        job.scratch / job.name, np.concatenate(numbers), kept=np.concatenate(kept), cosines=np.concatenate(cosines)
    )
    n_named = sum(map(len, numbers))
    return Counts(read=n_named, kept=n_named)


def _clusters(job: RoundJob) -> Iterator[tuple[Int64, Vectors, UInt8]]:
    """Yield members in keep order, their vectors (mapped) and states before this round, of each cluster of a part."""
    path = job.scratch / f"ordered-{job.part:05d}"
    members, starts = (load_array(path, array, mapped=False) for array in ("members", "starts"))
    states = _states_of(members, job)
    for low, high in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        yield members[low:high], load_array(path, "vectors")[low:high], states[low:high]


def _states_of(numbers: Int64, job: RoundJob) -> UInt8:
    """Return the states of some documents before a round."""
    states = np.full(numbers.size, UNDECIDED, np.uint8)
    if job.round:
        ranges = numbers // job.width
        for index in np.unique(ranges).tolist():
            here = ranges == index
            known = load_array(_states_path(job.scratch, job.round, index), "states")
            states[here] = known[numbers[here] - index * job.width]
    return states


def _states_path(scratch: Path, number: int, index: int) -> Path:
    return scratch / f"states-{number:03d}-{index:05d}"


def _save_by_number(path: Path, numbers: Int64, **arrays: npt.NDArray[Any]) -> None:
    by_number = np.argsort(numbers, kind="stable")
    save_arrays(path, numbers=numbers[by_number], **{key: array[by_number] for key, array in arrays.items()})


def judged(vectors: Vectors, states: UInt8, threshold: float, alone: bool) -> UInt8:
    """Return the verdicts (m,) on the undecided of vectors (m, d) in keep order; those on others mean nothing."""
    verdicts = np.full(len(vectors), FREE, np.uint8)
    kept, waiting = states == KEPT, np.zeros(len(vectors), bool)  # waiting: undecided, and looked at already
    undecided = np.flatnonzero(states == UNDECIDED)
    for start in range(0, undecided.size, _ROWS):
        rows = undecided[start : start + _ROWS]
        block = np.asarray(vectors[rows])
        by_kept, by_waiting = np.zeros(rows.size, bool), np.zeros(rows.size, bool)
        for columns in _columns(kept | waiting, int(rows[-1])):
            hits = block @ vectors[columns].T >= threshold - _ROUNDING
            hits &= columns < rows[:, None]
            by_kept |= hits[:, kept[columns]].any(axis=1)
            by_waiting |= hits[:, ~kept[columns]].any(axis=1)
        inside = np.tril(block @ block.T >= threshold - _ROUNDING, -1)
        waiting[rows] = True
        for at in np.flatnonzero(by_kept | by_waiting | inside.any(axis=1) | alone).tolist():
            before = rows[inside[at]]
            if by_kept[at] or kept[before].any():
                verdicts[rows[at]], waiting[rows[at]] = FALLEN, False
            elif by_waiting[at] or waiting[before].any():
                verdicts[rows[at]] = HELD_UP
            elif alone:
                kept[rows[at]], waiting[rows[at]] = True, False
    return verdicts


def favoured(vectors: Vectors, states: UInt8) -> tuple[Int64, Int64, npt.NDArray[np.float32]]:
    """Return (places of dropped ones, of the kept predecessor most similar to each, cosines) of vectors in keep order.

    Of equally similar ones it is the first. A dropped one without a kept predecessor is left out.
    """
    dropped, kept = np.flatnonzero(states == DROPPED), states == KEPT
    best, where = np.full(dropped.size, -2.0, np.float32), np.zeros(dropped.size, np.int64)
    for start in range(0, dropped.size, _ROWS):
        rows = dropped[start : start + _ROWS]
        block = np.asarray(vectors[rows])
        for columns in _columns(kept, int(rows[-1])):
            cosines = np.where(columns < rows[:, None], block @ vectors[columns].T, -2.0)
            at = cosines.argmax(axis=1)
            value = cosines[np.arange(rows.size), at]
            better = value > best[start : start + _ROWS]
            best[start : start + _ROWS][better] = value[better]
            where[start : start + _ROWS][better] = columns[at[better]]
    found = best > -2.0
    return dropped[found], where[found], np.minimum(best[found], 1.0)


def _columns(chosen: npt.NDArray[np.bool_], stop: int) -> Iterator[Int64]:
    """Yield the chosen places before `stop`, some at a time."""
    places = np.flatnonzero(chosen[:stop])
    for low in range(0, places.size, _COLUMNS):
        yield places[low : low + _COLUMNS]


def advance(scratch: Path, number: int, parts: Sequence[int], n_documents: int, width: int) -> list[int]:
    """Write the states after a round from the verdicts of `parts`; return the parts that hold undecided documents.

    What a part of an earlier round has decided is in the states before this one.
    """
    waiting: set[int] = set()
    for index, start in enumerate(range(0, n_documents, width)):
        before = _states_path(scratch, number, index)
        n = min(width, n_documents - start)
        known = load_array(before, "states", mapped=False) if number else np.full(n, UNDECIDED, np.uint8)
        worst = np.zeros(n, np.uint8)
        pieces = {part: _piece(scratch / f"decide-{number:03d}-{part:05d}", start, start + width) for part in parts}
        for numbers, verdicts in pieces.values():
            np.maximum.at(worst, numbers - start, verdicts)
        known[worst == FREE] = KEPT
        known[worst == FALLEN] = DROPPED
        save_arrays(_states_path(scratch, number + 1, index), states=known)
        waiting.update(part for part, (numbers, _) in pieces.items() if (known[numbers - start] == UNDECIDED).any())
    return sorted(waiting)


def _piece(path: Path, start: int, stop: int, *columns: str) -> tuple[npt.NDArray[Any], ...]:
    """Return the numbers in [start, stop) of a part's file and what it says of them."""
    numbers = load_array(path, "numbers")
    low, high = np.searchsorted(numbers, [start, stop])
    return tuple(np.array(load_array(path, column)[low:high]) for column in ("numbers", *(columns or ("verdicts",))))


def gather_names(jobs: Sequence[RoundJob], n_documents: int, width: int, target: Spill) -> None:
    """Add rows (kept, dropped, bits of the cosine) to `target`: of each dropped document the most similar kept one."""
    for start in range(0, n_documents, width):
        pieces = [_piece(job.scratch / job.name, start, start + width, "kept", "cosines") for job in jobs]
        numbers, kept, cosines = (np.concatenate(column) for column in zip(*pieces, strict=True))
        best = np.lexsort((kept, -cosines, numbers))
        first = best[np.flatnonzero(np.append(True, np.diff(numbers[best]) != 0))] if best.size else best
        if first.size:
            bits = cosines[first].astype(np.float64).view(np.int64)
            target.add(np.column_stack([kept[first], numbers[first], bits]))
