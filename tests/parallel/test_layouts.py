"""The layout that the planner chooses where only the number of devices is given."""

from __future__ import annotations

from typing import Any

import pytest

from codeflow.core.config import validate
from codeflow.core.errors import UserError
from codeflow.model.config import preset
from codeflow.parallel.layouts import fastest, layouts
from codeflow.parallel.plan import PlanConfig, make_plan


def _plan(gpus: int, **fields: Any) -> PlanConfig:
    tree = {"model": preset("loop_40b").model_dump(), "gpus": gpus, "layout": {"data": gpus}, "context_tokens": 131072}
    return validate(PlanConfig, {**tree, **fields})


@pytest.mark.parametrize(("gpus", "fields"), [(64, {}), (512, {}), (128, {"context_tokens": 32768, "micro_rows": 2})])
def test_the_chosen_layout_fits_and_none_that_fits_is_faster(gpus: int, fields: dict[str, Any]) -> None:
    chosen = fastest(_plan(gpus, **fields))
    found = make_plan(chosen)
    assert found.fits
    assert chosen.layout.n_ranks == gpus
    assert chosen.layout.tp <= 8
    others = [make_plan(other) for other in layouts(_plan(gpus, **fields))]
    assert len(others) > 20
    least = min(other.step_seconds / other.step_tokens for other in others if other.fits)
    assert found.step_seconds / found.step_tokens == pytest.approx(least)


def test_every_layout_divides_what_it_must() -> None:
    for plan in layouts(_plan(48)):
        layout = plan.layout
        assert layout.n_ranks == 48
        assert plan.model.num_key_value_heads % layout.tp == 0
        assert layout.cp == 1 or plan.context_tokens % (2 * layout.cp) == 0


def test_nothing_fits() -> None:
    with pytest.raises(UserError, match="no layout of gpus=4 on h100 fits rows of 131072 tokens"):
        fastest(_plan(4))
