"""The layout of a run on so many devices that the planner estimates to be the fastest of those that fit."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from codeflow.core.errors import UserError
from codeflow.parallel.plan import HARDWARE, Layout, PlanConfig, make_plan


def layouts(plan: PlanConfig) -> Iterator[PlanConfig]:
    """Yield the plan in every layout of its devices: `tp` within a node, rows in 2 x `cp` equal chunks."""
    for tp in _divisors(plan.gpus):
        if tp > HARDWARE[plan.hardware].per_node:
            break
        for cp in _divisors(plan.gpus // tp):
            if plan.context_tokens % (2 * cp * tp if cp > 1 else tp):
                continue
            groups = plan.gpus // (tp * cp)
            for fsdp in _divisors(groups):
                layout = Layout(data=groups // fsdp, fsdp=fsdp, cp=cp, tp=tp)
                try:
                    yield PlanConfig.model_validate({**dict(plan), "layout": layout})
                except ValidationError:  # the model's sizes or the tokens of an update do not divide so
                    continue


def fastest(plan: PlanConfig) -> PlanConfig:
    """Return the plan in the layout with the least time per token among those that fit the device.

    Of equal ones the one with fewer copies and shorter inner axes. Raises UserError when none fits.
    """
    best: tuple[float, int, int, int] | None = None
    chosen = plan
    for candidate in layouts(plan):
        found, layout = make_plan(candidate), candidate.layout
        order = (found.step_seconds / found.step_tokens, layout.data, layout.tp, layout.cp)
        if found.fits and (best is None or order < best):
            best, chosen = order, candidate
    if best is None:
        raise UserError(
            f"no layout of gpus={plan.gpus} on {plan.hardware} fits rows of {plan.context_tokens} tokens; "
            "take more devices, shorter rows, or look at one with --parallel"
        )
    return chosen


def _divisors(n: int) -> list[int]:
    return [size for size in range(1, n + 1) if n % size == 0]
