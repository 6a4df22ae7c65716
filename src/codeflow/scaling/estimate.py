"""One regression with its uncertainty: starts, robust scale, standard errors, bootstrap, intervals.

Intervals are symmetric studentised bootstrap intervals: each resampled fit is measured in its own standard errors, and
the 95 % quantile of that size replaces the normal distribution's 1.96. With a few dozen runs percentile intervals are
too narrow (about 93 % coverage where 95 % is meant); these are not (docs/campaigns/scaling_coverage.md).

Legend: B resamples, R runs, P parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from codeflow.core.config import Config
from codeflow.scaling.law import Design
from codeflow.scaling.optimise import Problem, lbfgs, polish

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FIRST_DELTA = 1e-3  # of the first fit, which finds the scale of the noise (Hoffmann et al. 2022)
_HUBER = 1.345  # in units of the noise: 95 % of least squares' efficiency where the noise is normal
_LEAST_DELTA = 1e-7  # runs without noise
_MAD = 1.4826  # median absolute deviation to standard deviation
_CHUNK = 2_000_000  # doubles of one Jacobian
_LARGEST_LEVERAGE = 0.95
_RIDGE = 1e-13
_LEAST_SQUARE = 1e-100  # of a column of the Jacobian: a parameter without effect has a huge error, not an infinite one


class Settings(Config):
    """How a law is fitted."""

    huber_delta: float | None = Field(default=None, gt=0)  # in log loss; None: 1.345 times the noise found
    n_starts: int = Field(default=64, ge=1)
    n_bootstrap: int = Field(default=1000, ge=100)
    resample: Literal["residuals", "runs"] = "residuals"  # runs: where the noise differs from run to run
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Estimate:
    """What one regression found."""

    theta: NDArray[np.float64]  # (P,)
    standard_error: NDArray[np.float64]  # (P,)
    correlation: NDArray[np.float64]  # (P, P)
    residuals: NDArray[np.float64]  # (R,) of log loss
    leverage: NDArray[np.float64]  # (R,)
    noise: float  # robust standard deviation of log loss
    huber_delta: float


def starts(design: Design, log_loss: NDArray[np.float64], n: int, seed: int) -> NDArray[np.float64]:
    """Return starting points (n, P): exponents and floors drawn, the two terms sharing what lies above the floor."""
    rng = np.random.default_rng(seed)
    theta = np.zeros((n, design.n_free))
    n_slice, d_slice, e_slice, _ = design.blocks()
    k = design.n_languages
    theta[:, n_slice] = rng.uniform(0.05, 1.2, (n, 1)) * rng.uniform(0.8, 1.25, (n, k))
    theta[:, d_slice] = rng.uniform(0.05, 1.2, (n, 1)) * rng.uniform(0.8, 1.25, (n, k))
    floor = np.exp(log_loss.min()) * rng.uniform(0.05, 0.97, (n, 1))
    theta[:, e_slice] = np.log(floor) + rng.uniform(-0.1, 0.1, (n, k))
    above = np.maximum(np.exp(np.median(log_loss)) - floor[:, 0], 0.02 * np.exp(log_loss.min()))
    share = rng.uniform(0.1, 0.9, n)
    theta[:, 0], theta[:, 1] = np.log(above * share), np.log(above * (1 - share))
    return theta


def estimate(design: Design, log_loss: NDArray[np.float64], settings: Settings) -> Estimate:
    """Fit one table of runs, log loss (R,): the best of many starts."""
    ones = np.ones((1, len(log_loss)))
    delta = settings.huber_delta or _FIRST_DELTA
    problem = Problem(design, log_loss[None], ones, delta)
    theta, value = polish(problem, lbfgs(problem, starts(design, log_loss, settings.n_starts, settings.seed)))
    best = theta[np.argmin(value)]
    if settings.huber_delta is None:
        delta = max(_HUBER * _noise(log_loss - design.log_loss(best[None])[0], design.n_free), _LEAST_DELTA)
        problem = Problem(design, log_loss[None], ones, delta)
        theta, value = polish(problem, theta)  # from all minima found: their order may have changed
        best = theta[np.argmin(value)]
    error, correlation, residuals, leverage = standard_errors(design, best[None], log_loss[None], delta)
    noise = _noise(residuals[0], design.n_free)
    return Estimate(best, error[0], correlation[0], residuals[0], leverage[0], noise, delta)


def _noise(residuals: NDArray[np.float64], n_free: int) -> float:
    freedom = max(len(residuals) - n_free, 1)
    return float(_MAD * np.median(np.abs(residuals)) * np.sqrt(len(residuals) / freedom))


def standard_errors(
    design: Design, theta: NDArray[np.float64], log_loss: NDArray[np.float64], delta: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return standard errors (B, P), correlations (B, P, P), residuals (B, R), leverages (B, R) of Huber estimates.

    The variance is Huber's: mean squared clipped residual over the squared share of residuals that are not clipped,
    times the inverse of J'J (Huber 1981, §7.6).
    """
    fitted, jacobian = design.log_loss_and_jacobian(theta)
    residuals = log_loss - fitted
    n_runs, n_free = jacobian.shape[1:]
    inverse = inverses(jacobian.transpose(0, 2, 1) @ jacobian)
    inside = np.maximum((np.abs(residuals) < delta).mean(1), 1 / n_runs)
    clipped = np.clip(residuals, -delta, delta)
    scale = np.sqrt((clipped**2).sum(1) / max(n_runs - n_free, 1)) / inside
    deviation = np.sqrt(np.maximum(np.einsum("spp->sp", inverse), 0.0))
    correlation = inverse / np.maximum(deviation[:, :, None] * deviation[:, None, :], np.finfo(float).tiny)
    leverage = np.einsum("srp,spq,srq->sr", jacobian, inverse, jacobian, optimize=True)
    return scale[:, None] * deviation, correlation, residuals, leverage


def inverses(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return inverses of normal matrices (B, P, P), scaled to unit diagonal first; a singular direction stays huge."""
    size = np.sqrt(np.maximum(np.einsum("spp->sp", matrices), _LEAST_SQUARE))
    scaled = matrices / (size[:, :, None] * size[:, None, :])
    index = np.arange(matrices.shape[-1])
    scaled[:, index, index] += _RIDGE
    return np.linalg.inv(scaled) / (size[:, :, None] * size[:, None, :])


@dataclass(frozen=True)
class Resampled:
    """Fits of resampled runs."""

    theta: NDArray[np.float64]  # (B, P)
    log_loss: NDArray[np.float64]  # (B, R) that each was fitted to, (1, R) where runs were resampled
    weights: NDArray[np.float64]  # (B, R) how often each run was drawn, (1, R) where residuals were


def bootstrap(design: Design, found: Estimate, log_loss: NDArray[np.float64], settings: Settings) -> Resampled:
    """Fit resamples of the runs, each from the estimate."""
    rng = np.random.default_rng([settings.seed, 1])
    shape = (settings.n_bootstrap, len(log_loss))
    draws = rng.integers(0, len(log_loss), shape)
    if settings.resample == "residuals":
        observed = log_loss - found.residuals + spread_residuals(found)[draws]
        weights = np.ones((1, len(log_loss)))
    else:
        observed = log_loss[None]
        weights = np.stack([np.bincount(row, minlength=len(log_loss)) for row in draws]).astype(np.float64)
    problem = Problem(design, observed, weights, found.huber_delta)
    theta = np.empty((settings.n_bootstrap, design.n_free))
    for rows in _chunks(settings.n_bootstrap, shape[1] * design.n_free):
        start = np.repeat(found.theta[None], len(rows), 0)
        theta[rows], _ = polish(problem.at(rows), start, iterations=40, tolerance=1e-7)
    return Resampled(theta, observed, weights)


def spread_residuals(found: Estimate) -> NDArray[np.float64]:
    """Return residuals as wide as the noise, (R,): a fit pulls each towards zero by its leverage."""
    wide = found.residuals / np.sqrt(1 - np.minimum(found.leverage, _LARGEST_LEVERAGE))
    return wide - wide.mean()


def _chunks(n: int, size: int) -> Iterator[NDArray[np.int64]]:
    step = max(1, _CHUNK // size)
    for first in range(0, n, step):
        yield np.arange(first, min(first + step, n))


def half_widths(design: Design, found: Estimate, resampled: Resampled, confidence: float) -> NDArray[np.float64]:
    """Return half the width of each parameter's interval, (P,).

    Studentised where residuals were resampled. Where runs were, a resample's own standard error does not follow from
    its residuals alone: the quantile of the plain deviations.
    """
    deviations = np.abs(resampled.theta - found.theta)
    if len(resampled.weights) > 1:
        return np.quantile(deviations, confidence, axis=0)
    sizes = np.empty_like(deviations)
    for rows in _chunks(len(deviations), resampled.log_loss.shape[1] * design.n_free):
        own, *_ = standard_errors(design, resampled.theta[rows], resampled.log_loss[rows], found.huber_delta)
        sizes[rows] = deviations[rows] / np.maximum(own, np.finfo(float).tiny)
    return np.quantile(sizes, confidence, axis=0) * found.standard_error


def with_resampled_errors(found: Estimate, resampled: Resampled) -> Estimate:
    """Return the estimate with the standard errors that its noise has: where runs were resampled, the draws' spread."""
    if len(resampled.weights) == 1:
        return found
    return replace(found, standard_error=resampled.theta.std(0, ddof=1))
