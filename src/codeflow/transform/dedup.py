"""Deduplication of a whole corpus: equal documents first, then nearly equal ones.

    sign      per shard      texts -> digests and keep keys, band keys of MinHash signatures         (pass 1 over texts)
    exact     per hash range groups of equal digests -> one kept, the others dropped
    pairs     per band       equal band keys among the remaining documents -> candidate pairs
    sets      per shard      shingle sets of the documents that stand in a candidate pair
    verify    per shard      exact Jaccard of the candidate pairs -> edges
    resolve   once           edges -> connected components -> clusters -> decisions
    write     per shard      documents and dropped documents by the decisions                      (pass 2 over texts)

A document is known by its number (its row, counted over the shards in order). What passes between the steps are sorted
arrays of numbers and 64-bit hashes in files under `progress/`, gone when the artifact is sealed. A process holds the
texts of one row group at a time; `exact_dedup` and `near_dedup` say what else they hold.

Output: `documents-*`, `dropped-*` (detail: the id of the document that was kept instead) and `clusters-00000.parquet`
(`near_dedup.Cluster`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from codeflow.core.config import Config

if TYPE_CHECKING:
    from codeflow.core.manifest import Manifest
    from codeflow.transform import fingerprints

_POOL_FROM_DOCUMENTS, _POOL_FROM_CANDIDATES = 200_000, 20_000

KeepCriterion = Literal["quality", "age", "path"]


class KeepConfig(Config):
    """Which of several alike documents stays: the criteria in order; the first in corpus order breaks what remains.

    quality: the greatest tag `quality_tag` (documents without the tag come last); age: the earliest
    `origin.fetched_at` (unknown comes last); path: the first by repository and path.
    """

    order: tuple[KeepCriterion, ...] = ("quality", "age", "path")
    quality_tag: str = "quality"


class ExactConfig(Config):
    """Equality of documents. With `ignore_white_space`, texts are equal when they are without all ASCII white space.

    Letter case always counts: it carries meaning in code.
    """

    ignore_white_space: bool = True
    partition_documents: int = Field(default=500_000, ge=1)  # hashes that one process holds at a time


class NearConfig(Config):
    """Likeness of documents: the Jaccard index of their sets of shingles of `n_tokens` tokens."""

    threshold: float = Field(default=0.8, gt=0.0, le=1.0)  # a pair at or above it is a near-duplicate
    n_tokens: int = Field(default=5, ge=1, le=64)
    n_permutations: int = Field(default=128, ge=1, le=4096)  # at most so many; bands and rows follow from `threshold`
    band_recall: float = Field(default=0.99, gt=0.0, lt=1.0)  # share of pairs at `threshold` that become candidates
    rule: Literal["cover", "component"] = "cover"  # see near_dedup.choose
    bucket_reach: int = Field(default=128, ge=1)  # neighbours that a document is paired with in one crowded bucket
    partition_entries: int = Field(default=4_000_000, ge=1)  # band keys (16 bytes each) held at a time

    @model_validator(mode="after")
    def _banding_exists(self) -> NearConfig:
        if 1 - (1 - self.threshold) ** self.n_permutations < self.band_recall:
            raise ValueError(
                f"n_permutations={self.n_permutations} cannot find pairs at threshold={self.threshold} "
                f"with band_recall={self.band_recall}; raise n_permutations"
            )
        return self


class DedupConfig(Config):
    """What counts as a duplicate and which one of them stays."""

    keep: KeepConfig = KeepConfig()
    exact: ExactConfig | None = ExactConfig()  # None: not done
    near: NearConfig | None = NearConfig()  # None: not done


def run(config: DedupConfig, inputs: Mapping[str, Path], output: Path, workers: int | None = None) -> Manifest:
    """Deduplicate `inputs["documents"]` into `output`. The result does not depend on `workers`."""
    from codeflow.core.manifest import PROGRESS, Counts, require_kind, seal
    from codeflow.execute.local import run_shards
    from codeflow.transform import decisions, exact_dedup
    from codeflow.transform.fingerprints import shard_jobs, sign_shard, workers_for

    source = inputs["documents"]
    require_kind(source, ["documents"])
    scratch = output / PROGRESS / "dedup"

    def jobs(step: str) -> list[fingerprints.ShardJob]:
        return shard_jobs(step, source, config, scratch, output)

    by_size = workers or workers_for(source)
    signing = jobs("sign")
    n_documents = signing[-1].stop
    run_shards(sign_shard, signing, output, "sign", by_size)
    if config.exact is not None:
        groups = exact_dedup.group_jobs(n_documents, config.exact.partition_documents, config.keep, scratch)
        run_shards(exact_dedup.group, groups, output, "exact duplicates", workers or _inline_below(len(groups), 2))
    decisions.write_dropped(scratch)
    counts = Counts()
    metrics: dict[str, Any] = {}
    clusters: list[tuple[int, list[int]]] = []
    if config.near is not None:
        from codeflow.transform import near_dedup

        bands = near_dedup.band_jobs(config.near, n_documents, scratch)
        metrics["n_bands"], metrics["n_rows"] = near_dedup.banding(config.near)
        in_bands = workers or _inline_below(n_documents, _POOL_FROM_DOCUMENTS)
        counts += run_shards(near_dedup.pair, bands, output, "candidate pairs", in_bands)
        n_candidates = near_dedup.write_candidates(scratch)
        few = workers or _inline_below(n_candidates, _POOL_FROM_CANDIDATES)
        counts += run_shards(near_dedup.write_sets, jobs("sets"), output, "shingle sets", few)
        counts += run_shards(near_dedup.verify, jobs("verify"), output, "verify", few)
        clusters = near_dedup.find_clusters(config.near, config.keep, signing, scratch)
        near_dedup.write_clusters(clusters, signing, scratch, output / "clusters-00000.parquet")
        metrics["n_near_duplicate_clusters"] = len(clusters)
    decisions.write_decisions(clusters, signing, scratch)
    counts += run_shards(decisions.write_shard, jobs("write"), output, "write", by_size)
    return seal(output, counts, metrics)


def _inline_below(n: int, enough: int) -> int | None:
    return 1 if n < enough else None
