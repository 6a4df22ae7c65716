"""Parallel pairing: a snippet and its translation in one sample, for translation and for cross-lingual transfer.

From aligned pairs (the same program in two languages) comes either the direct form, one text after the other as two
files, or the prompted form, with a request for the translation between them (Scaling Laws for Code, §5: pairing beats
shuffling the two sides as documents of their own). Both directions occur, drawn by seed and pair. `shuffled` gives the
two sides as separate samples: the control.

Pairs come as JSON lines, `{"id": ..., "texts": {"Python": ..., "Java": ...}, "origin": {...}}` in `pairs-*.jsonl`; a
record with more languages gives up to `pairs_per_record` of its combinations, drawn. Not covered: finding pairs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.languages import BY_NAME
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.types import Origin, Sample, Segment
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool
from codeflow.execute.shards import run_shards
from codeflow.tokens.special import END_OF_TEXT, FILE_SEP
from codeflow.transform.fim import generator

SET = "pairs"
_RECORD = '{"id", "texts": {language: text}, "origin": {...}}'
_REQUEST = "Translate this {source} program to {target}."


class PairingConfig(Config):
    """How pairs become samples."""

    seed: int = 0
    form: Literal["parallel", "shuffled"] = "parallel"
    prompted_share: float = Field(default=0.5, ge=0, le=1)  # of parallel samples, with a request between the sides
    pairs_per_record: int = Field(default=1, ge=1)
    train_on: Literal["all", "target"] = "all"  # of prompted samples: everything, or the translation alone


@dataclass(frozen=True, slots=True)
class Pair:
    """The same program in two languages, names of core.languages."""

    id: str
    languages: tuple[str, str]
    texts: tuple[str, str]
    origin: Origin


@dataclass(frozen=True, slots=True)
class PairingJob:
    """One file of pairs."""

    number: int
    path: Path
    config: PairingConfig
    output: Path

    @property
    def name(self) -> str:
        return f"{SET}-{self.number:05d}"

    @property
    def reads(self) -> str:
        """Say what it reads, for messages."""
        return str(self.path)


def run(config: PairingConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Write `pairs-NNNNN.parquet` of Sample from the `pairs-*.jsonl` of `inputs["pairs"]`.

    Counts: read are records, dropped those with fewer than two languages. Metrics: samples by pair of languages.
    Raises UserError for a malformed record, with file and line.
    """
    paths = sorted(inputs["pairs"].glob("pairs-*.jsonl"))
    if not paths:
        raise UserError(f"no pairs-*.jsonl in {inputs['pairs']}; give a folder with aligned pairs")
    counts = run_shards(
        make_shard, [PairingJob(n, path, config, output) for n, path in enumerate(paths)], output, SET, pool
    )
    prefix = "pair "
    pairs = {note.removeprefix(prefix): n for note, n in counts.notes.items() if note.startswith(prefix)}
    return seal(output, counts, {"sets": {SET: {"samples": counts.notes.get("samples", 0)}}, "pairs": pairs})


def make_shard(job: PairingJob) -> Counts:
    """Make the samples of one file of pairs."""
    from codeflow.core.records import write_records

    notes: Counter[str] = Counter()
    samples: list[Sample] = []
    read = kept = 0
    with job.path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            read += 1
            pairs = drawn(_record(line, f"{job.path}, line {number}"), job.config)
            kept += bool(pairs)
            for pair in pairs:
                notes[f"pair {' -> '.join(pair.languages)}"] += 1
                samples += pair_samples(pair, job.config)
    write_records(job.output / f"{job.name}.parquet", samples, Sample)
    dropped = {"fewer_than_two_languages": read - kept} if kept < read else {}
    return Counts(read=read, kept=kept, dropped=dropped, notes={**dict(sorted(notes.items())), "samples": len(samples)})


def _record(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        known = Origin(**record["origin"])
        texts = {str(name): str(text) for name, text in record["texts"].items() if str(text).strip()}
        found = {"id": str(record["id"]), "texts": texts, "origin": known}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{place}: {type(error).__name__} {error}; a record is {_RECORD}") from None
    unknown = sorted(set(texts) - set(BY_NAME))
    if unknown:
        raise UserError(f"{place}: unknown language '{unknown[0]}'; use a name of codeflow.core.languages")
    return found


def drawn(record: Mapping[str, Any], config: PairingConfig) -> list[Pair]:
    """Return the pairs of a record: distinct combinations of its languages, each in a drawn direction."""
    rng = generator(config.seed, record["id"], "pairs")
    texts: Mapping[str, str] = record["texts"]
    every = list(combinations(sorted(texts), 2))
    pairs = []
    for number, languages in enumerate(rng.sample(every, min(config.pairs_per_record, len(every)))):
        source, target = languages if rng.random() < 0.5 else languages[::-1]
        name = f"{record['id']}/{number}"
        pairs.append(Pair(name, (source, target), (texts[source], texts[target]), record["origin"]))
    return pairs


def pair_samples(pair: Pair, config: PairingConfig) -> Iterator[Sample]:
    """Yield the one sample of a pair, or in shuffled form the sample of each side."""
    if config.form == "shuffled":
        for language, text in zip(pair.languages, pair.texts, strict=True):
            parts = (*_side(language, text), Segment("special", END_OF_TEXT))
            yield Sample(f"{SET}/shuffled/{pair.id}/{language}", parts, (pair.origin,), SET)
        return
    prompted = generator(config.seed, pair.id, "form").random() < config.prompted_share
    train = not (prompted and config.train_on == "target")
    parts = [*_side(pair.languages[0], pair.texts[0], train)]
    if prompted:
        request = _REQUEST.format(source=pair.languages[0], target=pair.languages[1])
        parts += [Segment("special", FILE_SEP, train), Segment("text", f"{request}\n", train)]
    parts += [*_side(pair.languages[1], pair.texts[1]), Segment("special", END_OF_TEXT)]
    form = "prompted" if prompted else "direct"
    yield Sample(f"{SET}/{form}/{pair.id}", tuple(parts), (pair.origin,), SET)


def _side(language: str, text: str, train: bool = True) -> Iterator[Segment]:
    """Yield one side as a file, named after its language."""
    name = f"program{BY_NAME[language].extensions[0]}"
    ending = "" if text.endswith("\n") else "\n"
    yield Segment("special", FILE_SEP, train)
    yield Segment("text", f"{name}\n", train)
    yield Segment("text", f"{text}{ending}", train)
