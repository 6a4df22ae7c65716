"""Many small robust regressions at once: L-BFGS to find the basin, damped Gauss-Newton to find its bottom.

A problem minimises sum_r w_r huber(y_r - f_r(theta)) with f from `Design`. S problems over the same runs but with their
own y and w are solved side by side in numpy, which makes hundreds of bootstrap fits cost about as much as one in a
loop. Huber as in Hoffmann et al. 2022; a problem that has converged leaves the batch.

Legend: S problems, R runs, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from codeflow.scaling.law import Design

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HISTORY = 10
_ARMIJO = 1e-4
_HALVINGS = 12
_TINY = 1e-30


@dataclass(frozen=True)
class Problem:
    """S regressions over the runs of one design."""

    design: Design
    log_loss: NDArray[np.float64]  # (S, R) observed, or (1, R) for all
    weights: NDArray[np.float64]  # (S, R) how often each run counts, or (1, R)
    huber_delta: float  # in log loss

    def at(self, rows: NDArray[np.integer]) -> Problem:
        """Return some of the problems."""
        one = len(self.log_loss) == 1
        log_loss = self.log_loss if one else self.log_loss[rows]
        weights = self.weights if len(self.weights) == 1 else self.weights[rows]
        return Problem(self.design, log_loss, weights, self.huber_delta)

    def value(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the objective, (S,)."""
        return self._sum(self.log_loss - self.design.log_loss(theta))

    def value_and_gradient(self, theta: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the objective (S,) and its gradient (S, P)."""
        log_loss, jacobian = self.design.log_loss_and_jacobian(theta)
        residuals = self.log_loss - log_loss
        pull = self.weights * np.clip(residuals, -self.huber_delta, self.huber_delta)
        return self._sum(residuals), -np.einsum("sr,srp->sp", pull, jacobian)

    def normal_equations(
        self, theta: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return objective (S,), J'Wr (S, P) and J'WJ (S, P, P), W being Huber's weights."""
        log_loss, jacobian = self.design.log_loss_and_jacobian(theta)
        residuals = self.log_loss - log_loss
        weights = self.weights * np.minimum(1.0, self.huber_delta / np.maximum(np.abs(residuals), _TINY))
        weighted = weights[..., None] * jacobian
        right = np.einsum("srp,sr->sp", weighted, residuals)
        return self._sum(residuals), right, np.matmul(jacobian.transpose(0, 2, 1), weighted)

    def _sum(self, residuals: NDArray[np.float64]) -> NDArray[np.float64]:
        size = np.abs(residuals)
        inside = np.minimum(size, self.huber_delta)
        return (self.weights * inside * (size - 0.5 * inside)).sum(1)


def lbfgs(problem: Problem, theta: NDArray[np.float64], iterations: int = 80) -> NDArray[np.float64]:
    """Return parameters (S, P) after at most `iterations` steps of L-BFGS from `theta`, each problem by itself."""
    theta = theta.copy()
    value, gradient = problem.value_and_gradient(theta)
    pairs: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]] = []
    for _ in range(iterations):
        direction = _two_loops(gradient, pairs)
        slope = (direction * gradient).sum(1)
        uphill = slope >= 0
        direction[uphill], slope[uphill] = -gradient[uphill], -(gradient[uphill] ** 2).sum(1)
        if not pairs:  # the first step has no scale yet
            largest = np.maximum(1.0, np.abs(direction).sum(1))
            direction, slope = direction / largest[:, None], slope / largest
        moved = _line_search(problem, theta, value, direction, slope)
        if not moved.any():
            break
        step = moved[:, None] * direction
        theta = theta + step
        old_gradient = gradient
        value, gradient = problem.value_and_gradient(theta)
        change = gradient - old_gradient
        curvature = (step * change).sum(1)
        good = curvature > _TINY + 1e-10 * (change**2).sum(1)
        rho = np.where(good, 1.0 / np.where(good, curvature, 1.0), 0.0)  # rho 0: the pair is without effect
        pairs = [*pairs, (step, change, rho)][-_HISTORY:]
    return theta


def _two_loops(
    gradient: NDArray[np.float64],
    pairs: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]],
) -> NDArray[np.float64]:
    """Return minus the inverse Hessian times the gradient, as the last steps know it."""
    q, alphas = gradient.copy(), []
    for step, change, rho in reversed(pairs):
        alpha = rho * (step * q).sum(1)
        q -= alpha[:, None] * change
        alphas.append(alpha)
    scale = np.ones(len(q))
    for _, change, rho in pairs:  # the newest pair that counts
        size = (change**2).sum(1)
        scale = np.where((rho > 0) & (size > 0), 1.0 / np.maximum(rho * size, _TINY), scale)
    q *= scale[:, None]
    for (step, change, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        q += step * (alpha - rho * (change * q).sum(1))[:, None]
    return -q


def _line_search(
    problem: Problem,
    theta: NDArray[np.float64],
    value: NDArray[np.float64],
    direction: NDArray[np.float64],
    slope: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return for each problem the first of 1, 1/2, 1/4, ... that lowers its objective enough, or 0."""
    length = np.zeros(len(theta))
    waiting, factor = np.arange(len(theta)), 1.0
    for _ in range(_HALVINGS):
        tried = problem.at(waiting).value(theta[waiting] + factor * direction[waiting])
        fine = tried <= value[waiting] + _ARMIJO * factor * slope[waiting]
        length[waiting[fine]] = factor
        waiting, factor = waiting[~fine], factor / 2
        if not len(waiting):
            break
    return length


def polish(
    problem: Problem, theta: NDArray[np.float64], iterations: int = 60, tolerance: float = 1e-10
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return parameters (S, P) and objectives (S,) after damped Gauss-Newton steps (Levenberg-Marquardt) from `theta`.

    A problem stops when a step no longer lowers its objective by `tolerance` of itself.
    """
    theta = theta.copy()
    value = problem.value(theta)
    damping = np.full(len(theta), 1e-3)
    active, idle = np.arange(len(theta)), np.zeros(len(theta), np.int64)
    for _ in range(iterations):
        part = problem.at(active)
        _, right, matrix = part.normal_equations(theta[active])
        diagonal = np.einsum("spp->sp", matrix)
        floor = 1e-12 * diagonal.max(1, keepdims=True) + _TINY
        index = np.arange(matrix.shape[1])
        matrix[:, index, index] = diagonal + damping[active, None] * diagonal + floor
        candidate = theta[active] + np.linalg.solve(matrix, right[..., None])[..., 0]
        tried = part.value(candidate)
        better = tried < value[active]
        small = better & (value[active] - tried <= tolerance * value[active])
        rows = active[better]
        theta[rows], value[rows] = candidate[better], tried[better]
        damping[active] = np.where(better, np.maximum(damping[active] / 5, 1e-12), damping[active] * 8)
        idle[active] = np.where(small, idle[active] + 1, 0)
        active = active[(idle[active] < 3) & (damping[active] < 1e6)]
        if not len(active):
            break
    return theta, value
