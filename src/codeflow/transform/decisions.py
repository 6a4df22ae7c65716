"""From duplicates to decisions, and from decisions to kept and dropped documents.

`decisions-NNNNN.parquet` in the scratch folder have one row per dropped document of a range of numbers: number, reason,
and the id and repository of the document that was kept instead; sorted by number, so that a shard reads its own rows
only. One range's rows are held at a time.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from codeflow.core.manifest import Counts
from codeflow.core.records import schema_of
from codeflow.core.storage import atomic_path, atomic_paths
from codeflow.core.types import Document, DroppedDocument
from codeflow.transform.components import roots_of
from codeflow.transform.fingerprints import (
    ROWS_PER_GROUP,
    Int64,
    ShardJob,
    array_path,
    key_tables,
    load_array,
    save_arrays,
)
from codeflow.transform.forks import origins_of
from codeflow.transform.spill import Spill

EXACT, WHITE_SPACE, NEAR = "exact_duplicate", "white_space_duplicate", "near_duplicate"
_REASONS = (EXACT, WHITE_SPACE, NEAR)
_OPERATORS = {
    EXACT: "exact_dedup",
    WHITE_SPACE: "exact_dedup",
    NEAR: "near_dedup",
    "semantic_duplicate": "semantic_dedup",
}
FORK = "fork_"  # before the reason of a fork's copy
_SCHEMA = pa.schema(
    [("number", pa.int64()), ("reason", pa.string()), ("kept", pa.string()), ("repository", pa.string())]
)


def write_dropped(scratch: Path, width: int) -> None:
    """Gather the documents dropped as equal: rows (number, kept, same bytes), and their sorted numbers per part."""
    spill = _equal(scratch, width).create()
    for path in sorted(scratch.glob("drops-*.dropped.npy")):
        stem = path.with_name(path.name.removesuffix(".dropped.npy"))
        spill.add(np.column_stack([load_array(stem, name) for name in ("dropped", "kept", "same_bytes")]))
    for part in spill.parts():
        save_arrays(scratch / f"dropped-{part:05d}", numbers=np.sort(spill.read(part)[:, 0]))
    save_arrays(scratch / "width", width=np.array(width))


def _equal(scratch: Path, width: int) -> Spill:
    return Spill(scratch / "equal", 3, width)


class DroppedReader:
    """Tells which documents were dropped as equal. Holds the numbers of one part at a time."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._width = int(load_array(scratch / "width", "width", mapped=False))
        self._part = -1
        self._numbers = np.empty(0, np.int64)

    def contains(self, numbers: Int64) -> npt.NDArray[np.bool_]:
        """Return whether each of `numbers`, in any order, was dropped."""
        found = np.zeros(numbers.size, bool)
        if numbers.size == 0:
            return found
        parts = numbers // self._width
        for part in range(int(parts.min()), int(parts.max()) + 1):
            dropped = self._of(part)
            if dropped.size:
                here = np.flatnonzero(parts == part)
                at = np.minimum(np.searchsorted(dropped, numbers[here]), dropped.size - 1)
                found[here] = dropped[at] == numbers[here]
        return found

    def _of(self, part: int) -> Int64:
        if part != self._part:
            stem = self._scratch / f"dropped-{part:05d}"
            exists = array_path(stem, "numbers").exists()
            self._numbers = load_array(stem, "numbers", mapped=False) if exists else np.empty(0, np.int64)
            self._part = part
        return self._numbers


def write_decisions(scratch: Path, width: int) -> None:
    """Write the decision on every duplicate, one file per part of the numbers.

    Equal documents whose best one fell to a near-duplicate are dropped in favour of that one. Rows travel from the part
    of the dropped document to that of the kept one, where its id is known, and back.
    """
    near = Spill(scratch / "near", 2, width).create()  # dropped, kept
    for path in sorted(scratch.glob("clusters-*.dropped.npy")):
        stem = path.with_name(path.name.removesuffix(".dropped.npy"))
        near.add(np.column_stack([load_array(stem, "dropped"), load_array(stem, "kept")]))
    equal = Spill(scratch / "equal-by-kept", 3, width).create()  # kept, dropped, same bytes
    for part in _equal(scratch, width).parts():
        for rows in _equal(scratch, width).chunks(part):
            equal.add(rows[:, [1, 0, 2]])
    final = Spill(scratch / "by-kept", 3, width).create()  # kept, dropped, reason
    for part in sorted({*near.parts(), *equal.parts()}):
        favoured = roots_of(part, near)
        for rows in equal.chunks(part):
            reasons = np.where(rows[:, 2] == 1, _REASONS.index(EXACT), _REASONS.index(WHITE_SPACE))
            final.add(np.column_stack([favoured[rows[:, 0] - part * width], rows[:, 1], reasons]))
        for rows in near.chunks(part):
            final.add(np.column_stack([rows[:, ::-1], np.full(len(rows), _REASONS.index(NEAR))]))
    folder = scratch / "by-dropped"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for part in final.parts():
        for target, table in _with_ids(final.read(part), width, scratch):
            with open(folder / f"{target:05d}.arrow", "ab") as file, pa.ipc.new_stream(file, _SCHEMA) as stream:
                stream.write_table(table)
    for path in sorted(folder.glob("*.arrow")):
        with atomic_path(scratch / f"decisions-{path.stem}.parquet") as temporary:
            pq.write_table(_streams(path).sort_by("number"), temporary, row_group_size=16_384)


def decision_table(rows: list[tuple[int, str, str]]) -> Any:
    """Return rows (number, reason, detail: what was kept instead) as a table of decisions."""
    columns = [*map(list, zip(*rows, strict=True)), [""] * len(rows)] if rows else [[], [], [], []]
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA)


def _with_ids(rows: Int64, width: int, scratch: Path) -> Iterator[tuple[int, Any]]:
    """Yield (part of the dropped, table of decisions) for rows (kept, dropped, reason) of one part of the kept."""
    kept = np.unique(rows[:, 0])
    tables = list(key_tables(kept, scratch, ("number", "id", "repository")))
    keys = pa.concat_tables(tables).sort_by("number")
    ids, repositories = (keys[name].combine_chunks() for name in ("id", "repository"))
    names = pa.array(_REASONS)
    parts = rows[:, 1] // width
    for target in np.unique(parts).tolist():
        here = rows[parts == target]
        at = pa.array(np.searchsorted(kept, here[:, 0]))
        columns = [pa.array(here[:, 1]), names.take(pa.array(here[:, 2])), ids.take(at), repositories.take(at)]
        yield target, pa.Table.from_arrays(columns, schema=_SCHEMA)


def _streams(path: Path) -> Any:
    """Return the tables of a file that holds one Arrow stream behind another."""
    tables = []
    with pa.OSFile(str(path)) as file:
        while file.tell() < file.size():
            tables.append(pa.ipc.open_stream(file).read_all())
    return pa.concat_tables(tables)


def _decisions_of(job: ShardJob) -> Any:
    """Return the decisions on a shard's documents, by number."""
    inside = (pc.field("number") >= job.start) & (pc.field("number") < job.stop)
    width = job.config.partition_documents
    parts = range(job.start // width, max(job.start, job.stop - 1) // width + 1)
    paths = [job.scratch / f"decisions-{part:05d}.parquet" for part in parts]
    return pa.concat_tables(
        [_SCHEMA.empty_table(), *(pq.read_table(path, filters=inside) for path in paths if path.exists())]
    )


def write_shard(job: ShardJob) -> Counts:
    """Write the kept and the dropped documents of one shard (pass 2 over the texts)."""
    decisions = _decisions_of(job)
    kept_path, dropped_path = (job.output / f"{name}-{job.index:05d}.parquet" for name in ("documents", "dropped"))
    origins = origins_of(job.scratch)
    n_read, dropped = 0, Counter[str]()
    with (
        atomic_paths([kept_path, dropped_path]) as (kept_temporary, dropped_temporary),
        pq.ParquetWriter(kept_temporary, schema_of(Document), compression="zstd") as kept_file,
        pq.ParquetWriter(dropped_temporary, schema_of(DroppedDocument), compression="zstd") as dropped_file,
        pq.ParquetFile(job.source) as file,
    ):
        for batch in file.iter_batches(batch_size=ROWS_PER_GROUP):
            here = batch.cast(schema_of(Document))
            numbers = np.arange(job.start + n_read, job.start + n_read + len(here))
            n_read += len(here)
            low, high = np.searchsorted(decisions["number"].to_numpy(), [numbers[0], numbers[-1] + 1])
            doomed = decisions.slice(low, high - low)
            rows = np.zeros(len(here), bool)
            rows[doomed["number"].to_numpy() - numbers[0]] = True
            kept_file.write_batch(here.filter(pa.array(~rows)))
            if doomed.num_rows:
                table = _dropped_table(here.filter(pa.array(rows)), doomed, origins)
                dropped.update(table["reason"].to_pylist())
                dropped_file.write_table(table)
    return Counts(read=n_read, kept=n_read - dropped.total(), dropped=dict(sorted(dropped.items())))


def _dropped_table(documents: Any, doomed: Any, origins: Mapping[str, str]) -> Any:
    """Return the rows of DroppedDocument for some documents and their decisions, both in order of number.

    A fork's copy of what its own family keeps elsewhere has a reason of its own, and names the family's origin.
    """
    schema = schema_of(DroppedDocument)
    reasons, details = doomed["reason"].to_pylist(), doomed["kept"].to_pylist()
    repositories = documents.column("origin").field("repository").to_pylist() if origins else []
    shown = list(reasons)
    for at, (own, other) in enumerate(
        zip(repositories, doomed["repository"].to_pylist() if origins else [], strict=True)
    ):
        if own in origins and own != other and origins.get(other, other) == origins[own]:
            shown[at], details[at] = FORK + reasons[at], f"{details[at]} fork of {origins[own]}"
    columns = [
        documents.to_struct_array().cast(schema.field("document").type),
        pa.array([_OPERATORS[reason] for reason in reasons], pa.string()),
        pa.array(shown, pa.string()),
        pa.array(details, pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=schema)
