"""The stage `clean`: every per-document operator over every shard of documents.

Clean and secrets come first and never drop, so that dropped documents, which are kept for audit, hold no secret
either. Then the cheap rules, then the one parse, then the rules that read it, then the score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from codeflow.core.config import Config
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.types import Document, DroppedDocument
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool
from codeflow.transform.clean import Clean
from codeflow.transform.filters import SyntaxFilters, TextFilters
from codeflow.transform.operator import Drop, Operator
from codeflow.transform.quality import ScoreQuality
from codeflow.transform.secrets import ReplaceSecrets
from codeflow.transform.syntax import MeasureSyntax

Meter = Callable[[str, float], None]  # (operator name, seconds): for benchmarks; never goes into data


class CleanConfig(Config):
    """The per-document operators, applied in the order of these fields."""

    clean: Clean = Clean()
    secrets: ReplaceSecrets = ReplaceSecrets()
    filters: TextFilters = TextFilters()
    syntax: MeasureSyntax = MeasureSyntax()
    syntax_filters: SyntaxFilters = SyntaxFilters()
    quality: ScoreQuality = ScoreQuality()

    def operators(self) -> tuple[Operator, ...]:
        """Return the operators that are switched on, in order."""
        every = (self.clean, self.secrets, self.filters, self.syntax, self.syntax_filters, self.quality)
        return tuple(operator for operator in every if operator.enabled)


@dataclass(frozen=True)
class _Shard:
    name: str
    source: Path
    output: Path
    config: CleanConfig

    @property
    def n_bytes(self) -> int:
        """Bytes of the source."""
        return self.source.stat().st_size


def run(config: CleanConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Apply the operators to `documents`; write one `documents-*` and one `dropped-*.parquet` per input shard.

    Counts: dropped by `operator/reason`; notes: documents repaired by kind, secrets replaced by type, over all
    documents read.
    """
    from codeflow.core.records import shards
    from codeflow.execute.shards import run_shards

    sources = shards(inputs["documents"], "documents")
    jobs = [_Shard(f"{number:05d}", source, output, config) for number, source in enumerate(sources)]
    counts = run_shards(_run_shard, jobs, output, "clean", pool)
    return seal(output, counts, {"operators": [operator.name for operator in config.operators()]})


def _run_shard(shard: _Shard) -> Counts:
    from codeflow.core.records import read_records, write_records

    dropped: list[DroppedDocument] = []
    tally = Tally()
    documents = read_records(shard.source, Document)
    kept = transform(documents, shard.config.operators(), dropped.append, tally)
    write_records(shard.output / f"documents-{shard.name}.parquet", kept, Document)
    write_records(shard.output / f"dropped-{shard.name}.parquet", dropped, DroppedDocument)
    return tally.counts()


class Tally:
    """Counts what happens to documents; `counts` gives them as the manifest has them."""

    def __init__(self) -> None:
        self.read = self.kept = 0
        self.dropped: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()

    def note(self, document: Document, prefixes: tuple[str, ...]) -> None:
        """Sum the tags that operators declare as notes."""
        for tag, value in document.tags.items():
            if tag.startswith(prefixes):
                self.notes[tag] += int(value)

    def counts(self) -> Counts:
        """Return the counts, keys sorted."""
        return Counts(
            read=self.read,
            kept=self.kept,
            dropped=dict(sorted(self.dropped.items())),
            notes=dict(sorted(self.notes.items())),
        )


def transform(
    documents: Iterable[Document],
    operators: tuple[Operator, ...],
    on_drop: Callable[[DroppedDocument], None],
    tally: Tally,
    meter: Meter | None = None,
) -> Iterator[Document]:
    """Yield the documents that pass all operators; hand the others to `on_drop`, and count both."""
    prefixes = tuple(prefix for operator in operators for prefix in operator.noted)
    for document in documents:
        tally.read += 1
        current, drop = apply(document, operators, meter)
        if prefixes:
            tally.note(current, prefixes)
        if drop is None:
            tally.kept += 1
            yield current
        else:
            tally.dropped[f"{drop.operator}/{drop.reason}"] += 1
            on_drop(drop)


def apply(
    document: Document, operators: tuple[Operator, ...], meter: Meter | None = None
) -> tuple[Document, DroppedDocument | None]:
    """Return the document as the last operator left it, and the drop where one was made."""
    import time

    for operator in operators:
        started = time.thread_time() if meter else 0.0
        result = operator(document)
        if meter:
            meter(operator.name, time.thread_time() - started)
        if isinstance(result, Drop):
            return document, DroppedDocument(document, operator.name, result.reason, result.detail)
        document = result
    return document, None
