from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from campaigns.scaling_coverage import noisy, points_of, three_languages

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.manifest import begin, input_record, work_key
from codeflow.scaling import plan, stage
from codeflow.scaling.estimate import Settings
from codeflow.scaling.plan import AllocateConfig
from codeflow.scaling.runs import read_runs
from codeflow.scaling.stage import FitConfig
from codeflow.tokens.mixture import read_plan, with_plan
from tests.scaling.simulated import write_table

QUICK = Settings(n_bootstrap=100, n_starts=24)


def make(kind: str, module, config: Config, inputs: Mapping[str, Path], output: Path) -> Path:
    """Run a stage by itself."""
    records = {name: input_record(path) for name, path in inputs.items()}
    begin(output, kind, config, records, work_key(kind, config, records))
    module.run(config, inputs, output)
    return output


@pytest.fixture(scope="module")
def law(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a fit to simulated runs: three languages alone, and mixtures evaluated as such."""
    folder = tmp_path_factory.mktemp("law")
    design = three_languages()
    alone = [(n, d, mix) for n in (1e8, 5e8, 2e9) for d in (2e9, 1e10, 6e10) for mix in np.eye(3).tolist()]
    mixed = [(n, d, mix) for n, d, mix in _cells(design.points) if max(mix) < 1]
    table = write_table(folder / "runs.csv", noisy(points_of(design.law, alone + mixed), 0.003, 0))
    config = FitConfig(runs=str(table), settings=QUICK)
    return make(stage.KIND, stage, config, {}, folder / "law")


def _cells(points) -> list[tuple[float, float, list[float]]]:
    return list(zip(points.n_parameters, points.n_tokens, points.shares.tolist(), strict=True))


def test_a_table_becomes_laws_plots_and_text(law: Path) -> None:
    laws, _ = stage.read_laws(law)
    assert sorted(laws) == ["a", "b", "c", "mixture"]
    truth = three_languages().law
    assert laws["mixture"].law.alpha_d == pytest.approx(truth.alpha_d, abs=0.05)
    for name in laws:
        assert (law / f"fit-{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (law / f"residuals-{name}.png").stat().st_size > 5000
    text = (law / "summary.txt").read_text()
    assert "of most compute, predicted from the other" in text
    assert "! 9 runs for 5 parameters" in text


def test_an_allocation_is_a_mixture_that_training_takes(law: Path, tmp_path: Path) -> None:
    config = AllocateConfig(n_parameters=1e9, n_tokens=2e10, floors={"a": 0.1}, weights={"a": 1, "b": 2, "c": 1})
    folder = make(plan.KIND, plan, config, {"law": law}, tmp_path / "plan")
    weights = read_plan(folder)
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["a"] >= 0.1
    tree = json.loads((folder / "mixture.json").read_text())
    assert tree["predicted_loss"]["allocated"] <= tree["predicted_loss"]["uniform"]
    assert any("worth taken as 0" in remark for remark in tree["remarks"])
    mixed = with_plan({"general": 0.2, "a": 0.4, "b": 0.2, "c": 0.2}, weights)
    assert mixed["general"] == 0.2
    assert mixed["b"] == pytest.approx(0.8 * weights["b"])
    assert with_plan({"general": 1.0}, weights) == weights
    with pytest.raises(UserError, match="the plan deals set"):
        with_plan({"a": 1.0}, weights)


def test_the_literal_objective_and_the_size_plan(law: Path, tmp_path: Path) -> None:
    demand = {"flops": 1e20, "loops": (1, 2), "loop_exponent": 0.3}
    config = AllocateConfig.model_validate({"objective": "mixture", "demand": demand, "floors": {"a": 0.2}})
    folder = make(plan.KIND, plan, config, {"law": law}, tmp_path / "plan")
    text = (folder / "summary.txt").read_text()
    assert "sizes for 1e+20 operations" in text
    assert "easy to predict" in text


def test_names_without_a_law_are_refused(law: Path, tmp_path: Path) -> None:
    config = AllocateConfig(n_parameters=1e9, n_tokens=1e10, weights={"d": 1.0})
    with pytest.raises(UserError, match="no law for the language 'd'"):
        make(plan.KIND, plan, config, {"law": law}, tmp_path / "plan")
    with pytest.raises(UserError, match="n_parameters and n_tokens"):
        make(plan.KIND, plan, AllocateConfig(), {"law": law}, tmp_path / "other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n_parameters,loss\n1,2\n", "no column 'n_tokens'"),
        ("n_parameters,n_tokens,loss\n", "no runs"),
        ("n_parameters,n_tokens,loss\n1e8,x,2\n", "line 2: n_tokens='x' is not a number"),
        ("n_parameters,n_tokens,loss\n1e8,-3,2\n", "n_tokens=-3 must be finite and above 0"),
        ("n_parameters,n_tokens,loss,evaluated_on,share.a,share.b\n1,1,1,a,0.5,0.2\n", "sum to 0.7"),
        ("n_parameters,n_tokens,loss,evaluated_on,share.a\n1,1,1,b,1\n", "evaluated_on='b' has no share column"),
    ],
)
def test_bad_tables_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_runs(path)
