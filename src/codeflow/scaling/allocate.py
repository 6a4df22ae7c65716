"""Which share of a token budget each language gets.

Two objectives, both minimised over the simplex between floors and ceilings:

    languages   sum_k w_k L_k(N, D_k), each language by its own law; D_k = its tokens, those beyond what is available at
                a decaying value, plus worth(k, j) times the tokens of every other language j
    mixture     the multilingual law itself, L(N, D; p), the loss on text mixed like the training tokens

`mixture` is the published formula taken at its word: since L_inf(p) is the mean of the floors under p, it rewards
training on whatever language is easiest to predict, and only floors keep it from giving everything to that one. The
default is `languages`: what is to be predicted is fixed by the weights w, not by what one chooses to train on.

Repeated tokens are worth exp(-repetition / R*) of fresh ones, R* = 15.4: D = U + U R* (1 - exp(-(n/U - 1) / R*)) for n
tokens drawn from U available ones (Muennighoff et al. 2023).

Legend: C candidates, K languages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from codeflow.core.errors import UserError, suggest
from codeflow.scaling.law import ScalingLaw

if TYPE_CHECKING:
    from numpy.typing import NDArray

REPETITION_DECAY = 15.4
_FIRST_STEP, _LAST_STEP = 0.25, 1e-7
_LEAST_TOKENS = 1.0  # a law of powers has no value at 0 tokens
_MOST_MOVES = 20_000

Objective = Callable[["NDArray[np.float64]"], "NDArray[np.float64]"]  # shares (C, K) -> loss (C,)


@dataclass(frozen=True)
class Bounds:
    """Least and greatest share of each language, (K,)."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def of(cls, languages: tuple[str, ...], floors: Mapping[str, float], ceilings: Mapping[str, float]) -> Bounds:
        """Build bounds from names. Raises UserError for an unknown language or bounds that no shares satisfy."""
        for what, given in (("floor", floors), ("ceiling", ceilings)):
            for name, value in given.items():
                if name not in languages:
                    raise UserError(f"{what} of '{name}': no such language{suggest(name, languages)}")
                if not 0 <= value <= 1:
                    raise UserError(f"{what} of {name} is {value}; a share lies in 0 .. 1")
        low = np.array([floors.get(name, 0.0) for name in languages])
        high = np.array([ceilings.get(name, 1.0) for name in languages])
        for name, least, most in zip(languages, low, high, strict=True):
            if least > most:
                raise UserError(f"floor {least} of {name} exceeds its ceiling {most}; lower the floor")
        if low.sum() > 1 + 1e-12:
            raise UserError(f"the floors sum to {low.sum():.4g}; they must leave room within 1")
        if high.sum() < 1 - 1e-12:
            raise UserError(f"the ceilings sum to {high.sum():.4g}; together they must reach 1")
        return cls(low, high)

    def nearest(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the shares within the bounds, summing to 1, that are nearest to `shares` (K,)."""
        below, above = -1.0 - shares.max(), 1.0 + abs(shares.min())
        for _ in range(100):
            middle = (below + above) / 2
            if np.clip(shares + middle, self.low, self.high).sum() < 1:
                below = middle
            else:
                above = middle
        return np.clip(shares + above, self.low, self.high)


@dataclass(frozen=True)
class PerLanguage:
    """The objective `languages`."""

    laws: tuple[ScalingLaw, ...]  # (K,) each of one language
    n_parameters: float | NDArray[np.float64]  # one for all candidates, or (C,)
    n_tokens: float | NDArray[np.float64]
    weights: NDArray[np.float64]  # (K,) sum 1
    worth: NDArray[np.float64]  # (K, K) tokens of the row's language that one of the column's stands for; diagonal 1
    available: NDArray[np.float64]  # (K,) tokens there are; inf: no bound
    repetition_decay: float = REPETITION_DECAY

    def losses(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the predicted loss of every language, (C, K), at shares (C, K)."""
        drawn = shares * np.reshape(self.n_tokens, (-1, 1))
        fresh = with_repetition(drawn, self.available, self.repetition_decay)
        effective = np.maximum(fresh @ self.worth.T, _LEAST_TOKENS)
        one = np.ones((1, 1))
        columns = [law.loss(self.n_parameters, effective[:, k], one) for k, law in enumerate(self.laws)]
        return np.stack(columns, 1)

    def __call__(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.losses(shares) @ self.weights


@dataclass(frozen=True)
class OnMixture:
    """The objective `mixture`."""

    law: ScalingLaw
    n_parameters: float | NDArray[np.float64]  # one for all candidates, or (C,)
    n_tokens: float | NDArray[np.float64]
    available: NDArray[np.float64]  # (K,)
    repetition_decay: float = REPETITION_DECAY

    def __call__(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        fresh = with_repetition(shares * np.reshape(self.n_tokens, (-1, 1)), self.available, self.repetition_decay).sum(
            1
        )
        return self.law.loss(self.n_parameters, np.maximum(fresh, _LEAST_TOKENS), shares)


def with_repetition(tokens: NDArray[np.float64], available: NDArray[np.float64], decay: float) -> NDArray[np.float64]:
    """Return what tokens (C, K) are worth in fresh ones when only `available` (K,) are distinct."""
    bounded = np.isfinite(available) & (available > 0)
    distinct = np.where(bounded, available, 1.0)
    repeats = np.maximum(tokens / distinct - 1, 0.0)
    repeated = distinct * (1 + decay * -np.expm1(-repeats / decay))
    value = np.where(tokens > available, repeated, tokens)
    return np.where(available > 0, value, 0.0)


def minimise(objective: Objective, bounds: Bounds, start: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Return the shares (K,) of least loss within bounds, searched from `start` (K,) alone where it is given.

    Moves share between pairs of languages, always the best move of a size, then halves the size. Pairs span every
    direction within the simplex, so with a smooth objective nothing better is near where no small move helps; several
    starts guard against other valleys.
    """
    k = len(bounds.low)
    starts = (np.full(k, 1 / k), *(np.eye(k) * 0.8 + 0.2 / k)) if start is None else (start,)
    best, least = None, np.inf
    for first in starts:
        shares = _descend(objective, bounds, bounds.nearest(first))
        value = float(objective(shares[None])[0])
        if value < least - 1e-12:
            best, least = shares, value
    assert best is not None, "no start gave a finite loss"
    return best


def _descend(objective: Objective, bounds: Bounds, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    givers, takers = np.nonzero(~np.eye(len(shares), dtype=bool))
    if not len(givers):
        return shares
    value, step = float(objective(shares[None])[0]), _FIRST_STEP
    rows = np.arange(len(givers))
    for _ in range(_MOST_MOVES):
        room = np.minimum(shares[givers] - bounds.low[givers], bounds.high[takers] - shares[takers])
        moves = np.maximum(np.minimum(step, room), 0.0)
        candidates = np.repeat(shares[None], len(givers), 0)
        candidates[rows, givers] -= moves
        candidates[rows, takers] += moves
        values = objective(candidates)
        found = int(np.argmin(values))
        if values[found] < value:
            shares, value = candidates[found], float(values[found])
        elif step < _LAST_STEP:
            break
        else:
            step /= 2
    return shares
