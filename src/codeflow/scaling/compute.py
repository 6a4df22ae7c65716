"""Given training operations and inference demand: how many parameters, tokens and loops.

    training operations    6 N_eff D        inference operations    2 N_eff T        N_eff = parameters times loops

A looped model runs its layers several times: it computes like a larger model and stores like a small one. How far it
also learns like a larger one is not known beforehand: `loop_exponent` says that a model of N parameters run x times
counts as N x**e in the law, 0 = the repetitions teach nothing, 1 = as good as that many more parameters. It is a number
to measure (by runs with loops in the sweep), not one to assume: the plan names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GRID = 4001

# parameters (G,), tokens (G,) -> loss (G,)
Loss = Callable[["NDArray[np.float64]", "NDArray[np.float64]"], "NDArray[np.float64]"]


class Demand(Config):
    """What may be spent, and on what."""

    flops: float = Field(gt=0)  # training and inference together
    inference_tokens: float = Field(default=0.0, ge=0)  # that the model will read or write in its life
    loops: tuple[int, ...] = (1,)  # numbers of passes to consider
    loop_exponent: float = Field(default=0.0, ge=0, le=1)
    max_parameters: float | None = Field(default=None, gt=0)  # that fit where the model must run
    available_tokens: float | None = Field(default=None, gt=0)


class SizePlan(Config):
    """The best size for one number of loops."""

    loops: int
    n_parameters: float
    n_tokens: float
    training_flops: float
    inference_flops: float
    loss: float


def best_sizes(loss: Loss, demand: Demand) -> list[SizePlan]:
    """Return the plan of least predicted loss for each number of loops, best first.

    Raises UserError when nothing within the limits can be trained.
    """
    plans = []
    for loops in dict.fromkeys(demand.loops):
        sizes = np.geomspace(1e3, demand.max_parameters or 1e14, _GRID)
        left = demand.flops - 2 * sizes * loops * demand.inference_tokens
        tokens = left / (6 * sizes * loops)
        if demand.available_tokens is not None:
            tokens = np.minimum(tokens, demand.available_tokens)
        fits = tokens >= 1
        if not fits.any():
            continue
        sizes, tokens = sizes[fits], tokens[fits]
        losses = loss(sizes * float(loops) ** demand.loop_exponent, tokens)
        best = int(np.argmin(losses))
        plans.append(
            SizePlan(
                loops=loops,
                n_parameters=float(sizes[best]),
                n_tokens=float(tokens[best]),
                training_flops=float(6 * sizes[best] * loops * tokens[best]),
                inference_flops=float(2 * sizes[best] * loops * demand.inference_tokens),
                loss=float(losses[best]),
            )
        )
    if not plans:
        raise UserError(f"flops={demand.flops:.3g} do not pay for one trained token at any size; raise flops")
    return sorted(plans, key=lambda plan: (plan.loss, plan.loops))
