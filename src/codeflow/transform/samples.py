"""Training samples in sets, one per use: general, code, fim, evolution, anneal (Code-Flow §2).

    general    prose documents, whole
    code       code documents, whole
    fim        completion samples of code documents, in the recipe's format
    evolution  triplets: repository, commit messages, touched files before, patch
    anneal     the best code documents by their quality tag, whole and as completion

Not covered: cutting to context lengths (packing does that), repository-level context, chat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.languages import domain_of
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.progress import say
from codeflow.core.types import Document, Sample, Segment, Triplet
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool
from codeflow.execute.shards import run_shards
from codeflow.tokens.special import END_OF_TEXT, FILE_SEP, REPO_NAME
from codeflow.transform.cut_points import cut_points
from codeflow.transform.fim import FimConfig, completion, generator

SETS = ("general", "code", "fim", "evolution", "anneal")
MESSAGE_NAME = "COMMIT_MESSAGE"  # the names under which message and patch stand among a sample's files
PATCH_NAME = "CHANGES.patch"


class SamplesConfig(Config):
    """How documents and triplets become samples."""

    seed: int = 0
    cut_points_from_characters: int = Field(default=1500, ge=1)  # code documents of this length carry cut points
    fim: FimConfig = FimConfig()
    fim_rate: float = Field(default=0.5, ge=0, le=1)  # share of code documents that give a completion sample too
    anneal_share: float = Field(default=0.1, ge=0, le=1)  # of the code documents, the best by `quality_tag`
    anneal_fim_rate: float = Field(default=0.5, ge=0, le=1)
    quality_tag: str = "quality"
    max_evolution_characters: int = Field(default=60_000, ge=1)  # of a rendered triplet; longer ones are dropped
    evolution_loss: Literal["all", "patch"] = "all"  # which text of a triplet carries loss


@dataclass(frozen=True, slots=True)
class SamplesJob:
    """One shard of documents or of triplets: the work of one shard of samples."""

    name: str
    output: Path
    config: SamplesConfig
    shard: Path
    number: int
    anneal_from: tuple[float, str] | None  # (quality, id) of the worst document of the anneal set

    @property
    def reads(self) -> str:
        """Say what it reads, for messages."""
        return str(self.shard)


def run(config: SamplesConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Render `documents` (and `triplets`, if given) to `<set>-NNNNN.parquet` of Sample; an empty set has no files.

    Counts: read are documents and triplets, kept those that gave at least one sample; notes count samples and
    characters by set. Metrics: samples and characters by set, completion samples by level, and remarks.
    """
    from codeflow.core.records import shards

    documents = shards(inputs["documents"], "documents")
    triplets = shards(inputs["triplets"], "triplets") if "triplets" in inputs else []
    worst, remarks = _anneal_threshold(config, documents)
    jobs = [
        SamplesJob(f"{kind}-{number:05d}", output, config, shard, number, worst)
        for kind, found in (("documents", documents), ("triplets", triplets))
        for number, shard in enumerate(found)
    ]
    counts = run_shards(_make_samples, jobs, output, "samples", pool) if jobs else Counts()
    sets = {
        name: {
            "samples": counts.notes.get(f"samples {name}", 0),
            "characters": counts.notes.get(f"characters {name}", 0),
        }
        for name in SETS
    }
    reasons = {
        "general": "there are no prose documents",
        "code": "there are no code documents",
        "fim": "fim_rate is 0" if not config.fim_rate else "no code document has a place to split",
        "evolution": "no triplet fits max_evolution_characters" if triplets else "there are no triplets",
        "anneal": "anneal_share is 0" if not config.anneal_share else f"no code document has '{config.quality_tag}'",
    }
    remarks += [f"set {name} is empty: {reasons[name]}" for name in SETS if not sets[name]["samples"]]
    for remark in remarks:
        say(f"  samples: {remark}")
    prefix = "fim level "
    levels = {note.removeprefix(prefix): n for note, n in counts.notes.items() if note.startswith(prefix)}
    return seal(output, counts, {"sets": sets, "fim_levels": levels, "remarks": remarks})


def _anneal_threshold(config: SamplesConfig, shards: Sequence[Path]) -> tuple[tuple[float, str] | None, list[str]]:
    """Return (quality, id) of the last document that belongs to the best share, and remarks."""
    from codeflow.core.records import read_records

    rated: list[tuple[float, str]] = []
    n_unrated = 0
    for shard in shards:
        rows: Iterator[Any] = read_records(shard, Document, ["id", "language", "tags"])
        for row in rows:
            if domain_of(row["language"]) != "code":
                continue
            quality = dict(row["tags"]).get(config.quality_tag)
            if quality is None:
                n_unrated += 1
            else:
                rated.append((quality, row["id"]))
    remarks = []
    if n_unrated and rated:
        remarks.append(f"{n_unrated} code documents without the tag '{config.quality_tag}' cannot be in anneal")
    rated.sort(key=lambda pair: (-pair[0], pair[1]))
    n_best = round(config.anneal_share * len(rated))
    if rated and config.anneal_share > 0:
        n_best = max(n_best, 1)
    return (rated[n_best - 1] if n_best else None), remarks


def _make_samples(job: SamplesJob) -> Counts:
    from codeflow.core.records import read_records

    writer = _SetWriter(job)
    if job.name.startswith("triplets"):
        writer.consume(read_records(job.shard, Triplet), lambda item: triplet_samples(item, job.config))
    else:
        writer.consume(
            read_records(job.shard, Document), lambda item: document_samples(item, job.config, job.anneal_from)
        )
    return writer.close()


def document_samples(
    document: Document, config: SamplesConfig, anneal_from: tuple[float, str] | None
) -> tuple[list[Sample], str]:
    """Return the samples of one document, or none and the reason."""
    domain = domain_of(document.language)
    if domain not in ("general", "code"):
        return [], f"{domain}_language"
    if not document.text.strip():
        return [], "empty"
    if domain == "general":
        return [_plain(document, domain)], ""
    cuts = cut_points(document) if len(document.text) >= config.cut_points_from_characters else ()
    samples = [_plain(document, domain, cuts)]
    wanted = [("fim", config.fim_rate)]
    if _is_best(document, config, anneal_from):
        samples.append(_plain(document, "anneal", cuts))
        wanted.append(("anneal", config.anneal_fim_rate))
    for phase, rate in wanted:
        if generator(config.seed, document.id, phase, "rate").random() < rate:
            sample = completion(document, config.fim, config.seed, phase)
            samples += [sample] if sample else []
    return samples, ""


def _plain(document: Document, phase: str, cuts: tuple[int, ...] = ()) -> Sample:
    prefix = "anneal/code" if phase == "anneal" else phase
    parts = (Segment("text", document.text), Segment("special", END_OF_TEXT))
    return Sample(f"{prefix}/{document.id}", parts, (document.origin,), phase, cuts=cuts)


def _is_best(document: Document, config: SamplesConfig, anneal_from: tuple[float, str] | None) -> bool:
    quality = document.tags.get(config.quality_tag)
    if anneal_from is None or quality is None:
        return False
    return (-quality, document.id) <= (-anneal_from[0], anneal_from[1])


def triplet_samples(triplet: Triplet, config: SamplesConfig) -> tuple[list[Sample], str]:
    """Return the sample of one triplet, or none and the reason."""
    parts = triplet_segments(triplet, config.evolution_loss == "all")
    if sum(len(part.text) for part in parts) > config.max_evolution_characters:
        return [], "triplet_too_long"
    return [Sample(f"evolution/{triplet.id}", parts, (triplet.origin,), "evolution")], ""


def triplet_segments(triplet: Triplet, train_context: bool = True) -> tuple[Segment, ...]:
    """Render a triplet as the recipe renders a repository: name, messages, touched files before, then the patch.

    `train_context` False takes the loss from everything before the patch.
    """
    repository = triplet.origin.repository
    parts = [Segment("special", REPO_NAME, train_context), Segment("text", f"{repository}\n", train_context)]
    messages = "\n\n".join(message.strip() for message in triplet.messages)
    for name, text in [(MESSAGE_NAME, messages), *sorted(triplet.before.items())]:
        ending = "" if text.endswith("\n") else "\n"
        parts.append(Segment("special", FILE_SEP, train_context))
        parts.append(Segment("text", f"{name}\n{text}{ending}", train_context))
    parts += [Segment("special", FILE_SEP, train_context), Segment("text", f"{PATCH_NAME}\n", train_context)]
    parts += [Segment("text", triplet.patch), Segment("special", END_OF_TEXT)]
    return tuple(parts)


class _SetWriter:
    """Sorts the samples of one shard into one file per set and counts them; a shard's samples fit in memory."""

    def __init__(self, job: SamplesJob) -> None:
        self.job = job
        self._samples: dict[str, list[Sample]] = {}
        self._dropped: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()
        self._read = 0

    def consume(self, items: Iterator[Any], make: Callable[[Any], tuple[list[Sample], str]]) -> None:
        """Make the samples of every item and keep them by set."""
        for item in items:
            self._read += 1
            samples, reason = make(item)
            if not samples:
                self._dropped[reason] += 1
            for sample in samples:
                self._samples.setdefault(sample.phase, []).append(sample)
                self._notes[f"samples {sample.phase}"] += 1
                self._notes[f"characters {sample.phase}"] += sum(
                    len(part.text) for part in sample.segments if part.role == "text"
                )
                if sample.id.startswith("fim/"):
                    self._notes[f"fim level {sample.id.split('/')[1]}"] += 1

    def close(self) -> Counts:
        """Write the files and return the counts."""
        from codeflow.core.records import write_records

        for name, samples in sorted(self._samples.items()):
            write_records(self.job.output / f"{name}-{self.job.number:05d}.parquet", samples, Sample)
        kept = self._read - self._dropped.total()
        dropped, notes = dict(sorted(self._dropped.items())), dict(sorted(self._notes.items()))
        return Counts(read=self._read, kept=kept, dropped=dropped, notes=notes)
