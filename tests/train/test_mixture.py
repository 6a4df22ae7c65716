"""Weights that follow held-out losses and scores: decisions, their replay after a kill, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.core.config import validate
from codeflow.core.errors import UserError
from codeflow.core.manifest import begin
from codeflow.core.metrics import read_metrics
from codeflow.tokens.plan_file import read_plan_file
from codeflow.train import pretrain
from codeflow.train.config import TrainConfig
from codeflow.train.mixture import DynamicMixtureConfig, MixtureState, decide, read_scores

from .test_pretrain import Stopped, contents, phase_config, stop_at, train

BASE = {"code": 0.5, "general": 0.3, "math": 0.2}
BEFORE = MixtureState(
    best={"code": 2.0, "general": 3.0, "math": 1.0},
    last={"code": 2.0, "general": 3.0, "math": 1.2},
    best_scores={"code": 0.5},
)


@pytest.mark.parametrize(
    ("losses", "scores", "up", "down"),
    [
        ({"code": 1.9, "general": 2.9, "math": 0.9}, {}, set(), set()),
        ({"code": 2.1, "general": 2.9, "math": 0.9}, {}, {"code"}, {"general", "math"}),
        ({"code": 1.9, "general": 2.9999, "math": 0.9}, {}, {"code", "math"}, {"general"}),
        ({"code": 1.9, "general": 2.9, "math": 1.1}, {}, {"math"}, {"code", "general"}),  # above its best, not its last
        ({"code": 1.9, "general": 2.9, "math": 0.9}, {"code": 0.4}, {"code"}, {"general", "math"}),
        ({"code": 1.9, "general": 2.9, "math": 0.9}, {"code": 0.495}, set(), set()),
        ({"code": math.nan}, {}, {"code"}, {"general", "math"}),
        ({}, {}, set(), set()),
    ],
)
def test_what_degrades_rises_and_what_plateaus_falls(
    losses: dict[str, float], scores: dict[str, float], up: set[str], down: set[str]
) -> None:
    found = decide(DynamicMixtureConfig(), BASE, BASE, BEFORE, losses, scores)
    assert {name for name in BASE if found.weights[name] > BASE[name] + 1e-5} == up
    assert {name for name in BASE if found.weights[name] < BASE[name] - 1e-5} == down
    assert all(math.isfinite(loss) for loss in found.state.best.values())


def test_nothing_moves_before_a_second_look_and_a_share_is_bounded() -> None:
    config = DynamicMixtureConfig(factor=2.0, bound=3.0)
    weights, state = BASE, MixtureState()
    for look in range(6):
        losses = {"code": 2.0 + look, "general": 3.0 - look, "math": 1.0 - look}
        found = decide(config, BASE, weights, state, losses, {})
        assert (found.reasons == {}) == (look == 0)
        weights, state = found.weights, found.state
    assert weights == pytest.approx({"code": 1 - 0.5 / 3, "general": 0.1, "math": 0.2 / 3}, abs=1e-5)
    assert state.best["code"] == 2.0
    assert state.last["code"] == 7.0


@given(
    st.lists(st.fixed_dictionaries({name: st.floats(0.1, 9) for name in BASE}), min_size=1, max_size=8),
    st.floats(1.05, 4),
    st.floats(1.5, 5),
)
def test_weights_are_shares_of_every_set(looks: list[dict[str, float]], factor: float, bound: float) -> None:
    config = DynamicMixtureConfig(factor=factor, bound=bound)
    weights, state = BASE, MixtureState()
    for losses in looks:
        found = decide(config, BASE, weights, state, losses, {})
        weights, state = found.weights, found.state
        assert sum(weights.values()) == pytest.approx(1, abs=1e-5)
        for name, share in weights.items():
            assert BASE[name] / bound < share + 1e-5
            assert share < BASE[name] * bound + 1e-5


def _config(golden: ModuleType, **changes: Any) -> TrainConfig:
    # so short a phase moves only when a fall of less than 10 nats is a plateau of one set
    dynamic = {"plateau_nats": 0.0, "degrades_nats": 1e-9, "factor": 1.5, **changes}
    return phase_config(golden, steps=8, validation_every_steps=1, dynamic_mixture=dynamic)


def test_a_phase_changes_its_plan_and_a_killed_one_comes_to_the_same(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = tmp_path / "scores.json"
    scores.write_text('{"code": 0.5}')
    config = _config(golden, scores=str(scores))
    original, looks = pretrain.held_out_loss, iter(range(10**6))

    def measured(*arguments: Any) -> float:
        next(looks)
        return original(*arguments)

    monkeypatch.setattr(pretrain, "held_out_loss", measured)
    asked = _dropping(monkeypatch, scores)
    whole = train(config, inputs, tmp_path / "whole")
    assert next(looks) == 2 * 9
    rows = {row["step"]: row for row in read_metrics(tmp_path / "whole" / "metrics.jsonl")}
    plan = read_plan_file(tmp_path / "whole" / "plan.json")
    assert rows[0]["mixture"] == {"general": 0.25, "code": 0.75}
    assert rows[3]["mixture_reasons"]["code"].startswith("degraded: score 0.3")
    assert {change.step: change.weights for change in plan.changes} == {
        step - 1: row["mixture"] for step, row in rows.items() if step and "mixture" in row
    }
    assert rows[4]["mixture"]["code"] > 0.75
    assert whole.metrics["weight_changes"]
    scores.write_text('{"code": 0.5}')
    asked.clear()
    begin(tmp_path / "broken", "checkpoint", config, {}, "key")
    stop_at(monkeypatch, 6)
    with pytest.raises(Stopped):
        pretrain.run(config, inputs, tmp_path / "broken")
    pretrain.run(config, inputs, tmp_path / "broken")
    assert read_plan_file(tmp_path / "broken" / "plan.json") == plan
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def _dropping(monkeypatch: pytest.MonkeyPatch, scores: Path) -> list[int]:
    """Let the evaluation drop a worse score of code during the third training step."""
    original, calls = pretrain.train_step, []

    def step(*arguments: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 3:
            scores.write_text('{"code": 0.3}')
        return original(*arguments)

    monkeypatch.setattr(pretrain, "train_step", step)
    return calls


@pytest.mark.parametrize("text", ["", "[1]", '{"code": "high"}', '{"code": NaN}', "{"])
def test_scores_that_are_none_are_not_used(text: str, tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text(text)
    assert read_scores(tmp_path / "scores.json") == {}
    assert read_scores(tmp_path / "none.json") == {}
    (tmp_path / "scores.json").write_text(json.dumps({"code": 1}))
    assert read_scores(tmp_path / "scores.json") == {"code": 1.0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dynamic_mixture": {}}, "set validation_every_steps"),
        ({"dynamic_mixture": {}, "validation_every_steps": 2, "validation_rows": 0}, "validation_rows above 0"),
        ({"dynamic_mixture": {}, "validation_every_steps": 2, "curriculum": {"set": "code"}}, "keep one of them"),
        ({"dynamic_mixture": {"factor": 1.0}, "validation_every_steps": 2}, "factor"),
    ],
)
def test_refusals(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(TrainConfig, fields)
