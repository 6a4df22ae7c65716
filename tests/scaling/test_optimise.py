from __future__ import annotations

import numpy as np
import pytest
from campaigns.scaling_coverage import three_languages

from codeflow.scaling.estimate import starts
from codeflow.scaling.fit import transfer_columns
from codeflow.scaling.law import Design
from codeflow.scaling.optimise import Problem, lbfgs, polish

PAIRS = [(0, 1), (0, 2), (1, 2)]


def setting() -> tuple[Design, np.ndarray, np.ndarray]:
    """Return a design, the true parameters (P,) and the log losses (R,)."""
    design = three_languages()
    points, law = design.points, design.law
    columns = transfer_columns(points.shares, PAIRS, None)
    log_n, log_d = np.log(points.n_parameters / law.parameters_unit), np.log(points.n_tokens / law.tokens_unit)
    kappa = [law.kappa[i][j] for i, j in PAIRS]
    theta = np.array([np.log(law.a), np.log(law.b), *law.alpha_n, *law.alpha_d, *np.log(law.l_inf), *kappa])
    return Design(log_n, log_d, points.shares, columns), theta, np.log(points.loss)


def test_the_vectorised_law_is_the_law_of_the_public_class() -> None:
    design, theta, log_loss = setting()
    assert np.allclose(design.log_loss(theta[None])[0], log_loss, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_derivatives_are_those_of_finite_differences(seed: int) -> None:
    design, theta, log_loss = setting()
    theta = theta + np.random.default_rng(seed).normal(0, 0.1, theta.shape)
    step = 1e-6
    shifted = [(theta + step * e, theta - step * e) for e in np.eye(len(theta))]
    numeric = np.stack([(design.log_loss(up[None]) - design.log_loss(down[None]))[0] for up, down in shifted], -1)
    _, jacobian = design.log_loss_and_jacobian(theta[None])
    assert np.allclose(jacobian[0], numeric / (2 * step), atol=1e-8)
    problem = Problem(design, log_loss[None], np.ones((1, len(log_loss))), 0.02)
    _, gradient = problem.value_and_gradient(theta[None])
    values = [(problem.value(up[None]) - problem.value(down[None]))[0] for up, down in shifted]
    assert np.allclose(gradient[0], np.array(values) / (2 * step), atol=1e-7)


def test_transfer_below_its_floor_has_no_slope() -> None:
    design, theta, _ = setting()
    theta = theta.copy()
    theta[-1] = -40.0  # one plus the gain would be negative
    _, jacobian = design.log_loss_and_jacobian(theta[None])
    assert np.isfinite(jacobian).all()
    assert (jacobian[0, design.shares[:, 1] * design.shares[:, 2] > 0, -1] == 0).all()


def test_many_starts_find_the_truth_and_each_problem_is_solved_by_itself() -> None:
    design, theta, log_loss = setting()
    ones = np.ones((1, len(log_loss)))
    problem = Problem(design, log_loss[None], ones, 1e-3)
    found, value = polish(problem, lbfgs(problem, starts(design, log_loss, 24, 0)))
    assert (value < 1e-12).mean() > 0.5  # most starts end in the one good basin
    assert np.allclose(found[np.argmin(value)], theta, rtol=1e-6)
    noisy = log_loss + np.random.default_rng(3).normal(0, 0.01, (5, len(log_loss)))
    begin = np.repeat(theta[None], 5, 0)
    together, _ = polish(Problem(design, noisy, ones, 0.0134), begin)
    for row in range(5):
        alone, _ = polish(Problem(design, noisy[row : row + 1], ones, 0.0134), begin[:1])
        assert np.allclose(alone[0], together[row], rtol=1e-9)
        _, slope = Problem(design, noisy[row : row + 1], ones, 0.0134).value_and_gradient(alone)
        assert np.abs(slope).max() < 1e-5


def test_lbfgs_lowers_every_objective() -> None:
    design, _, log_loss = setting()
    problem = Problem(design, log_loss[None], np.ones((1, len(log_loss))), 1e-3)
    begin = starts(design, log_loss, 8, 5)
    assert (problem.value(lbfgs(problem, begin, 20)) < problem.value(begin)).all()
