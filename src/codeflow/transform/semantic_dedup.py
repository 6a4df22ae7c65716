"""Documents that mean the same in other words: neighbours by embedding (SemDeDup: Abbas et al., 2023).

    sign      per shard      keep keys of each document
    embed     per shard      texts -> vectors                                    (pass 1 over texts)
    k-means   on a sample    vectors -> centroids, about one for `cluster_documents` documents
    assign    per shard      each document -> its nearest centroid
    compare   per part       within each cluster: who is a neighbour of a document that stays
    write     per shard      documents and dropped documents                      (pass 2 over texts)

Within a cluster documents are taken in keep order. One is dropped when the cosine with a document already kept is
`threshold` or more; its neighbour is the most similar of those. So every dropped document has a kept neighbour, and
chains drop nothing else. Documents in different clusters are never compared, which is what makes this possible at all:
near the border between two clusters neighbours are missed.

A process holds the vectors of one cluster and the texts of one row group. Vectors lie in files (4 d bytes a document).
Output: `documents-*`, `dropped-*` (detail: the neighbour's id and the cosine) and `clusters-*` (`SemanticCluster`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from codeflow.core.config import Config
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool
from codeflow.transform.dedup import DedupConfig, KeepConfig
from codeflow.transform.embedding import MINILM

if TYPE_CHECKING:
    from codeflow.core.manifest import Counts, Manifest
    from codeflow.transform.fingerprints import ShardJob
    from codeflow.transform.spill import Spill
    from codeflow.transform.vectors import Vectors

REASON = "semantic_duplicate"
_PART_DOCUMENTS = 20_000  # about so many are compared by one job
_BLOCK = 512
_COLUMNS = 8192
_ROUNDING = 1e-6  # of a cosine of float32 vectors: equal ones may have one just below 1


class SemanticDedupConfig(Config):
    """What counts as the same meaning, and which one stays."""

    encoder: str = MINILM  # module:name of an encoder; see transform/embedding.py
    threshold: float = Field(default=0.9, gt=0.0, le=1.0)  # cosine
    keep: KeepConfig = KeepConfig()
    cluster_documents: int = Field(default=1000, ge=1)  # of a cluster, on average; twice as many take twice the time
    sample_documents: int = Field(default=100_000, ge=1)  # that k-means is trained on at most
    iterations: int = Field(default=20, ge=1, le=1000)
    seed: int = Field(default=0, ge=0, lt=2**31)
    partition_documents: int = Field(default=500_000, ge=1)  # decisions held at a time


@dataclass(frozen=True, slots=True)
class SemanticCluster:
    """One kept document and those dropped in its favour."""

    id: str  # of the kept document
    kept: str  # "repository/path" of the kept document
    members: tuple[str, ...]  # ids of the dropped documents, the most similar first
    paths: tuple[str, ...]  # "repository/path" of each
    similarities: tuple[float, ...]  # cosine with the kept document


@dataclass(frozen=True)
class EmbedJob:
    """One shard of documents."""

    shard: ShardJob
    encoder: str

    @property
    def name(self) -> str:
        return f"embed-{self.shard.index:05d}"


@dataclass(frozen=True)
class AssignJob:
    """The vectors of one shard against all centroids."""

    shard: ShardJob

    @property
    def name(self) -> str:
        return f"assign-{self.shard.index:05d}"


@dataclass(frozen=True)
class CompareJob:
    """Some clusters: one part of the assigned documents."""

    part: int
    assigned: Spill  # rows: cluster, document number
    shards: tuple[ShardJob, ...]
    threshold: float
    keep: KeepConfig
    output: Path

    @property
    def name(self) -> str:
        return f"compare-{self.part:05d}"


def run(config: SemanticDedupConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Drop documents of `inputs["documents"]` that mean what a kept one does. Does not depend on `pool`."""
    from codeflow.core.manifest import PROGRESS, require_kind, seal
    from codeflow.execute.shards import run_shards
    from codeflow.transform import decisions
    from codeflow.transform.fingerprints import is_small, shard_jobs, sign_shard
    from codeflow.transform.vectors import VectorReader, encoder_named, load_faiss

    source = inputs["documents"]
    require_kind(source, ["documents"])
    load_faiss()
    encoder_named(config.encoder)  # what is missing is said before any work
    scratch = output / PROGRESS / "semantic"
    plain = DedupConfig(keep=config.keep, exact=None, near=None, partition_documents=config.partition_documents)

    def jobs(step: str) -> list[ShardJob]:
        return shard_jobs(step, source, plain, scratch, output)

    small = is_small(source)
    shards = jobs("sign")
    n_documents = shards[-1].stop
    run_shards(sign_shard, shards, output, "sign", pool, small)
    run_shards(embed, [EmbedJob(shard, config.encoder) for shard in shards], output, "embed", pool, small)
    n_clusters = _write_centroids(config, VectorReader(shards), n_documents, scratch)
    run_shards(assign, [AssignJob(shard) for shard in shards], output, "assign", pool, small)
    assigned = _gather(config, shards, scratch)
    parts = [CompareJob(p, assigned, tuple(shards), config.threshold, config.keep, output) for p in assigned.parts()]
    counts = run_shards(compare, parts, output, "compare", pool, small or len(parts) < 2)
    _write_decisions(scratch, n_documents, config.partition_documents)
    counts += run_shards(decisions.write_shard, jobs("write"), output, "write", pool, small)
    return seal(output, counts, {"n_clusters": n_clusters, "dim": VectorReader(shards).dim})


def embed(job: EmbedJob) -> Counts:
    """Write the vectors of one shard."""
    from codeflow.core.manifest import Counts
    from codeflow.transform.vectors import vectors_path, write_vectors

    write_vectors(job.shard.source, vectors_path(job.shard), job.encoder)
    return Counts()


def _write_centroids(config: SemanticDedupConfig, reader: Any, n_documents: int, scratch: Path) -> int:
    """Train the centroids on a sample of the documents; return their number."""
    from codeflow.transform.fingerprints import save_arrays
    from codeflow.transform.vectors import train_centroids

    if not n_documents:
        save_arrays(scratch / "centroids", centroids=np.zeros((0, 0), np.float32))
        return 0
    n_sample = min(n_documents, config.sample_documents)
    drawn = np.random.default_rng(config.seed).choice(n_documents, n_sample, replace=False, shuffle=False)
    n_clusters = -(-n_documents // config.cluster_documents)
    centroids = train_centroids(reader.read(np.sort(drawn)), n_clusters, config.iterations, config.seed)
    save_arrays(scratch / "centroids", centroids=centroids)
    return len(centroids)


def assign(job: AssignJob) -> Counts:
    """Write the cluster of each document of a shard (D,)."""
    from codeflow.core.manifest import Counts
    from codeflow.transform.fingerprints import load_array, save_arrays
    from codeflow.transform.vectors import nearest, vectors_path

    vectors = load_array(vectors_path(job.shard), "vectors")
    centroids = load_array(job.shard.scratch / "centroids", "centroids", mapped=False)
    found = [nearest(np.array(vectors[at : at + 4096]), centroids) for at in range(0, len(vectors), 4096)]
    numbers = np.concatenate(found) if found else np.empty(0, np.int64)
    save_arrays(job.shard.scratch / f"assigned-{job.shard.index:05d}", clusters=numbers)
    return Counts()


def _gather(config: SemanticDedupConfig, shards: list[ShardJob], scratch: Path) -> Spill:
    """Bring the documents of a cluster together: rows (cluster, number), parted by cluster."""
    from codeflow.transform.fingerprints import load_array
    from codeflow.transform.spill import Spill

    width = max(1, _PART_DOCUMENTS // config.cluster_documents)
    spill = Spill(scratch / "assigned", 2, width).create()
    for shard in shards:
        clusters = load_array(scratch / f"assigned-{shard.index:05d}", "clusters", mapped=False)
        if clusters.size:
            spill.add(np.column_stack([clusters, np.arange(shard.start, shard.stop)]))
    return spill


def compare(job: CompareJob) -> Counts:
    """Write the decisions on the documents of some clusters, sorted by number, and the semantic clusters."""
    import pyarrow.parquet as pq

    from codeflow.core.manifest import Counts
    from codeflow.core.records import write_records
    from codeflow.core.storage import atomic_path
    from codeflow.transform.decisions import decision_table
    from codeflow.transform.fingerprints import keep_order, keys_of
    from codeflow.transform.vectors import VectorReader

    rows = job.assigned.read(job.part)
    keys = keys_of(np.sort(rows[:, 1]), job.shards[0].scratch)
    reader = VectorReader(job.shards)
    found: list[tuple[int, str, str]] = []

    def records() -> Iterator[SemanticCluster]:
        for cluster in np.unique(rows[:, 0]).tolist():
            members = rows[rows[:, 0] == cluster, 1].tolist()
            ordered = np.array(sorted(members, key=lambda number: keep_order(keys[number], job.keep)), np.int64)
            dropped = neighbours(reader.read(ordered), job.threshold)
            by_kept: dict[int, list[tuple[float, int]]] = {}
            for place, (kept, similarity) in sorted(dropped.items()):
                by_kept.setdefault(int(ordered[kept]), []).append((similarity, int(ordered[place])))
                identity = keys[int(ordered[kept])]["id"]
                found.append((int(ordered[place]), REASON, f"{identity} cosine {similarity:.4f}"))
            for kept, members in sorted(by_kept.items()):
                yield _record(keys, kept, members)

    n_clusters = write_records(job.output / f"clusters-{job.part:05d}.parquet", records(), SemanticCluster)
    with atomic_path(job.shards[0].scratch / f"semantic-{job.part:05d}.parquet") as temporary:
        pq.write_table(decision_table(sorted(found)), temporary, row_group_size=16_384)
    return Counts(notes={"semantic_clusters": n_clusters})


def _record(keys: dict[int, dict[str, Any]], kept: int, members: list[tuple[float, int]]) -> SemanticCluster:
    members.sort(key=lambda pair: (-pair[0], pair[1]))
    return SemanticCluster(
        id=keys[kept]["id"],
        kept=f"{keys[kept]['repository']}/{keys[kept]['path']}",
        members=tuple(keys[number]["id"] for _, number in members),
        paths=tuple(f"{keys[number]['repository']}/{keys[number]['path']}" for _, number in members),
        similarities=tuple(similarity for similarity, _ in members),
    )


def neighbours(vectors: Vectors, threshold: float) -> dict[int, tuple[int, float]]:
    """Return what is dropped of vectors (m, d) in keep order: place -> (place of the kept neighbour, cosine).

    Of several neighbours it is the most similar one, of equally similar ones the first.
    """
    kept = np.empty_like(vectors)
    places: list[int] = []  # of the kept ones
    dropped: dict[int, tuple[int, float]] = {}
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        best, where = np.full(len(block), -1.0, np.float32), np.zeros(len(block), np.int64)
        for low in range(0, len(places), _COLUMNS):
            cosines = block @ kept[low : min(low + _COLUMNS, len(places))].T
            at = cosines.argmax(axis=1)
            value = cosines[np.arange(len(block)), at]
            where = np.where(value > best, at + low, where)
            best = np.maximum(value, best)
        inside = block @ block.T
        new: list[int] = []  # rows of the block that stay
        for row in range(len(block)):
            cosine, neighbour = float(best[row]), int(where[row])
            if new:
                at = int(inside[row, new].argmax())
                if inside[row, new[at]] > cosine:
                    cosine, neighbour = float(inside[row, new[at]]), len(places) - len(new) + at
            if cosine >= threshold - _ROUNDING:
                dropped[start + row] = (places[neighbour], min(cosine, 1.0))
            else:
                kept[len(places)] = block[row]
                places.append(start + row)
                new.append(row)
    return dropped


def _write_decisions(scratch: Path, n_documents: int, width: int) -> None:
    """Merge the decisions of all parts into one file per range of document numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from codeflow.core.storage import atomic_path
    from codeflow.transform.decisions import decision_table

    paths = sorted(scratch.glob("semantic-*.parquet"))
    for part in range(-(-n_documents // width)):
        inside = (pc.field("number") >= part * width) & (pc.field("number") < (part + 1) * width)
        tables = [decision_table([]), *(pq.read_table(path, filters=inside) for path in paths)]
        with atomic_path(scratch / f"decisions-{part:05d}.parquet") as temporary:
            pq.write_table(pa.concat_tables(tables).sort_by("number"), temporary, row_group_size=16_384)
