"""`codeflow plan` by name: shapes, recipes, directories; tables and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codeflow.core.errors import UserError
from codeflow.model.huggingface import save
from codeflow.model.looped import LoopCoder
from codeflow.recipes.planning import PlanRequest, plans, print_plans
from tests.model.shapes import changed


def test_a_recipe_is_planned_phase_by_phase() -> None:
    found = plans("tiny", PlanRequest(), ["train.general.steps=7"])
    config, plan = found["train_general"]
    assert config.tokens == 7 * plan.step_tokens
    assert found["loop_stage1"][0].model.loop_num == 2
    assert found["loop_stage2"][0].context_tokens == 2048
    assert found["dense_stage2"][0].model == config.model


def test_a_shape_a_directory_and_their_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(LoopCoder(changed(loop_num=2)), tmp_path)
    for name in (str(tmp_path), str(tmp_path / "config.json")):
        assert plans(name, PlanRequest(context_tokens=32))[name][0].model == changed(loop_num=2)
    print_plans("dense_7b", PlanRequest(parallel="fsdp=8", hardware="h200"), ["num_hidden_layers=2"], as_json=True)
    tree = json.loads(capsys.readouterr().out)["dense_7b"]
    assert tree["config"]["model"]["num_hidden_layers"] == 2
    assert (tree["config"]["gpus"], tree["fits"]) == (8, True)
    assert sum(part["n_bytes"] for part in tree["parts"] if part["when"] == "always") < tree["peak_bytes"]


def test_tables_say_what_a_rank_holds(capsys: pytest.CaptureFixture[str]) -> None:
    print_plans("loop_40b", PlanRequest(gpus=64, parallel="fsdp=8,tp=8", context_tokens=131072), [], as_json=False)
    text = capsys.readouterr().out
    for words in ("39,794,696,320 parameters, 80 layers, 2 loops", "masters (fp32)", "activations", "MFU", "days for"):
        assert words in text
    print_plans("tiny", PlanRequest(), [], as_json=False)
    assert "train_anneal" in capsys.readouterr().out


def test_an_all_to_all_is_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    request = PlanRequest(parallel="fsdp=2,cp=8", context_tokens=131072, context_exchange="all_to_all")
    print_plans("loop_40b", request, [], as_json=False)
    assert "fsdp=2, cp=8, all-to-all along cp;" in capsys.readouterr().out
    with pytest.raises(UserError, match="cp=16 does not divide num_key_value_heads=8, which context_exchange=all_to_a"):
        plans("loop_40b", request.model_copy(update={"parallel": "cp=16"}))


def test_names_that_are_nothing() -> None:
    with pytest.raises(UserError, match=r"'40c' is no published shape, recipe or model directory; did you mean '40b'"):
        plans("40c", PlanRequest())


def test_devices_alone_are_laid_out() -> None:
    config, plan = plans("loop_40b", PlanRequest(gpus=512, context_tokens=131072))["loop_40b"]
    assert config.layout.n_ranks == 512
    assert plan.fits
    with pytest.raises(UserError, match="no layout of gpus=2 on h100"):
        plans("loop_40b", PlanRequest(gpus=2))


def test_a_simulated_step_stands_beside_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    request = PlanRequest(parallel="fsdp=4,cp=2,tp=2", context_tokens=256, simulate=True)
    fields = ["num_hidden_layers=2", "hidden_size=64", "intermediate_size=128", "vocab_size=512", "head_dim=16"]
    print_plans("loop_40b", request, fields, as_json=False)
    text = capsys.readouterr().out
    for words in ("rank 0 of 16", "peak of the passes", "sent, tp", "simulated", "send 2", "step without data"):
        assert words in text
    print_plans("loop_40b", request, fields, as_json=True)
    tree = json.loads(capsys.readouterr().out)["loop_40b"]
    assert tree["simulated"]["sent"]["tp"] == pytest.approx(tree["traffic"]["tp"], rel=0.05)
    assert tree["simulated"]["peak"] > tree["simulated"]["at_rest"]
