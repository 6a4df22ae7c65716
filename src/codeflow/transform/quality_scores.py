"""The stage `score`: a trained quality proxy scores the documents of a corpus (Code-Flow §2).

    run(config, {documents, classifier}, output) -> documents-*.parquet with the score as a tag

One shard of documents is one job, so finished shards are skipped after a kill. Within a shard, documents are scored in
batches that the proxy sorts by length. Documents of other domains than the classifier's pass without the tag. The share
of the bytes that the proxy read is recorded: the transformer reads the start of a document only.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.types import Document
from codeflow.execute.local import THIS_MACHINE, LocalPool
from codeflow.execute.pool import Pool
from codeflow.transform.classifier_artifact import Classifier, load_classifier
from codeflow.transform.operator import with_tags
from codeflow.transform.quality_annotate import domain_for


class ScoreConfig(Config):
    """Which classifier of the artifact scores, and under which tag."""

    kind: str = "transformer"  # a folder of the artifact: transformer, linear or fasttext
    tag: str = "quality"  # the annealing phase draws by the tag of this name
    batch_documents: int = Field(default=1024, ge=1)
    workers: int | None = Field(default=None, ge=1)  # processes of this machine; None: one per core


@dataclass(frozen=True)
class _Shard:
    name: str
    source: Path
    classifier: Path
    output: Path
    config: ScoreConfig


def run(config: ScoreConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Score `inputs["documents"]` by `inputs["classifier"]`, each shard a job of `pool`.

    Counts: nothing is dropped; notes: documents and bytes scored, bytes read. Metrics: the share of the bytes that was
    read, and what the classifier was trained on. Raises UserError when the artifact has no classifier of the kind.
    """
    from codeflow.core.records import shards
    from codeflow.execute.shards import run_shards

    description = load_classifier(inputs["classifier"], config.kind).description
    jobs = [
        _Shard(f"{number:05d}", source, inputs["classifier"], output, config)
        for number, source in enumerate(shards(inputs["documents"], "documents"))
    ]
    place = LocalPool(config.workers) if pool == THIS_MACHINE else pool
    counts = run_shards(_score_shard, jobs, output, "score", place)
    share = counts.notes.get("read_bytes", 0) / max(1, counts.notes.get("scored_bytes", 0))
    learnt = {name: getattr(description, name) for name in ("kind", "domain", "target", "source")}
    return seal(output, counts, {"read_share": round(share, 6), "classifier": learnt})


def _score_shard(shard: _Shard) -> Counts:
    from codeflow.core.records import read_records, write_records

    classifier = _loaded(shard.classifier, shard.config.kind)
    before = (classifier.read_bytes, classifier.scored_bytes)
    n_scored = 0

    def scored() -> Iterator[Document]:
        nonlocal n_scored
        documents = read_records(shard.source, Document)
        while batch := list(islice(documents, shard.config.batch_documents)):
            rows = [row for row, one in enumerate(batch) if domain_for(one) == classifier.description.domain]
            n_scored += len(rows)
            for row, score in zip(rows, classifier([batch[row] for row in rows]), strict=True):
                batch[row] = with_tags(batch[row], {shard.config.tag: round(score, 6)})
            yield from batch

    n = write_records(shard.output / f"documents-{shard.name}.parquet", scored(), Document)
    notes = {
        "scored": n_scored,
        "read_bytes": classifier.read_bytes - before[0],
        "scored_bytes": classifier.scored_bytes - before[1],
    }
    return Counts(read=n, kept=n, notes=notes)


@functools.cache
def _loaded(artifact: Path, kind: str) -> Classifier:
    """Load once per process; a worker has several shards. One thread each, since there are as many as cores."""
    return load_classifier(artifact, kind, n_threads=1)
