from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from codeflow.core.errors import UserError
from codeflow.scaling.compute import Demand, best_sizes
from codeflow.scaling.law import ScalingLaw

LAW = ScalingLaw(languages=("all",), a=482.01, b=2085.43, alpha_n=(0.3478,), alpha_d=(0.3658,), l_inf=(1.8172,))


def loss(n: NDArray[np.float64], d: NDArray[np.float64]) -> NDArray[np.float64]:
    return LAW.loss(n, d, np.ones((1, 1)))


def test_without_inference_the_best_size_is_the_closed_form() -> None:
    plan = best_sizes(loss, Demand(flops=1e21))[0]
    a, b = LAW.alpha_n[0], LAW.alpha_d[0]
    ratio = (a * LAW.a / (b * LAW.b)) ** (1 / (a + b))  # Hoffmann et al. 2022, eq. 4
    assert plan.n_parameters == pytest.approx(ratio * (1e21 / 6) ** (b / (a + b)), rel=0.01)
    assert 6 * plan.n_parameters * plan.n_tokens == pytest.approx(1e21)


def test_demand_for_inference_makes_models_smaller_and_trained_longer() -> None:
    plain, served = (best_sizes(loss, Demand(flops=1e21, inference_tokens=t))[0] for t in (0.0, 1e12))
    assert served.n_parameters < plain.n_parameters
    assert served.training_flops + served.inference_flops == pytest.approx(1e21)
    assert served.loss > plain.loss


def test_loops_pay_only_where_memory_binds_and_repetition_teaches() -> None:
    free = best_sizes(loss, Demand(flops=1e21, loops=(1, 2), loop_exponent=0.5))
    assert free[0].loops == 1
    bound = Demand(flops=1e21, loops=(1, 2), loop_exponent=0.5, max_parameters=1e8)
    assert best_sizes(loss, bound)[0].loops == 2
    assert best_sizes(loss, bound.model_copy(update={"loop_exponent": 0.0}))[0].loops == 1


def test_a_budget_below_one_token_is_refused() -> None:
    with pytest.raises(UserError, match="raise flops"):
        best_sizes(loss, Demand(flops=1.0))
