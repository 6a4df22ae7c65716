"""Deduplication of a whole corpus: equal documents first, then nearly equal ones.

    sign      per shard      texts -> digests and keep keys, band keys of MinHash signatures         (pass 1 over texts)
    forks     per hash range equal digests at equal paths -> repositories that are forks, each with its origin
    exact     per hash range groups of equal digests -> one kept, the others dropped
    pairs     per band       equal band keys among the remaining documents -> candidate pairs
    sets      per shard      shingle sets of the documents that stand in a candidate pair
    verify    per shard      exact Jaccard of the candidate pairs -> edges
    clusters  per part       edges -> connected components -> clusters
    decide    per part       duplicates of both kinds -> decisions
    write     per shard      documents and dropped documents by the decisions                      (pass 2 over texts)

A document is known by its number (its row, counted over the shards in order). What passes between the steps are sorted
arrays of numbers and 64-bit hashes in files under `progress/`, gone when the artifact is sealed. No process holds a set
of all documents: one holds the texts of one row group, what belongs to one range of numbers or hashes
(`partition_documents`, `partition_entries`), and the candidates of one shard; memory follows from those, not from the
corpus.

Output: `documents-*`, `dropped-*` (detail: the id of the document that was kept instead; for a fork's
copy also the origin) and `clusters-*` (`clusters.Cluster`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from codeflow.core.config import Config
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool

if TYPE_CHECKING:
    from codeflow.core.manifest import Counts, Manifest
    from codeflow.transform import fingerprints

_POOL_FROM_DOCUMENTS, _POOL_FROM_PAIRS = 200_000, 100_000

KeepCriterion = Literal["quality", "age", "path"]


class KeepConfig(Config):
    """Which of several alike documents stays: the criteria in order; the first in corpus order breaks what remains.

    quality: the greatest tag `quality_tag` (documents without the tag come last); age: the earliest
    `origin.fetched_at` (unknown comes last); path: the first by repository and path.
    """

    order: tuple[KeepCriterion, ...] = ("quality", "age", "path")
    quality_tag: str = "quality"


class ForkConfig(Config):
    """When a repository counts as another one's fork, and which one of a family is the origin.

    Two repositories are of one family when they hold the same commit, or enough equal documents at equal paths. The
    origin is chosen by `order`, as in `KeepConfig`, over the repositories: the greatest mean quality (to a tenth: small
    differences say nothing), then the earliest document, then the first by name. Among documents that are alike, a
    fork's always goes before any other.
    """

    min_documents: int = Field(default=5, ge=1)  # equal, at equal paths
    min_share: float = Field(default=0.5, gt=0.0, le=1.0)  # of the documents of the smaller repository
    max_repositories: int = Field(default=32, ge=2)  # a document that more hold at one path is boilerplate
    order: tuple[KeepCriterion, ...] = ("quality", "age", "path")


class ExactConfig(Config):
    """Equality of documents. With `ignore_white_space`, texts are equal when they are without all ASCII white space.

    Letter case always counts: it carries meaning in code.
    """

    ignore_white_space: bool = True


class NearConfig(Config):
    """Likeness of documents: the Jaccard index of their sets of shingles of `n_tokens` tokens."""

    threshold: float = Field(default=0.8, gt=0.0, le=1.0)  # a pair at or above it is a near-duplicate
    n_tokens: int = Field(default=5, ge=1, le=64)
    n_permutations: int = Field(default=128, ge=1, le=4096)  # at most so many; bands and rows follow from `threshold`
    band_recall: float = Field(default=0.99, gt=0.0, lt=1.0)  # share of pairs at `threshold` that become candidates
    rule: Literal["cover", "component"] = "cover"  # see clusters.choose
    bucket_reach: int = Field(default=128, ge=1)  # neighbours that a document is paired with in one crowded bucket
    partition_entries: int = Field(default=4_000_000, ge=1)  # band keys (16 bytes each), edges held at a time

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
    forks: ForkConfig | None = ForkConfig()  # None: repositories are not looked at
    exact: ExactConfig | None = ExactConfig()  # None: not done
    near: NearConfig | None = NearConfig()  # None: not done
    partition_documents: int = Field(default=500_000, ge=1)  # hashes, numbers or decisions held at a time


def run(config: DedupConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Deduplicate `inputs["documents"]` into `output`. The result does not depend on `pool`."""
    from codeflow.core.manifest import require_kind, seal

    require_kind(inputs["documents"], ["documents"])
    with pool.kept() as kept:  # processes that have loaded the compiled code serve every step
        counts, metrics = _steps(config, inputs["documents"], output, kept)
    return seal(output, counts, metrics)


def _steps(config: DedupConfig, source: Path, output: Path, pool: Pool) -> tuple[Counts, dict[str, Any]]:
    from codeflow.core.manifest import PROGRESS, Counts
    from codeflow.execute.shards import run_shards
    from codeflow.transform import decisions, exact_dedup, forks, near_dedup
    from codeflow.transform.fingerprints import is_small, shard_jobs, sign_shard

    scratch = output / PROGRESS / "dedup"

    def jobs(step: str) -> list[fingerprints.ShardJob]:
        return shard_jobs(step, source, config, scratch, output)

    small = is_small(source)
    signing = jobs("sign")
    n_documents, width = signing[-1].stop, config.partition_documents
    run_shards(sign_shard, signing, output, "sign", pool, small)
    metrics: dict[str, Any] = forks.find(config, signing, pool, small) if config.forks else {}
    if config.exact is not None:
        groups = exact_dedup.group_jobs(n_documents, width, config.keep, scratch)
        run_shards(exact_dedup.group, groups, output, "exact duplicates", pool, len(groups) < 2)
    decisions.write_dropped(scratch, width)
    counts = Counts()
    if config.near is not None:
        counts += _near(config, n_documents, jobs, pool)
        metrics["n_bands"], metrics["n_rows"] = near_dedup.banding(config.near)
        metrics["n_near_duplicate_clusters"] = counts.notes.get("near_duplicate_clusters", 0)
    decisions.write_decisions(scratch, width)
    counts += run_shards(decisions.write_shard, jobs("write"), output, "write", pool, small)
    return counts, metrics


def _near(
    config: DedupConfig, n_documents: int, jobs: Callable[[str], list[fingerprints.ShardJob]], pool: Pool
) -> Counts:
    """Find the near-duplicates among what is not dropped yet; write the clusters."""
    from codeflow.core.manifest import Counts
    from codeflow.execute.shards import run_shards
    from codeflow.transform import clusters, near_dedup

    near = config.near
    assert near is not None
    sets, verify = jobs("sets"), jobs("verify")
    scratch, output = sets[0].scratch, sets[0].output
    bands = near_dedup.band_jobs(near, n_documents, scratch)
    notes = run_shards(near_dedup.pair, bands, output, "candidate pairs", pool, n_documents < _POOL_FROM_DOCUMENTS)
    few = near_dedup.count_pairs(scratch) < _POOL_FROM_PAIRS
    run_shards(near_dedup.write_sets, sets, output, "shingle sets", pool, few)
    notes += run_shards(near_dedup.verify, verify, output, "verify", pool, few)
    parts = clusters.cluster_jobs(near, config.keep, config.partition_documents, scratch, output)
    notes += run_shards(clusters.resolve, parts, output, "clusters", pool, few)
    return Counts(notes=notes.notes)  # what these steps read is keys and pairs, said while they run
