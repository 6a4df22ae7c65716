"""Documents that mean the same in other words: neighbours by embedding (SemDeDup: Abbas et al., 2023).

    sign      per shard      keep keys of each document
    embed     per shard      texts -> vectors                                    (pass 1 over texts)
    k-means   on a sample    vectors -> centroids, about one for `cluster_documents` documents
    assign    per shard      each document -> its `nearest_clusters` nearest centroids
    order     per part       the documents of each cluster in keep order, with their vectors
    decide    per part       in rounds, within each cluster: who is a neighbour of a document that stays
    name      per part       the most similar kept document of each dropped one
    write     per shard      documents and dropped documents                      (pass 2 over texts)

Documents are taken in keep order. One is dropped when the cosine with a document already kept is `threshold` or more;
its neighbour is the most similar of those. So every dropped document has a kept neighbour, and chains drop nothing
else; how clusters that share documents agree on it is in `semantic_rounds`. Documents without a common cluster are
never compared, which is what makes this possible at all: with one cluster for each document neighbours are missed where
a border runs between them, with some more (`nearest_clusters`) hardly any.

A process holds a few thousand vectors, the texts of one row group, and the keep keys of one part. Vectors lie in files,
as they come and once more by cluster (4 d bytes a document and cluster).
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

REASON = "semantic_duplicate"
_PART_ROWS = 20_000  # about so many assigned documents are compared by one job
_ASSIGNED_AT_ONCE = 4096


class SemanticDedupConfig(Config):
    """What counts as the same meaning, and which one stays."""

    encoder: str = MINILM  # module:name of an encoder; see transform/embedding.py
    threshold: float = Field(default=0.9, gt=0.0, le=1.0)  # cosine
    keep: KeepConfig = KeepConfig()
    cluster_documents: int = Field(default=1000, ge=1)  # of a cluster, on average; twice as many take twice the time
    nearest_clusters: int = Field(default=3, ge=1, le=64)  # in which each document is compared
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

    @property
    def n_bytes(self) -> int:
        """Bytes of the shard."""
        return self.shard.source.stat().st_size


@dataclass(frozen=True)
class AssignJob:
    """The vectors of one shard against all centroids."""

    shard: ShardJob
    nearest_clusters: int

    @property
    def name(self) -> str:
        return f"assign-{self.shard.index:05d}"


@dataclass(frozen=True)
class RecordJob:
    """The documents that were kept instead of others, of one range of numbers."""

    part: int
    named: Spill  # rows: kept, dropped, bits of the cosine
    scratch: Path
    output: Path

    @property
    def name(self) -> str:
        return f"record-{self.part:05d}"


def run(config: SemanticDedupConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Drop documents of `inputs["documents"]` that mean what a kept one does. Does not depend on `pool`."""
    from codeflow.core.manifest import PROGRESS, Counts, require_kind, seal
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
    nearest = min(config.nearest_clusters, n_clusters)
    run_shards(assign, [AssignJob(shard, nearest) for shard in shards], output, "assign", pool, small)
    n_rounds, named = _decide(config, shards, nearest, output, pool, small)
    records = [RecordJob(part, named, scratch, output) for part in named.parts() or [0]]
    recorded = run_shards(record, records, output, "record", pool, small or len(records) < 2)
    _write_decisions(scratch, n_documents, config.partition_documents)
    counts = Counts(notes=recorded.notes) + run_shards(
        decisions.write_shard, jobs("write"), output, "write", pool, small
    )
    return seal(output, counts, {"n_clusters": n_clusters, "n_rounds": n_rounds, "dim": VectorReader(shards).dim})


def _decide(
    config: SemanticDedupConfig, shards: list[ShardJob], nearest: int, output: Path, pool: Pool, small: bool
) -> tuple[int, Spill]:
    """Compare documents within the clusters; return the number of rounds and who is dropped in whose favour."""
    from codeflow.execute.shards import run_shards
    from codeflow.transform import semantic_rounds
    from codeflow.transform.spill import Spill

    scratch, n_documents, width = shards[0].scratch, shards[-1].stop, config.partition_documents
    assigned = _gather(config, shards, nearest, scratch)
    parts = assigned.parts()
    small = small or len(parts) < 2
    orders = [semantic_rounds.OrderJob(part, assigned, tuple(shards), config.keep, scratch) for part in parts]
    run_shards(semantic_rounds.order, orders, output, "order", pool, small)

    def jobs(step: str, number: int, of: list[int]) -> list[semantic_rounds.RoundJob]:
        options = (config.threshold, nearest == 1, width, scratch)
        return [semantic_rounds.RoundJob(step, number, part, *options) for part in of]

    number, waiting = 0, parts
    while waiting:
        run_shards(semantic_rounds.decide, jobs("decide", number, waiting), output, "decide", pool, small)
        waiting = semantic_rounds.advance(scratch, number, waiting, n_documents, width)
        number += 1
    names = jobs("name", number, parts)
    run_shards(semantic_rounds.name, names, output, "name", pool, small)
    named = Spill(scratch / "named", 3, min(width, _PART_ROWS)).create()
    if names:
        semantic_rounds.gather_names(names, n_documents, width, named)
    return number, named


def embed(job: EmbedJob) -> Counts:
    """Write the vectors of one shard."""
    from codeflow.transform.vectors import vectors_path, write_vectors

    write_vectors(job.shard.source, vectors_path(job.shard), job.encoder)
    return _all_kept(job.shard)


def _all_kept(shard: ShardJob) -> Counts:
    from codeflow.core.manifest import Counts

    return Counts(read=shard.stop - shard.start, kept=shard.stop - shard.start)


def _write_centroids(config: SemanticDedupConfig, reader: Any, n_documents: int, scratch: Path) -> int:
    """Train the centroids on a sample of the documents; return their number."""
    from codeflow.transform.fingerprints import save_arrays
    from codeflow.transform.vectors import train_centroids

    if not n_documents:
        save_arrays(scratch / "centroids", centroids=np.zeros((0, 0), np.float32))
        return 0
    n_sample = min(n_documents, config.sample_documents)
    edges = np.arange(n_sample + 1) * n_documents // n_sample  # one document of each stretch
    drawn = edges[:-1] + np.random.default_rng(config.seed).integers(0, np.diff(edges))
    n_clusters = -(-n_documents // config.cluster_documents)
    centroids = train_centroids(reader.read(drawn), n_clusters, config.iterations, config.seed)
    save_arrays(scratch / "centroids", centroids=centroids)
    return len(centroids)


def assign(job: AssignJob) -> Counts:
    """Write the clusters of each document of a shard (D, nearest); -1 for a document that is like nothing."""
    from codeflow.transform.fingerprints import load_array, save_arrays
    from codeflow.transform.vectors import nearest, vectors_path

    vectors = load_array(vectors_path(job.shard), "vectors")
    centroids = load_array(job.shard.scratch / "centroids", "centroids", mapped=False)
    found = [np.empty((0, job.nearest_clusters), np.int64)]
    for at in range(0, len(vectors), _ASSIGNED_AT_ONCE):
        here = np.array(vectors[at : at + _ASSIGNED_AT_ONCE])
        places = nearest(here, centroids, job.nearest_clusters)
        places[~np.any(here, axis=1)] = -1
        found.append(places)
    save_arrays(job.shard.scratch / f"assigned-{job.shard.index:05d}", clusters=np.concatenate(found))
    return _all_kept(job.shard)


def _gather(config: SemanticDedupConfig, shards: list[ShardJob], nearest: int, scratch: Path) -> Spill:
    """Bring the documents of a cluster together: rows (cluster, number), parted by cluster."""
    from codeflow.transform.fingerprints import load_array
    from codeflow.transform.spill import Spill

    width = max(1, _PART_ROWS // (config.cluster_documents * max(1, nearest)))
    spill = Spill(scratch / "assigned", 2, width).create()
    for shard in shards:
        clusters = load_array(scratch / f"assigned-{shard.index:05d}", "clusters", mapped=False)
        numbers = np.repeat(np.arange(shard.start, shard.stop), clusters.shape[1])
        rows = np.column_stack([clusters.ravel(), numbers])
        spill.add(rows[rows[:, 0] >= 0])
    return spill


def record(job: RecordJob) -> Counts:
    """Write the semantic clusters of one part, and the decisions on their members, sorted by number."""
    import pyarrow.parquet as pq

    from codeflow.core.manifest import Counts
    from codeflow.core.records import write_records
    from codeflow.core.storage import atomic_path
    from codeflow.transform.decisions import decision_table
    from codeflow.transform.fingerprints import keys_of

    rows = job.named.read(job.part)
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    similarities = rows[:, 2].copy().view(np.float64)
    keys = keys_of(np.unique(rows[:, :2]), job.scratch)
    found = [
        (number, REASON, f"{keys[kept]['id']} cosine {similarity:.4f}")
        for (kept, number), similarity in zip(rows[:, :2].tolist(), similarities.tolist(), strict=True)
    ]

    def records() -> Iterator[SemanticCluster]:
        for kept in np.unique(rows[:, 0]).tolist():
            low, high = np.searchsorted(rows[:, 0], [kept, kept + 1])
            members = list(zip(similarities[low:high].tolist(), rows[low:high, 1].tolist(), strict=True))
            yield _record(keys, kept, members)

    n_clusters = write_records(job.output / f"clusters-{job.part:05d}.parquet", records(), SemanticCluster)
    with atomic_path(job.scratch / f"semantic-{job.part:05d}.parquet") as temporary:
        pq.write_table(decision_table(sorted(found)), temporary, row_group_size=16_384)
    return Counts(
        read=len(found),
        dropped={REASON: len(found)} if found else {},
        notes={"semantic_clusters": n_clusters} if n_clusters else {},
    )


def _record(keys: dict[int, dict[str, Any]], kept: int, members: list[tuple[float, int]]) -> SemanticCluster:
    members.sort(key=lambda pair: (-pair[0], pair[1]))
    return SemanticCluster(
        id=keys[kept]["id"],
        kept=f"{keys[kept]['repository']}/{keys[kept]['path']}",
        members=tuple(keys[number]["id"] for _, number in members),
        paths=tuple(f"{keys[number]['repository']}/{keys[number]['path']}" for _, number in members),
        similarities=tuple(similarity for similarity, _ in members),
    )


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
