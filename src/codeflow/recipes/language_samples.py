"""The stage `language_samples`: documents as plain samples in one set per language, so that languages can be mixed.

    run(config, {documents}, output) -> <language>-NNNNN.parquet of Sample

Unlike `samples`, whose sets are uses (code, completion, ...), a set here is a language: what a mixture plan weighs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.types import Document, Sample, Segment
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool
from codeflow.execute.shards import run_shards
from codeflow.tokens.special import END_OF_TEXT


class LanguageSamplesConfig(Config):
    """Which languages become sets."""

    languages: tuple[str, ...] = Field(default=("Python", "C++", "reStructuredText"), min_length=1)


@dataclass(frozen=True, slots=True)
class _Job:
    name: str
    source: Path
    output: Path
    languages: tuple[str, ...]


def run(config: LanguageSamplesConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Write the documents of the chosen languages. Raises UserError naming a language without documents."""
    from codeflow.core.records import shards

    sources = shards(inputs["documents"], "documents")
    jobs = [_Job(f"{number:05d}", source, output, config.languages) for number, source in enumerate(sources)]
    counts = run_shards(_write, jobs, output, "language_samples", pool)
    missing = [name for name in config.languages if not counts.notes.get(f"samples {name}")]
    if missing:
        raise UserError(f"no documents in {missing[0]} among {inputs['documents']}; leave it out or collect some")
    return seal(output, counts)


def _write(job: _Job) -> Counts:
    from codeflow.core.records import read_records, write_records

    samples: dict[str, list[Sample]] = {}
    notes: Counter[str] = Counter()
    read = 0
    for document in read_records(job.source, Document):
        read += 1
        if document.language in job.languages:
            parts = (Segment("text", document.text), Segment("special", END_OF_TEXT))
            sample = Sample(f"plain/{document.id}", parts, (document.origin,), document.language)
            samples.setdefault(document.language, []).append(sample)
            notes[f"samples {document.language}"] += 1
    for language, found in sorted(samples.items()):
        write_records(job.output / f"{language}-{job.name}.parquet", found, Sample)
    kept = notes.total()
    return Counts(read=read, kept=kept, dropped={"other_language": read - kept}, notes=dict(sorted(notes.items())))
