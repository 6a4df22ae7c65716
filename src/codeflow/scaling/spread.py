"""How far a plan follows from the runs: the same question asked of every resampled fit.

The bootstrap's fits are laws that the same runs could have given as well. Allocating under each of them shows how far
the shares move; comparing the chosen shares with uniform ones under each shows whether the gain is more than noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from codeflow.core.config import Config
from codeflow.scaling.allocate import Bounds, Objective, minimise
from codeflow.scaling.law import ScalingLaw

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from codeflow.scaling.fit import LawFit

_MOST_FITS = 200  # a share's 95 % interval moves little beyond that
_LEAST_FITS = 20


class Spread(Config):
    """Intervals over resampled fits, each (low, high)."""

    confidence: float
    n_fits: int
    shares: dict[str, tuple[float, float]]
    gain: tuple[float, float]  # loss at uniform shares minus loss at the plan's


def resampled_laws(fit: LawFit, draws: NDArray[np.float64]) -> Iterator[ScalingLaw]:
    """Yield the laws of a fit's resamples, draws (B, P)."""
    law, k = fit.law, len(fit.law.languages)
    units = (law.parameters_unit, law.tokens_unit)
    start = 2 + 3 * k
    gamma = next((p.value for p in fit.parameters if p.name == "gamma"), None)
    for theta in draws:
        kappa = np.array(law.kappa) if law.kappa else None
        if kappa is not None and gamma is not None:
            kappa = kappa * (theta[start] / gamma if gamma else 0.0)
        elif kappa is not None:
            for (i, j), value in zip(fit.pairs, theta[start:], strict=True):
                a, b = law.languages.index(i), law.languages.index(j)
                kappa[a, b] = kappa[b, a] = value
        yield ScalingLaw.of(law.languages, units, theta, kappa)


def spread(
    objective_under: Callable[[Mapping[str, ScalingLaw]], Objective],
    laws: Mapping[str, LawFit],
    draws: Mapping[str, NDArray[np.float64]],
    bounds: Bounds,
    best: NDArray[np.float64],
    languages: tuple[str, ...],
) -> Spread | None:
    """Return the intervals of shares and gain, or None when too few resampled fits give finite losses."""
    confidence = next(iter(laws.values())).confidence
    uniform = bounds.nearest(np.full(len(best), 1 / len(best)))
    names = list(laws)
    chosen = [resampled_laws(laws[name], draws[name][:_MOST_FITS]) for name in names]
    shares, gains = [], []
    with np.errstate(all="ignore"):  # a resample may stray to exponents that overflow; those are left out
        for some in zip(*chosen, strict=False):
            objective = objective_under(dict(zip(names, some, strict=True)))
            values = objective(np.stack([uniform, best]))
            if np.isfinite(values).all():
                shares.append(minimise(objective, bounds, best))
                gains.append(float(values[0] - values[1]))
    if len(gains) < _LEAST_FITS:
        return None
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(np.array(shares), ends, axis=0).tolist()
    least, most = np.quantile(gains, ends).tolist()
    rows = zip(languages, low, high, strict=True)
    return Spread(
        confidence=confidence, n_fits=len(gains), shares={name: (a, b) for name, a, b in rows}, gain=(least, most)
    )
