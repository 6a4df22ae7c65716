"""Which set each row of training comes from: weights, nested weights, and the order they are dealt out in.

Rows are dealt in cycles of `CYCLE_ROWS`. A cycle holds each set a whole number of times (its weight in units of
1/65,536, at least one) and spreads them evenly, so that any stretch of rows is close to the weights, and both "which
set is row g" and "how many rows of that set came before" are table look-ups.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CYCLE_ROWS = 2**16
PLAN_KIND, PLAN = "mixture_plan", "mixture.json"  # the artifact of `codeflow scaling allocate`
_GOLDEN_STEP = 40_503  # odd and near CYCLE_ROWS / golden ratio: multiples of it modulo CYCLE_ROWS are evenly spread

# Billions of tokens by kind of data in the two mid-training phases (Code-Flow §3).
MID_TRAINING_32K = {
    "reasoning": 175.0,
    "agent": 10.0,
    "commits": 5.0,
    "file": 35.0,
    "repository": 5.0,
    "replay": 70.0,
}
MID_TRAINING_128K = {
    "reasoning": 65.0,
    "agent": 110.0,
    "commits": 35.0,
    "file": 5.0,
    "repository": 35.0,
    "replay": 50.0,
}

FRESH_32K = "fresh_32k"


class Blend(Config):
    """A group of sets inside a mixture: its share of the whole, and the shares of its members within it."""

    weight: float
    of: dict[str, float | Blend]


class WeightChange(Config):
    """From `step` on, so after that many steps, the sets have these weights."""

    step: int = Field(ge=1)
    weights: dict[str, float | Blend]


def mid_training(table: Mapping[str, float], fresh_share: float = 0.0) -> dict[str, float | Blend]:
    """Return a table of the recipe as a mixture of sets: file and repository level are half completion.

    `fresh_share` of the whole goes to the set `fresh_32k`: phase 128k takes about a tenth from samples of 32k of which
    phase 32k has seen none (Code-Flow §3). Name it in `LoaderPlan.once` to have that kept.
    """
    halves = {name: Blend(weight=table[name], of={name: 0.5, f"{name}_fim": 0.5}) for name in ("file", "repository")}
    mixture: dict[str, float | Blend] = {**table, **halves}
    return with_fresh(mixture, fresh_share, {FRESH_32K: 1.0}) if fresh_share else mixture


def with_fresh(
    mixture: Mapping[str, float | Blend], share: float, fresh: Mapping[str, float | Blend]
) -> dict[str, float | Blend]:
    """Return a mixture of which `share` comes from the sets `fresh`, by their weights. Raises UserError unless 0..1."""
    if not 0 <= share <= 1:
        raise UserError(f"share={share}: the share of fresh sets must lie between 0 and 1")
    return {"phase": Blend(weight=1 - share, of=dict(mixture)), "fresh": Blend(weight=share, of=dict(fresh))}


def without(mixture: Mapping[str, float | Blend], absent: Collection[str]) -> dict[str, float | Blend]:
    """Return the mixture without some sets: within a group the others share their part, an emptied group goes too."""
    left: dict[str, float | Blend] = {}
    for name, part in mixture.items():
        if isinstance(part, Blend):
            of = without(part.of, absent)
            if of:
                left[name] = Blend(weight=part.weight, of=of)
        elif name not in absent:
            left[name] = part
    return left


def by_epochs(epochs: Mapping[str, float], n_rows: Mapping[str, int]) -> tuple[dict[str, float], int]:
    """Return the weights that read each set so often, and the number of rows after which they have.

    `n_rows` by set are rows of the plan's context. Raises UserError for a set without rows and for a number of epochs
    that is negative or not finite.
    """
    for name, times in epochs.items():
        if not n_rows.get(name):
            raise UserError(f"set '{name}' has no rows to read {times:g} times; sets with rows: {', '.join(n_rows)}")
        if not (math.isfinite(times) and times >= 0):
            raise UserError(f"epochs.{name}={times}: a number of epochs must be a finite number >= 0")
    wanted = {name: times * n_rows[name] for name, times in epochs.items()}
    return flatten(wanted), round(sum(wanted.values()))


def flatten(mixture: Mapping[str, float | Blend]) -> dict[str, float]:
    """Return the weight of every set of a nested mixture; they sum to 1.

    Raises UserError for a weight that is negative or not finite, for a set named twice and where nothing is positive.
    """
    flat: dict[str, float] = {}
    _flatten_into(flat, mixture, 1.0, "mixture")
    return flat


def _flatten_into(flat: dict[str, float], mixture: Mapping[str, float | Blend], share: float, path: str) -> None:
    weights = {name: part.weight if isinstance(part, Blend) else part for name, part in mixture.items()}
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"{path}.{name}={weight}: a weight must be a finite number >= 0")
    total = sum(weights.values())
    if total <= 0:
        raise UserError(f"{path}: no set has a positive weight; give one of {', '.join(weights) or '(none)'} a weight")
    for name, part in mixture.items():
        part_share = share * weights[name] / total
        if isinstance(part, Blend):
            if weights[name] > 0:
                _flatten_into(flat, part.of, part_share, f"{path}.{name}")
        elif name in flat:
            raise UserError(f"{path}: set '{name}' is named twice; keep one")
        else:
            flat[name] = part_share


def cycle_counts(weights: Mapping[str, float]) -> dict[str, int]:
    """Return how often each set comes in a cycle: largest remainders, at least one where the weight is positive."""
    positive = {name: weight for name, weight in weights.items() if weight > 0}
    total = sum(positive.values())
    exact = {name: weight / total * CYCLE_ROWS for name, weight in positive.items()}
    counts = {name: max(1, math.floor(value)) for name, value in exact.items()}
    by_need = sorted(positive, key=lambda name: (counts[name] - exact[name], name))
    missing = CYCLE_ROWS - sum(counts.values())
    for n in range(max(missing, 0)):
        counts[by_need[n % len(by_need)]] += 1
    for _ in range(max(-missing, 0)):  # many tiny weights were rounded up to one: take from the largest
        counts[max(sorted(counts), key=counts.__getitem__)] -= 1
    return counts


def read_plan(folder: Path) -> dict[str, float]:
    """Return the weights by set of a mixture plan artifact. Raises UserError when it is none."""
    from codeflow.core.manifest import require_kind

    require_kind(folder, [PLAN_KIND])
    return flatten(json.loads((folder / PLAN).read_text())["weights"])


def with_plan(mixture: Mapping[str, float], plan: Mapping[str, float]) -> dict[str, float]:
    """Return the mixture with the sets of a plan dealt by the plan; together they keep the weight they had.

    Where the mixture names no set of the plan, it is the plan alone. Raises UserError where it names only some.
    """
    named = [name for name in plan if name in mixture]
    if not named:
        return dict(plan)
    missing = [name for name in plan if name not in mixture and plan[name] > 0]
    if missing:
        raise UserError(f"the plan deals set '{missing[0]}', which mixture does not name; give it a weight there")
    whole = sum(mixture[name] for name in named)
    total = sum(plan.values())
    return {name: whole * plan[name] / total if name in plan else weight for name, weight in mixture.items()}


@dataclass(frozen=True)
class Deal:
    """The order of sets within a cycle, with the counts before each place."""

    names: tuple[str, ...]
    counts: NDArray[np.int64]  # (S,) per cycle
    set_at: NDArray[np.int64]  # (CYCLE_ROWS,) index into names
    before: NDArray[np.int64]  # (CYCLE_ROWS,) rows of the same set earlier in the cycle

    def at(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return for each row number its set (index into names) and how many rows of that set came before it."""
        cycle, place = np.divmod(rows, CYCLE_ROWS)
        which = self.set_at[place]
        return which, cycle * self.counts[which] + self.before[place]

    def rows_of_sets(self, n_rows: int) -> NDArray[np.int64]:
        """Return how many of the first `n_rows` rows come from each set, (S,)."""
        cycles, rest = divmod(n_rows, CYCLE_ROWS)
        return cycles * self.counts + np.bincount(self.set_at[:rest], minlength=len(self.names))


def deal(weights: Mapping[str, float], seed: int) -> Deal:
    """Build the order in which the sets of positive weight are dealt; the seed turns it, the spread stays even."""
    per_set = cycle_counts(weights)
    names = tuple(sorted(per_set))
    counts = np.array([per_set[name] for name in names], np.int64)
    spread = (np.arange(CYCLE_ROWS, dtype=np.int64) * _GOLDEN_STEP + seed) % CYCLE_ROWS  # a permutation
    set_at = np.searchsorted(np.cumsum(counts), spread, side="right")
    before = np.empty(CYCLE_ROWS, np.int64)
    for index in range(len(names)):
        mine = set_at == index
        before[mine] = np.arange(counts[index])
    return Deal(names, counts, set_at, before)
