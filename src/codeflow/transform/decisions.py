"""From duplicates to decisions, and from decisions to kept and dropped documents.

`decisions.parquet` in the scratch folder has one row per dropped document: number, reason, and the id of the document
that was kept instead; sorted by number, so that a shard reads its own rows only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from codeflow.core.manifest import Counts
from codeflow.core.records import schema_of
from codeflow.core.storage import atomic_path
from codeflow.core.types import Document, DroppedDocument
from codeflow.transform.fingerprints import ROWS_PER_GROUP, Int64, ShardJob, keys_of, load_array, save_arrays

EXACT, WHITE_SPACE, NEAR = "exact_duplicate", "white_space_duplicate", "near_duplicate"
_OPERATORS = {EXACT: "exact_dedup", WHITE_SPACE: "exact_dedup", NEAR: "near_dedup"}
_SCHEMA = pa.schema([("number", pa.int64()), ("reason", pa.string()), ("kept", pa.string())])


def write_dropped(scratch: Path) -> None:
    """Gather the numbers dropped as equal, sorted (8 bytes each), for the steps that look at the others."""
    dropped, _, _ = _exact_drops(scratch)
    save_arrays(scratch / "dropped", numbers=dropped)


def _exact_drops(scratch: Path) -> tuple[Int64, Int64, Any]:
    stems = sorted(path.name.removesuffix(".dropped.npy") for path in scratch.glob("drops-*.dropped.npy"))
    if not stems:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, bool)
    dropped, kept, same = (
        np.concatenate([load_array(scratch / stem, name, mapped=False) for stem in stems])
        for name in ("dropped", "kept", "same_bytes")
    )
    order = np.argsort(dropped, kind="stable")
    return dropped[order], kept[order], same[order]


def write_decisions(clusters: list[tuple[int, list[int]]], jobs: list[ShardJob], scratch: Path) -> None:
    """Write the decision on every duplicate, given the (kept, dropped) numbers of near-duplicates.

    Equal documents whose best one fell to a near-duplicate are dropped in favour of that one.
    """
    dropped, kept, same = _exact_drops(scratch)
    favoured = {number: best for best, members in clusters for number in members}
    final = np.array([favoured.get(number, number) for number in kept.tolist()], np.int64)
    near_numbers = np.array(sorted(favoured), np.int64)
    near_kept = np.array([favoured[number] for number in near_numbers.tolist()], np.int64)
    keys = keys_of(np.union1d(final, near_kept), jobs, scratch)
    reasons = [EXACT if s else WHITE_SPACE for s in same.tolist()] + [NEAR] * len(near_numbers)
    ids = [keys[number]["id"] for number in [*final.tolist(), *near_kept.tolist()]]
    columns = [pa.array(np.concatenate([dropped, near_numbers]), pa.int64()), pa.array(reasons, pa.string())]
    table = pa.Table.from_arrays([*columns, pa.array(ids, pa.string())], schema=_SCHEMA).sort_by("number")
    with atomic_path(scratch / "decisions.parquet") as temporary:
        pq.write_table(table, temporary, row_group_size=16_384)


def write_shard(job: ShardJob) -> Counts:
    """Write the kept and the dropped documents of one shard (pass 2 over the texts)."""
    inside = (pc.field("number") >= job.start) & (pc.field("number") < job.stop)
    decisions = pq.read_table(job.scratch / "decisions.parquet", filters=inside)
    kept_path, dropped_path = (job.output / f"{name}-{job.index:05d}.parquet" for name in ("documents", "dropped"))
    n_read, reasons = 0, decisions["reason"].to_pylist()
    with (
        atomic_path(kept_path) as kept_temporary,
        atomic_path(dropped_path) as dropped_temporary,
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
                dropped_file.write_table(_dropped_table(here.filter(pa.array(rows)), doomed))
    dropped = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    return Counts(read=n_read, kept=n_read - len(reasons), dropped=dropped)


def _dropped_table(documents: Any, doomed: Any) -> Any:
    """Return the rows of DroppedDocument for some documents and their decisions, both in order of number."""
    schema = schema_of(DroppedDocument)
    reasons = doomed["reason"].to_pylist()
    columns = [
        documents.to_struct_array().cast(schema.field("document").type),
        pa.array([_OPERATORS[reason] for reason in reasons], pa.string()),
        pa.array(reasons, pa.string()),
        pa.array(doomed["kept"].to_pylist(), pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=schema)
