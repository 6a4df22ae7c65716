"""Held-out documents, chosen by a hash of their id: a document stays on its side when the corpus grows.

Each id has a place in [0, 1). A document is held out when its place is below `heldout_fraction`; a language that would
get fewer than `min_documents` that way gives the lowest `min_documents` of its places, but never more than half of its
documents. Equal ids are on one side; near-duplicates are expected to be gone (`dedup` runs before).

Output: `documents-*` (to train on) and `heldout-*`.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from codeflow.core.config import Config
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool

if TYPE_CHECKING:
    from codeflow.core.manifest import Counts, Manifest


class SplitConfig(Config):
    """How much is held out. Another `seed` chooses other documents."""

    heldout_fraction: float = Field(default=0.02, ge=0.0, lt=1.0)
    min_documents: int = Field(default=4, ge=0)  # held out per language
    seed: int = 0


@dataclass(frozen=True)
class SplitJob:
    """One shard, and below which place its documents are held out, by language."""

    index: int
    source: Path
    limits: tuple[tuple[str, float], ...]
    seed: int
    output: Path

    @property
    def name(self) -> str:
        return f"split-{self.index:05d}"


def place_of(document_id: str, seed: int) -> float:
    """Return the place of an id in [0, 1)."""
    value = int.from_bytes(hashlib.sha256(f"{seed}:{document_id}".encode()).digest()[:8], "big")
    return (value >> 11) / (1 << 53)


def limits_of(places: Mapping[str, list[float]], counts: Mapping[str, int], config: SplitConfig) -> dict[str, float]:
    """Return the limit of each language, given its count of documents and its lowest `min_documents` places, sorted."""
    limits = {}
    for language, n in sorted(counts.items()):
        n_least = min(config.min_documents, n // 2)
        lowest = places[language][n_least - 1] if n_least else 0.0
        least = lowest + 2.0**-53 if n_least else 0.0  # the limit is not included
        limits[language] = max(config.heldout_fraction if n > 1 else 0.0, least)
    return limits


def run(config: SplitConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Split `inputs["documents"]` into documents to train on and held-out ones."""
    from codeflow.core.manifest import require_kind, seal
    from codeflow.core.records import shards
    from codeflow.execute.shards import run_shards
    from codeflow.transform.fingerprints import is_small

    source = inputs["documents"]
    require_kind(source, ["documents"])
    paths = shards(source, "documents")
    limits = _survey(paths, config)
    jobs = [SplitJob(index, path, tuple(limits.items()), config.seed, output) for index, path in enumerate(paths)]
    counts = run_shards(split_shard, jobs, output, "split", pool, is_small(source))
    heldout = {name.removeprefix("heldout "): n for name, n in counts.notes.items() if name.startswith("heldout ")}
    return seal(output, counts, {"heldout_documents": heldout, "heldout_limits": limits})


def _survey(paths: list[Path], config: SplitConfig) -> dict[str, float]:
    """Read ids and languages once; hold per language a count and its lowest places."""
    import pyarrow.parquet as pq

    counts: dict[str, int] = {}
    heaps: dict[str, list[float]] = {}  # negated, so that the greatest of the lowest is on top
    for path in paths:
        table = pq.read_table(path, columns=["id", "language"])
        for document_id, language in zip(table["id"].to_pylist(), table["language"].to_pylist(), strict=True):
            counts[language] = counts.get(language, 0) + 1
            heap = heaps.setdefault(language, [])
            heapq.heappush(heap, -place_of(document_id, config.seed))
            if len(heap) > config.min_documents:
                heapq.heappop(heap)
    return limits_of({language: sorted(-p for p in heap) for language, heap in heaps.items()}, counts, config)


def split_shard(job: SplitJob) -> Counts:
    """Write the two sides of one shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from codeflow.core.manifest import Counts
    from codeflow.core.records import schema_of
    from codeflow.core.storage import atomic_path
    from codeflow.core.types import Document

    limits = dict(job.limits)
    n_read, notes = 0, {}
    train_path, heldout_path = (job.output / f"{name}-{job.index:05d}.parquet" for name in ("documents", "heldout"))
    with (
        atomic_path(train_path) as train_temporary,
        atomic_path(heldout_path) as heldout_temporary,
        pq.ParquetWriter(train_temporary, schema_of(Document), compression="zstd") as train_file,
        pq.ParquetWriter(heldout_temporary, schema_of(Document), compression="zstd") as heldout_file,
        pq.ParquetFile(job.source) as file,
    ):
        for batch in file.iter_batches(batch_size=1024):
            here = batch.cast(schema_of(Document))
            languages = here.column("language").to_pylist()
            places = [place_of(document_id, job.seed) for document_id in here.column("id").to_pylist()]
            rows = [place < limits[language] for place, language in zip(places, languages, strict=True)]
            train_file.write_batch(here.filter(pa.array([not row for row in rows], pa.bool_())))
            heldout_file.write_batch(here.filter(pa.array(rows, pa.bool_())))
            n_read += len(rows)
            for language, row in zip(languages, rows, strict=True):
                if row:
                    notes[f"heldout {language}"] = notes.get(f"heldout {language}", 0) + 1
    return Counts(read=n_read, kept=n_read, notes={"heldout": sum(notes.values()), **notes})
