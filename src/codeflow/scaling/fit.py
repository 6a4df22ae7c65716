"""From runs to a law: parameters with intervals, what the runs cannot tell, and how well the law extrapolates.

per-language law     runs of one language by itself: A, B, aN, aD, L_inf each its own (Chinchilla)
multilingual law     all runs: A and B shared, exponents and floors mixed by the shares, transfer between pairs
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.scaling.estimate import (
    Estimate,
    Resampled,
    Settings,
    bootstrap,
    estimate,
    half_widths,
    spread_residuals,
    standard_errors,
    with_resampled_errors,
)
from codeflow.scaling.identify import UNDETERMINED, warnings_of
from codeflow.scaling.law import Design, ScalingLaw
from codeflow.scaling.runs import Points

if TYPE_CHECKING:
    from numpy.typing import NDArray

Transfer = Literal["none", "pairs", "gamma"]
_SPARE_RUNS = 2  # more runs than parameters, at least, so that there is noise to measure


class Parameter(Config):
    """One parameter with its interval; `standard_error` is of the value, or of its logarithm where `logarithmic`."""

    name: str
    value: float
    low: float
    high: float
    standard_error: float
    logarithmic: bool


class HoldOut(Config):
    """How the law of the smaller runs predicts the largest ones."""

    n_fitted: int
    n_held_out: int
    smallest_held_out_flops: float
    mean_error: float  # mean of |predicted / measured - 1|
    largest_error: float
    inside: float  # share of the measured losses inside their prediction interval


class LawFit(Config):
    """A law fitted to runs, JSON-able."""

    law: ScalingLaw
    parameters: tuple[Parameter, ...]
    n_runs: int
    noise: float  # robust standard deviation of log loss around the law
    huber_delta: float
    confidence: float
    resample: str
    hold_out: HoldOut | None
    warnings: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]  # of the coefficients of transfer; empty with none, or with one gamma
    runs: tuple[str, ...]
    residuals: tuple[float, ...]  # (R,) log of measured over predicted


@dataclass(frozen=True)
class Fitted:
    """A fit with what its prediction intervals need."""

    fit: LawFit
    design: Design  # in the law's units
    draws: NDArray[np.float64]  # (B, P) parameters of resampled fits, in the order of `Design`
    spread: NDArray[np.float64]  # (R,) residuals of log loss, as wide as the noise
    tau: NDArray[np.float64] | None  # (K, K) that gamma multiplies

    def predict(
        self, n_parameters: NDArray[np.float64], n_tokens: NDArray[np.float64], shares: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return predicted loss and the interval in which one more run would fall, each (R,)."""
        value = self.fit.law.loss(n_parameters, n_tokens, shares)
        design = self._design_at(n_parameters, n_tokens, shares)
        rng = np.random.default_rng(len(self.spread))
        noise = rng.choice(self.spread, (len(self.draws), len(value)))
        deviation = np.abs(design.log_loss(self.draws) - np.log(value) + noise)
        half = np.quantile(deviation, self.fit.confidence, axis=0)
        return value, value * np.exp(-half), value * np.exp(half)

    def _design_at(
        self, n_parameters: NDArray[np.float64], n_tokens: NDArray[np.float64], shares: NDArray[np.float64]
    ) -> Design:
        law = self.fit.law
        pairs = [(law.languages.index(i), law.languages.index(j)) for i, j in self.fit.pairs]
        return Design(
            np.log(np.asarray(n_parameters) / law.parameters_unit),
            np.log(np.asarray(n_tokens) / law.tokens_unit),
            np.atleast_2d(shares),
            transfer_columns(np.atleast_2d(shares), pairs, self.tau),
        )


def transfer_columns(
    shares: NDArray[np.float64], pairs: Sequence[tuple[int, int]], tau: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return what multiplies each coefficient of transfer, (R, M): p_i p_j of each pair, or with tau one column."""
    if tau is not None:
        off_diagonal = tau - np.diag(np.diag(tau))
        return np.einsum("ri,ij,rj->r", shares, off_diagonal, shares)[:, None]
    columns = [shares[:, i] * shares[:, j] for i, j in pairs]
    return np.stack(columns, 1) if columns else np.zeros((len(shares), 0))


def fit_law(
    points: Points,
    settings: Settings,
    transfer: Transfer = "none",
    tau: NDArray[np.float64] | None = None,
    hold_out_share: float = 0.2,
    units: tuple[float, float] | None = None,
) -> Fitted:
    """Fit the law to runs; `tau` (K, K) is what gamma multiplies with `transfer="gamma"`.

    `hold_out_share` of the runs, those of most compute, are predicted from the others (0: none). `units` are N0 and D0
    of a law of several languages (None: the runs' geometric means); a law of one language is in single parameters and
    tokens. Raises UserError when there are too few runs for the parameters.
    """
    pairs = _mixed_pairs(points) if transfer == "pairs" else []
    used_tau = tau if transfer == "gamma" else None
    columns = transfer_columns(points.shares, pairs, used_tau)
    if used_tau is not None and not columns.any():
        raise UserError("transfer=gamma, but no run mixes languages that tau joins; use transfer=none")
    n_free = 2 + 3 * len(points.languages) + columns.shape[1]
    if len(points) < n_free + _SPARE_RUNS:
        raise UserError(
            f"{len(points)} runs of {', '.join(points.languages)} for {n_free} parameters; "
            f"at least {n_free + _SPARE_RUNS} are needed, several times as many are better"
        )
    names = tuple((points.languages[i], points.languages[j]) for i, j in pairs)
    units = units or (_centre(points.n_parameters), _centre(points.n_tokens))
    design, found, resampled = _in_law_units(points, columns, settings, units)
    found = with_resampled_errors(found, resampled)
    hold_out = _hold_out(points, settings, (transfer, used_tau), hold_out_share, units)
    law = _law(points, design, found.theta, pairs, used_tau)
    half = half_widths(design, found, resampled, settings.confidence)
    parameters = tuple(_parameters(law, names, points, found, half))
    fit = LawFit(
        law=law,
        parameters=parameters,
        n_runs=len(points),
        noise=found.noise,
        huber_delta=found.huber_delta,
        confidence=settings.confidence,
        resample=settings.resample,
        hold_out=hold_out,
        warnings=tuple(warnings_of(points, [p.name for p in parameters], found, design, transfer)),
        pairs=names,
        runs=points.names,
        residuals=tuple(found.residuals.tolist()),
    )
    return Fitted(fit, design, resampled.theta, spread_residuals(found), used_tau)


def _centre(values: NDArray[np.float64]) -> float:
    return float(np.exp(np.log(values).mean()))


def _in_law_units(
    points: Points, columns: NDArray[np.float64], settings: Settings, units: tuple[float, float]
) -> tuple[Design, Estimate, Resampled]:
    """Fit in `units`, near the middle of the runs, where the problem is well conditioned.

    They stay the law's units with several languages (they are part of it); with one, the law is turned into plain
    parameters and tokens.
    """
    log_n, log_d = np.log(points.n_parameters), np.log(points.n_tokens)
    centre_n, centre_d = np.log(units)
    centred = Design(log_n - centre_n, log_d - centre_d, points.shares, columns)
    log_loss = np.log(points.loss)
    found = estimate(centred, log_loss, settings)
    resampled = bootstrap(centred, found, log_loss, settings)
    if len(points.languages) > 1:
        return centred, found, resampled
    plain = Design(log_n, log_d, points.shares, columns)

    def turned(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        theta = theta.copy()
        theta[..., 0] += theta[..., 2] * centre_n
        theta[..., 1] += theta[..., 3] * centre_d
        return theta

    theta = turned(found.theta)
    error, correlation, *_ = standard_errors(plain, theta[None], log_loss[None], found.huber_delta)
    found = dataclasses.replace(found, theta=theta, standard_error=error[0], correlation=correlation[0])
    return plain, found, dataclasses.replace(resampled, theta=turned(resampled.theta))


def _mixed_pairs(points: Points) -> list[tuple[int, int]]:
    """Return the pairs of languages that some run mixes: others have no coefficient to measure."""
    shares = points.shares
    return [(i, j) for i, j in combinations(range(shares.shape[1]), 2) if (shares[:, i] * shares[:, j]).any()]


def _law(
    points: Points,
    design: Design,
    theta: NDArray[np.float64],
    pairs: Sequence[tuple[int, int]],
    tau: NDArray[np.float64] | None,
) -> ScalingLaw:
    transfer = theta[design.blocks()[3]]
    k = len(points.languages)
    kappa = np.zeros((k, k))
    if tau is not None:
        kappa = transfer[0] * (tau + tau.T)
        np.fill_diagonal(kappa, 0.0)
    for (i, j), value in zip(pairs, transfer, strict=False):
        kappa[i, j] = kappa[j, i] = value
    units = (
        float(points.n_parameters[0] / np.exp(design.log_n[0])),
        float(points.n_tokens[0] / np.exp(design.log_d[0])),
    )
    return ScalingLaw.of(points.languages, units, theta, kappa if design.transfer.shape[1] else None)


def _parameters(
    law: ScalingLaw, pairs: Sequence[tuple[str, str]], points: Points, found: Estimate, half: NDArray[np.float64]
) -> list[Parameter]:
    k = len(law.languages)
    by_language = [name if k == 1 else f"{name} {one}" for name in ("aN", "aD", "L_inf") for one in law.languages]
    n_transfer = len(found.theta) - 2 - 3 * k
    names = ["A", "B", *by_language, *([f"kappa {i} + {j}" for i, j in pairs] or ["gamma"] * n_transfer)]
    largest_floor = dict(zip(names[2 + 2 * k : 2 + 3 * k], _largest_floors(points), strict=True))
    result = []
    rows = zip(names, found.theta.tolist(), half.tolist(), found.standard_error.tolist(), strict=True)
    for name, value, width, error in rows:
        is_log = name in ("A", "B") or name in largest_floor
        ends = (value, value - width, value + width)
        value, low, high = np.exp(np.minimum(ends, 700.0)).tolist() if is_log else ends
        if name in largest_floor and error > UNDETERMINED:  # flat below some value: no width in its logarithm holds
            low, high = 0.0, largest_floor[name]
        result.append(Parameter(name=name, value=value, low=low, high=high, standard_error=error, logarithmic=is_log))
    return result


def _largest_floors(points: Points) -> list[float]:
    """Return for each language the greatest L_inf that no run contradicts, (K,): all other terms are above 0."""
    with np.errstate(divide="ignore"):
        return (points.loss[:, None] / points.shares).min(0).tolist()


def _hold_out(
    points: Points,
    settings: Settings,
    transfer: tuple[Transfer, NDArray[np.float64] | None],
    share: float,
    units: tuple[float, float],
) -> HoldOut | None:
    """Predict the runs of most compute from the others; None where too few would be left to fit."""
    n_held = round(share * len(points))
    order = np.argsort(points.compute_flops, kind="stable")
    fitted, held = points.take(order[: len(points) - n_held]), points.take(order[len(points) - n_held :])
    unseen = (fitted.shares > 0).any(0) < (points.shares > 0).any(0)
    if n_held == 0 or unseen.any():
        return None
    try:
        smaller = fit_law(fitted, settings, *transfer, hold_out_share=0.0, units=units)
    except UserError:  # too few runs are left
        return None
    value, low, high = smaller.predict(held.n_parameters, held.n_tokens, held.shares)
    error = np.abs(value / held.loss - 1)
    return HoldOut(
        n_fitted=len(fitted),
        n_held_out=n_held,
        smallest_held_out_flops=float(held.compute_flops.min()),
        mean_error=float(error.mean()),
        largest_error=float(error.max()),
        inside=float(((low <= held.loss) & (held.loss <= high)).mean()),
    )


def value_of(fit: LawFit, shares: Mapping[str, float], n_parameters: float, n_tokens: float) -> float:
    """Return the law's loss at one size, number of tokens and mixture by name."""
    return float(fit.law.loss(n_parameters, n_tokens, fit.law.share_vector(shares))[0])
