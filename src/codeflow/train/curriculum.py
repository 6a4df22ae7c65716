"""Three phases by difficulty (Code-Flow §5): a set's easy, medium and hard samples, and weights that move to the hard.

    run(config, {samples}, output) -> samples in sets SET_easy, SET_medium, SET_hard

Samples are ordered by their `difficulty` and cut in thirds by number; ties are ordered by id. `three_phases` turns the
weight of SET in a phase's mixture into weights of the three sets that change twice during the phase. No level is ever
left out, so that what was learnt first is not forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import model_validator

from codeflow.core.config import Config
from codeflow.core.errors import UserError, suggest
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.types import Sample
from codeflow.execute.shards import run_shards
from codeflow.tokens.mixture import Blend, WeightChange

LEVELS = ("easy", "medium", "hard")


class CurriculumConfig(Config):
    """How a phase moves from easy to hard."""

    set: str  # of the mixture; its tokens come as SET_easy, SET_medium, SET_hard
    borders: tuple[float, float] = (1 / 3, 2 / 3)  # of the phase's steps: where the second and the third part begin
    shares: tuple[tuple[float, float, float], ...] = ((0.7, 0.25, 0.05), (0.25, 0.5, 0.25), (0.1, 0.3, 0.6))

    @model_validator(mode="after")
    def _in_order(self) -> CurriculumConfig:
        first, second = self.borders
        if not 0 < first < second < 1:
            raise ValueError(f"borders={self.borders} must rise and lie between 0 and 1, as in (0.33, 0.67)")
        if len(self.shares) != 3 or any(min(part) <= 0 for part in self.shares):
            raise ValueError("shares must be three parts of three weights above 0: easy, medium, hard")
        return self


def level_sets(name: str) -> tuple[str, ...]:
    """Return the names of a set's levels."""
    return tuple(f"{name}_{level}" for level in LEVELS)


def three_phases(
    config: CurriculumConfig, mixture: Mapping[str, float | Blend], steps: int
) -> tuple[dict[str, float | Blend], tuple[WeightChange, ...]]:
    """Return the mixture of a phase's first part, and the changes to the second and the third.

    Raises UserError when the mixture does not name the set, or the phase is too short for three parts.
    """
    if config.set not in mixture or isinstance(mixture[config.set], Blend):
        raise UserError(f"curriculum.set='{config.set}' is no set of the mixture{suggest(config.set, mixture)}")
    starts = [0, *(round(border * steps) for border in config.borders)]
    if len(set(starts)) < 3 or starts[1] < 1:
        raise UserError(f"curriculum: {steps} steps have no three parts at borders={config.borders}; train longer")
    parts = [_with_levels(mixture, config.set, shares) for shares in config.shares]
    changes = tuple(
        WeightChange(step=step, weights=weights) for step, weights in zip(starts[1:], parts[1:], strict=True)
    )
    return parts[0], changes


def _with_levels(
    mixture: Mapping[str, float | Blend], name: str, shares: tuple[float, ...]
) -> dict[str, float | Blend]:
    weight = mixture[name]
    assert not isinstance(weight, Blend)
    levels = Blend(weight=weight, of=dict(zip(level_sets(name), shares, strict=True)))
    return {**{other: part for other, part in mixture.items() if other != name}, f"{name} by difficulty": levels}


class LevelsConfig(Config):
    """The stage: which sets are split."""

    sets: tuple[str, ...] = ()  # empty: all that the samples hold


@dataclass(frozen=True, slots=True)
class LevelJob:
    """One file of samples and where its set is cut: (difficulty, id) of the first medium and the first hard sample."""

    name: str
    shard: Path
    output: Path
    set: str
    number: int
    cuts: tuple[tuple[float, str], tuple[float, str]]


def run(config: LevelsConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Split the sets of `inputs["samples"]` by difficulty; other sets are left out.

    Raises UserError for a set that is missing, or whose samples are all equally difficult.
    """
    from codeflow.tokens.pack import sample_files

    files = sample_files(inputs["samples"])
    wanted = config.sets or tuple(sorted(files))
    for name in wanted:
        if name not in files:
            raise UserError(f"no set '{name}' among the samples{suggest(name, files)}")
    cuts = {name: _cuts(name, files[name]) for name in wanted}
    jobs = [
        LevelJob(f"{name}-{number:05d}", shard, output, name, number, cuts[name])
        for name in wanted
        for number, shard in enumerate(files[name])
    ]
    counts = run_shards(_split, jobs, output, "levels")
    borders = {name: [difficulty for difficulty, _ in found] for name, found in cuts.items()}
    return seal(output, counts, {"borders": borders, "sets": dict(counts.notes)})


def _cuts(name: str, shards: list[Path]) -> tuple[tuple[float, str], tuple[float, str]]:
    from codeflow.core.records import read_records

    keys: list[tuple[float, str]] = []
    for shard in shards:
        rows: Any = read_records(shard, Sample, ["id", "difficulty"])
        keys += [(row["difficulty"], row["id"]) for row in rows]
    keys.sort()
    if len(keys) < 3 or keys[0][0] == keys[-1][0]:
        raise UserError(f"the {len(keys)} samples of set '{name}' are all equally difficult; leave it out of sets")
    return keys[len(keys) // 3], keys[2 * len(keys) // 3]


def _split(job: LevelJob) -> Counts:
    from codeflow.core.records import read_records, write_records

    parts: dict[str, list[Sample]] = {name: [] for name in level_sets(job.set)}
    for sample in read_records(job.shard, Sample):
        above = sum((sample.difficulty, sample.id) >= cut for cut in job.cuts)
        parts[level_sets(job.set)[above]].append(sample)
    for name, samples in parts.items():
        if samples:
            write_records(job.output / f"{name}-{job.number:05d}.parquet", samples, Sample)
    n = sum(map(len, parts.values()))
    return Counts(read=n, kept=n, notes={name: len(samples) for name, samples in parts.items() if samples})
