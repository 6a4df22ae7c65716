"""Equal documents: by their bytes, and by their bytes without white space.

The digests of all shards are split by ranges of their first 64 bits; a process holds one range's hashes (8 bytes a
document) and the keys of the documents whose hash occurs twice. In each group of equal digests the keep rule names one;
the others are dropped as `exact_duplicate` when their bytes equal the kept one's, else as `white_space_duplicate`.
"""

from __future__ import annotations

import itertools
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from codeflow.core.manifest import Counts
from codeflow.transform.decisions import EXACT, WHITE_SPACE
from codeflow.transform.dedup import KeepConfig
from codeflow.transform.fingerprints import keep_order, save_arrays
from codeflow.transform.forks import origins_of

_HASHES = 1 << 64


@dataclass(frozen=True)
class GroupJob:
    """One range of hashes, the `part`-th of `parts` equal ones."""

    part: int
    parts: int
    keep: KeepConfig
    scratch: Path

    @property
    def name(self) -> str:
        return f"exact-{self.part:05d}"


def group_jobs(n_documents: int, partition_documents: int, keep: KeepConfig, scratch: Path) -> list[GroupJob]:
    """Split the hashes so that each job sees about `partition_documents` of them."""
    parts = max(1, -(-n_documents // partition_documents))
    return [GroupJob(part, parts, keep, scratch) for part in range(parts)]


def group(job: GroupJob) -> Counts:
    """Write the drops of one range of hashes: arrays dropped, kept (numbers) and same_bytes, sorted by `dropped`."""
    low, high = job.part * _HASHES // job.parts, (job.part + 1) * _HASHES // job.parts - 1
    inside = (pc.field("hash") >= pa.scalar(low, pa.uint64())) & (pc.field("hash") <= pa.scalar(high, pa.uint64()))
    paths = sorted(job.scratch.glob("keys-*.parquet"))
    hashes = [pq.read_table(path, columns=["hash"], filters=inside)["hash"].to_numpy() for path in paths]
    distinct, counts = np.unique(np.concatenate(hashes), return_counts=True)
    repeated = distinct[counts > 1]
    rows: list[dict[str, Any]] = []
    for path in paths if repeated.size else []:
        table = pq.read_table(path, filters=inside)
        rows += table.filter(pa.array(np.isin(table["hash"].to_numpy(), repeated))).to_pylist()
    drops = sorted(_drops(rows, job.keep, origins_of(job.scratch)))
    save_arrays(
        job.scratch / f"drops-{job.part:05d}",
        dropped=np.array([d for d, _, _ in drops], np.int64),
        kept=np.array([k for _, k, _ in drops], np.int64),
        same_bytes=np.array([s for _, _, s in drops], bool),
    )
    n_read, n_same = sum(map(len, hashes)), sum(same for _, _, same in drops)
    reasons = {EXACT: n_same, WHITE_SPACE: len(drops) - n_same}
    return Counts(read=n_read, kept=n_read - len(drops), dropped={reason: n for reason, n in reasons.items() if n})


def _drops(rows: list[dict[str, Any]], keep: KeepConfig, forks: Container[str] = ()) -> list[tuple[int, int, bool]]:
    drops: list[tuple[int, int, bool]] = []
    rows.sort(key=lambda row: (row["normal"], keep_order(row, keep, forks)))
    for _, alike in itertools.groupby(rows, key=lambda row: row["normal"]):
        kept, *others = alike
        drops += [(row["number"], kept["number"], row["exact"] == kept["exact"]) for row in others]
    return drops
