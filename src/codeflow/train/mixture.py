"""A mixture that follows what is learnt: sets that degrade get more rows, sets that plateau fewer (Code-Flow §5).

After every measurement of the held-out losses the weights are looked at. A set whose loss is above its best so far, or
whose score has fallen, has its weight multiplied by `factor`; one whose loss has stopped falling has it divided. Then
all are scaled together until they sum to 1, and stop where `bound` ends: no share leaves the configured one by more.

Scores are those of the evaluation: a JSON object {set: score, higher is better} at `scores`, read at each look.

A decision is a function of the configuration and of what was measured up to its step. A change is written to the plan
(`train.row_plan`) before a row is read by it, and `MixtureState` lies in the checkpoint: a phase that was killed comes
to the same decisions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.progress import say
from codeflow.tokens.mixture import flatten

if TYPE_CHECKING:
    from codeflow.parallel.mesh import World
    from codeflow.train.row_plan import RowPlan

_DIGITS = 6  # of a weight
_HALVINGS = 60
_LEAST_CHANGE = 1e-3  # of a share; below it the plan stays as it is


class DynamicMixtureConfig(Config):
    """When weights move, and how far."""

    degrades_nats: float = Field(default=0.01, gt=0)  # a held-out loss so much above its best
    plateau_nats: float = Field(default=0.002, ge=0)  # a held-out loss that fell by less since the last look
    scores: str = ""  # file of scores by set, written by the evaluation; "": none
    degrades_score: float = Field(default=0.01, gt=0)  # a score so much below its best
    factor: float = Field(default=1.25, gt=1)
    bound: float = Field(default=3.0, gt=1)  # a share lies between the configured one divided and multiplied by this


class MixtureState(Config):
    """What was measured so far, by set."""

    best: dict[str, float] = Field(default_factory=dict)
    last: dict[str, float] = Field(default_factory=dict)
    best_scores: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """Weights that sum to 1, and why those moved that did."""

    weights: dict[str, float]
    reasons: dict[str, str]
    state: MixtureState


def decide(
    config: DynamicMixtureConfig,
    base: Mapping[str, float],
    weights: Mapping[str, float],
    state: MixtureState,
    losses: Mapping[str, float],
    scores: Mapping[str, float],
) -> Decision:
    """Return the weights for what comes next. `base` and `weights` are the configured and the present ones.

    A set is looked at once it has been measured before. Losses that are not finite count as degraded.
    """
    wanted, reasons = _shares(weights), {}
    base = _shares(base)
    for name in sorted(wanted):
        reason = _reason(config, name, state, losses, scores)
        if reason:
            wanted[name] *= 1 / config.factor if reason.startswith("plateau") else config.factor
            reasons[name] = reason
    found = {name: round(share, _DIGITS) for name, share in _within(wanted, base, config.bound).items()}
    best = {name: min(loss, state.best.get(name, math.inf)) for name, loss in losses.items() if math.isfinite(loss)}
    best_scores = {name: max(score, state.best_scores.get(name, -math.inf)) for name, score in scores.items()}
    after = MixtureState(
        best={**state.best, **best},
        last={**state.last, **{name: loss for name, loss in losses.items() if math.isfinite(loss)}},
        best_scores={**state.best_scores, **best_scores},
    )
    return Decision(found, reasons, after)


def _reason(
    config: DynamicMixtureConfig,
    name: str,
    state: MixtureState,
    losses: Mapping[str, float],
    scores: Mapping[str, float],
) -> str:
    """Return why a set's weight moves, "" when it does not."""
    loss, score = losses.get(name), scores.get(name)
    best, best_score = state.best.get(name), state.best_scores.get(name)
    if score is not None and best_score is not None and score < best_score - config.degrades_score:
        return f"degraded: score {score:.4f} after {best_score:.4f}"
    if loss is None or best is None:
        return ""
    if not loss <= best + config.degrades_nats:
        return f"degraded: held-out loss {loss:.4f} after {best:.4f}"
    return f"plateau: held-out loss {loss:.4f} after {state.last[name]:.4f}" * (
        loss > state.last[name] - config.plateau_nats
    )


def _within(wanted: Mapping[str, float], base: Mapping[str, float], bound: float) -> dict[str, float]:
    """Return shares of sum 1 in proportion to `wanted` but for those that stop at a bound, found by bisection."""

    def scaled(factor: float) -> dict[str, float]:
        return {n: min(max(factor * w, base[n] / bound), base[n] * bound) for n, w in wanted.items()}

    low, high = 0.0, bound * max(base[name] / weight for name, weight in wanted.items())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(scaled(middle).values()) < 1 else (low, middle)
    return scaled(high)


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items() if weight > 0}


class MixtureFollower:
    """Looks at the losses of a phase in training and changes its plan. All processes call it alike."""

    def __init__(self, config: DynamicMixtureConfig, row_plan: RowPlan, here: World, state: MixtureState) -> None:
        """`state` is that of the checkpoint which the phase goes on from."""
        self.state = state
        self._config, self._plan, self._here = config, row_plan, here
        self._base = flatten(row_plan.rows.plan.weights)

    def look(self, step: int, losses: Mapping[str, float], last: bool) -> dict[str, Any]:
        """Take in the losses measured after `step` steps; return why weights move, for the step's row of metrics.

        Nothing is changed after the `last` step, nor before the first.
        """
        now = self._plan.weights_at(step)
        decision = decide(self._config, self._base, now, self.state, losses, self._scores(now))
        self.state = decision.state
        far = max(abs(decision.weights[name] - share) for name, share in _shares(now).items())
        if last or step == 0 or far < _LEAST_CHANGE:
            return {}
        self._plan.change(step, decision.weights)
        return {"mixture_reasons": decision.reasons}

    def _scores(self, names: Mapping[str, float]) -> dict[str, float]:
        """Return the scores that lie in the file, as the first process reads them."""
        if not self._config.scores:
            return {}
        read = read_scores(Path(self._config.scores)) if self._here.is_first else {}
        ordered = sorted(names)
        there = self._here.sum_all(*(float(name in read) for name in ordered))
        values = self._here.sum_all(*(read.get(name, 0.0) for name in ordered))
        return {name: value for name, known, value in zip(ordered, there, values, strict=True) if known}


def read_scores(path: Path) -> dict[str, float]:
    """Return scores by set; none, and a line that says so, where the file is missing or no JSON object of numbers."""
    if not path.exists():
        return {}
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        scores = {str(name): float(score) for name, score in tree.items()}
    except (ValueError, TypeError, AttributeError, OSError):
        say(f"  {path} is no JSON object of numbers by set, so its scores are not used")
        return {}
    return {name: score for name, score in scores.items() if math.isfinite(score)}
