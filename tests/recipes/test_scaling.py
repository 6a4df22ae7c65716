"""The road from runs to a mixture: a table becomes a law, the law a plan, and the plan deals the rows of training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from campaigns.scaling_coverage import points_of
from make_golden_curve import make_tokenizer, make_tokens

from codeflow.core.config import Config
from codeflow.core.manifest import Counts, begin, check_files, seal
from codeflow.execute.chain import Stage, make, stage_key
from codeflow.recipes.scaling import scaling
from codeflow.recipes.sweep import Size, SweepConfig, training
from codeflow.recipes.verbs import VERBS
from codeflow.report.gather import drawn_shares, read_artifact
from codeflow.scaling.budget import AllocateConfig
from codeflow.scaling.estimate import Settings
from codeflow.scaling.law import ScalingLaw
from codeflow.scaling.stage import FitConfig
from tests.scaling.simulated import write_table
from tests.test_cli import codeflow

LAW = ScalingLaw(
    languages=("code", "general"),
    parameters_unit=3e4,
    tokens_unit=1e5,
    a=0.4,
    b=0.9,
    alpha_n=(0.3, 0.35),
    alpha_d=(0.45, 0.3),
    l_inf=(2.0, 2.5),
)


def write_runs(path: Path) -> Path:
    """Write a table of runs of two languages, each alone."""
    sizes, tokens = (1e4, 3e4, 1e5), (3e4, 1e5, 3e5)
    return write_table(path, points_of(LAW, [(n, d, mix) for n in sizes for d in tokens for mix in ([1, 0], [0, 1])]))


def write_tokens(folder: Path) -> None:
    """Write the artifacts `tokenizer` and `pack` with the sets code and general."""
    for name, kind in (("tokenizer", "tokenizer"), ("pack", "tokens")):
        begin(folder / name, kind, Config(), {}, "")
    make_tokens(
        folder / "pack",
        make_tokenizer(folder / "tokenizer"),
        n_rows=24,
        context_tokens=64,
        sets=("code", "general"),
    )
    for name in ("tokenizer", "pack"):
        seal(folder / name, Counts())


def test_a_plan_from_runs_deals_the_rows_of_training(tmp_path: Path) -> None:
    write_tokens(tmp_path)
    table = write_runs(tmp_path / "runs.csv")
    fit = FitConfig(runs=str(table), mixture=False, settings=Settings(n_bootstrap=100, n_starts=24))
    budget = AllocateConfig(n_parameters=3e4, n_tokens=1e5, weights={"code": 1, "general": 4})
    config = training(
        SweepConfig(languages=("code", "general"), pair_sizes=(), batch_rows=2, validation_rows=4),
        Size(hidden=16, layers=1).model(512, 64),
        steps=60,
        phase="planned",
    )
    stages = (
        Stage("law", "scaling_law", "codeflow.scaling.stage:run", fit),
        Stage("plan", "mixture_plan", "codeflow.scaling.plan:run", budget, {"law": "law", "tokens": "pack"}),
        VERBS["train"].stage(config, {"tokens": "pack", "tokenizer": "tokenizer", "mixture": "plan"}),
    )
    for stage in stages:
        make(stage, tmp_path, stage_key(stage, tmp_path))
    plan = json.loads((tmp_path / "plan" / "mixture.json").read_text())
    assert plan["weights"]["general"] > 0.55  # counts four times as much, and its loss falls more slowly
    assert plan["available_tokens"].keys() == {"code", "general"}
    drawn = drawn_shares(read_artifact("train", tmp_path / "train"), plan["weights"])
    assert drawn == pytest.approx(plan["weights"], abs=0.02)
    assert check_files(tmp_path / "train").inputs["mixture"].kind == "mixture_plan"


def test_the_commands_fit_and_allocate(tmp_path: Path) -> None:
    table = write_runs(tmp_path / "runs.csv")
    quick = ("settings.n_bootstrap=100", "settings.n_starts=24", "mixture=false")
    code, out, errors = codeflow("scaling", "fit", str(table), *quick, "-o", str(tmp_path / "law"))
    assert code == 0, errors
    assert "code: 9 runs" in out
    limits = ("demand.flops=2e10", "floors.code=0.4", "weights.general=1", "weights.code=1")
    code, out, errors = codeflow("scaling", "allocate", str(tmp_path / "law"), *limits, "-o", str(tmp_path / "plan"))
    assert code == 0, errors
    assert "sizes for 2e+10 operations" in out
    assert json.loads((tmp_path / "plan" / "mixture.json").read_text())["weights"]["code"] >= 0.4 - 1e-9
    code, _, errors = codeflow("scaling", "allocate", str(tmp_path / "law"), "floors.cod=0.4", "demand.flops=2e10")
    assert code == 2
    assert "floor of 'cod': no such language; did you mean 'code'" in errors
    code, out, _ = codeflow("scaling", "published")
    assert code == 0
    assert "they order languages and predict no loss" in out


def test_the_recipe_puts_its_plan_to_the_test() -> None:
    recipe = scaling()
    chain = {stage.name: stage for stage in recipe.chain()}
    uniform, planned = chain["train_uniform"], chain["train_planned"]
    assert "mixture" not in uniform.inputs
    assert planned.inputs["mixture"] == "mixture_plan"
    assert planned.config == uniform.config.model_copy(update={"phase": "planned"})
    steps, rows, context = recipe.uniform.steps, recipe.uniform.batch_rows, recipe.pack.context_tokens
    assert steps * rows * context == recipe.mixture_plan.n_tokens > max(recipe.sweep.tokens)
    assert chain["report"].inputs.keys() == chain.keys() - {"report"}
