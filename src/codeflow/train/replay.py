"""The replay buffer (Code-Flow §5): the best pre-training samples by quality, to be mixed into later phases.

    run(config, {documents}, output) -> samples in the set `replay`

Fine-tuning and reinforcement learning forget; rows of what was learnt first keep it. Documents are taken quality first,
`share` of the characters of each language, so that no language is forgotten because its documents score lower.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.languages import domain_of
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.types import Document, Sample, Segment
from codeflow.execute.shards import run_shards
from codeflow.tokens.special import END_OF_TEXT

SET = "replay"
_KEY = tuple[float, str]  # (-quality, id): better first


class ReplayConfig(Config):
    """Which documents are kept for later."""

    share: float = Field(default=0.1, gt=0, le=1)  # of each language's characters
    quality_tag: str = "quality"  # higher is better; documents without it are not taken
    max_characters: int | None = Field(default=None, ge=1)  # of all together; the share shrinks to it
    domains: tuple[str, ...] = ("code", "general")


@dataclass(frozen=True, slots=True)
class ReplayJob:
    """One shard of documents, and the worst document that is taken, by language."""

    name: str
    shard: Path
    output: Path
    number: int
    config: ReplayConfig
    worst: dict[str, _KEY]


def run(config: ReplayConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Take the best documents of every language. Raises UserError when no document carries the tag."""
    from codeflow.core.records import shards

    documents = shards(inputs["documents"], "documents")
    rated = _rated(config, documents)
    if not rated:
        raise UserError(
            f"no document has the tag '{config.quality_tag}'; score them first, or name another quality_tag"
        )
    share = config.share
    characters = sum(size for found in rated.values() for _, _, size in found)
    if config.max_characters is not None:
        share = min(share, config.max_characters / characters)
    worst = {language: _worst(found, share) for language, found in rated.items()}
    jobs = [
        ReplayJob(f"documents-{number:05d}", shard, output, number, config, worst)
        for number, shard in enumerate(documents)
    ]
    counts = run_shards(_take, jobs, output, "replay")
    least = {language: -key[0] for language, key in sorted(worst.items())}
    notes = {name.removeprefix("language "): n for name, n in counts.notes.items() if name.startswith("language ")}
    n_characters = counts.notes.get("characters", 0)
    return seal(
        output, counts, {"share": share, "least_quality": least, "documents": notes, "characters": n_characters}
    )


def _rated(config: ReplayConfig, shards: Sequence[Path]) -> dict[str, list[tuple[float, str, int]]]:
    """Return (-quality, id, characters) of what may be taken, by language."""
    from codeflow.core.records import read_records

    rated: dict[str, list[tuple[float, str, int]]] = defaultdict(list)
    for shard in shards:
        for document in read_records(shard, Document):
            if _reason(document, config) == "":
                quality = document.tags[config.quality_tag]
                rated[document.language].append((-quality, document.id, len(document.text)))
    return rated


def _reason(document: Document, config: ReplayConfig) -> str:
    """Return why a document is not to be rated, "" when it is."""
    if domain_of(document.language) not in config.domains:
        return "other_domain"
    if not document.text.strip():
        return "empty"
    return "" if config.quality_tag in document.tags else "not_rated"


def _worst(rated: list[tuple[float, str, int]], share: float) -> _KEY:
    """Return the key of the last document within the share of characters; at least one is taken."""
    rated.sort()
    budget = share * sum(size for _, _, size in rated)
    taken, last = 0, rated[0]
    for entry in rated:
        taken += entry[2]
        if taken > budget and entry is not rated[0]:
            break
        last = entry
    return last[0], last[1]


def _take(job: ReplayJob) -> Counts:
    from codeflow.core.records import read_records, write_records

    dropped: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    samples: list[Sample] = []
    n_read = 0
    for document in read_records(job.shard, Document):
        n_read += 1
        reason = _reason(document, job.config)
        if not reason and (-document.tags[job.config.quality_tag], document.id) > job.worst[document.language]:
            reason = "lower_quality"
        if reason:
            dropped[reason] += 1
            continue
        parts = (Segment("text", document.text), Segment("special", END_OF_TEXT))
        samples.append(Sample(f"{SET}/{document.id}", parts, (document.origin,), SET))
        notes[f"language {document.language}"] += 1
        notes["characters"] += len(document.text)
    if samples:
        write_records(job.output / f"{SET}-{job.number:05d}.parquet", samples, Sample)
    found = dict(sorted(dropped.items()))
    return Counts(read=n_read, kept=len(samples), dropped=found, notes=dict(sorted(notes.items())))
