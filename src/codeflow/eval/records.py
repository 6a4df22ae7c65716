"""What an evaluation writes: rows of generations, and how scores are made from shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from codeflow.core.types import Score
from codeflow.eval.metrics import Share, bootstrap_interval, ratio


@dataclass(frozen=True, slots=True)
class Generated:
    """One output of one model, with the verdict on it. `sandbox` is a status, "" where nothing was run."""

    benchmark: str
    subset: str
    checkpoint: str
    task: str
    sample: int
    prompt: str
    output: str
    reference: str
    passed: bool
    reward: float
    reason: str
    fault: str
    sandbox: str
    backend: str
    prompt_sha256: str
    scorer: str


@dataclass(frozen=True, slots=True)
class Part:
    """The outcome of one benchmark on one checkpoint."""

    scores: tuple[Score, ...]
    generations: tuple[Generated, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scorer:
    """What all scores of one part have in common."""

    benchmark: str
    checkpoint: str
    settings: Mapping[str, str]
    n_resamples: int
    seed: int

    def score(self, metric: str, subset: str, shares: Sequence[Share], n_faults: int = 0) -> Score:
        """Return the score over `shares` with its 95 % bootstrap interval, clustered by share."""
        low, high = bootstrap_interval(shares, self.n_resamples, self.seed)
        value = ratio(shares)
        settings = dict(self.settings)
        return Score(self.benchmark, metric, subset, value, low, high, len(shares), n_faults, self.checkpoint, settings)
