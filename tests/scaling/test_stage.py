from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from campaigns.scaling_coverage import noisy, one_language, points_of, three_languages

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


def test_a_plan_says_how_far_it_follows_from_the_runs(law: Path, tmp_path: Path) -> None:
    config = AllocateConfig(n_parameters=1e9, n_tokens=2e10, floors={"a": 0.1})
    tree = plan_of(law, config, tmp_path / "plan")
    for name, (low, high) in tree["spread"]["shares"].items():
        assert low - 0.05 <= tree["weights"][name] <= high + 0.05
        assert 0 <= low <= high <= 1
    gain = tree["predicted_loss"]["uniform"] - tree["predicted_loss"]["allocated"]
    low, high = tree["spread"]["gain"]
    assert low <= gain <= high
    assert tree["spread"]["n_fits"] == QUICK.n_bootstrap
    losses = tree["predicted_loss_by_language"]["allocated"]
    assert sum(losses.values()) / 3 == pytest.approx(tree["predicted_loss"]["allocated"])
    assert (tmp_path / "plan" / "shares.png").read_bytes().startswith(b"\x89PNG")


def plan_of(law: Path, config: AllocateConfig, output: Path) -> dict[str, Any]:
    """Return the tree of a plan."""
    return json.loads((make(plan.KIND, plan, config, {"law": law}, output) / "mixture.json").read_text())


@pytest.fixture(scope="module")
def published_languages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a fit to simulated runs of three languages that the paper has, each alone."""
    folder = tmp_path_factory.mktemp("published")
    cells = [(n, d, mix) for n in (1e8, 5e8, 2e9) for d in (2e9, 1e10, 6e10) for mix in np.eye(3).tolist()]
    design = three_languages().law.model_copy(update={"languages": ("C#", "Go", "Python")})
    table = write_table(folder / "runs.csv", noisy(points_of(design, cells), 0.003, 0))
    config = FitConfig(runs=str(table), mixture=False, hold_out_share=0, settings=QUICK)
    return make(stage.KIND, stage, config, {}, folder / "law")


def test_the_published_allocation_is_a_row_whose_differences_are_explained(
    published_languages: Path, tmp_path: Path
) -> None:
    tree = plan_of(published_languages, AllocateConfig(n_parameters=1e9, n_tokens=2e10), tmp_path / "plan")
    row = tree["rows"]["published"]
    assert sum(row.values()) == pytest.approx(1)
    assert row["Python"] / row["C#"] == pytest.approx(76.77 / 36.51)
    assert tree["predicted_loss"]["allocated"] <= tree["predicted_loss"]["published"]
    remarks = [remark for remark in tree["remarks"] if "against published" in remark]
    assert [remark.partition(":")[0] for remark in remarks] == ["C#", "Go", "Python"]
    assert sum("would lower" in remark for remark in remarks) in (1, 2)  # the slopes are around their mean
    assert any("predict no loss" in remark for remark in tree["remarks"])
    assert "published" in (tmp_path / "plan" / "summary.txt").read_text()


def test_size_and_shares_are_planned_together_without_a_multilingual_law(
    published_languages: Path, tmp_path: Path
) -> None:
    config = AllocateConfig.model_validate({"demand": {"flops": 1e20}})
    tree = plan_of(published_languages, config, tmp_path / "plan")
    assert 6 * tree["n_parameters"] * tree["n_tokens"] == pytest.approx(1e20)
    for factor in (0.6, 1.6):  # at the same operations another size is worse, also with its own best shares
        n = tree["n_parameters"] * factor
        other = plan_of(published_languages, AllocateConfig(n_parameters=n, n_tokens=1e20 / 6 / n), tmp_path / "other")
        assert other["predicted_loss"]["allocated"] > tree["predicted_loss"]["allocated"]


def test_a_table_with_other_names_and_operations_for_tokens(tmp_path: Path) -> None:
    design = one_language()
    rows = zip(design.points.n_parameters, design.points.n_tokens, design.points.loss, strict=True)
    lines = ["Model Size, Training FLOP,loss", *(f"{n}, {6 * n * d}, {loss}" for n, d, loss in rows)]
    (tmp_path / "theirs.csv").write_text("\n".join(lines) + "\n")
    columns = {"n_parameters": "Model Size", "training_flops": "Training FLOP"}
    config = FitConfig(runs=str(tmp_path / "theirs.csv"), columns=columns, settings=QUICK)
    law = make(stage.KIND, stage, config, {}, tmp_path / "law")
    assert stage.read_laws(law)[0]["all"].law.alpha_n[0] == pytest.approx(0.3478, rel=1e-3)
    tree = plan_of(law, AllocateConfig.model_validate({"demand": {"flops": 5.76e23}}), tmp_path / "plan")
    assert 4e10 < tree["n_parameters"] < 1e11  # the public refit agrees with the 70 billion that were trained
    with pytest.raises(UserError, match="has no such column; did you mean 'Model Size'"):
        read_runs(tmp_path / "theirs.csv", {"n_parameters": "Modl Size"})


def test_names_without_a_law_are_refused(law: Path, tmp_path: Path) -> None:
    config = AllocateConfig(n_parameters=1e9, n_tokens=1e10, weights={"d": 1.0})
    with pytest.raises(UserError, match="no law for the language 'd'"):
        make(plan.KIND, plan, config, {"law": law}, tmp_path / "plan")
    with pytest.raises(UserError, match="n_parameters and n_tokens"):
        make(plan.KIND, plan, AllocateConfig(), {"law": law}, tmp_path / "other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n_parameters,loss\n1,2\n", "no column 'n_tokens'.*columns.n_tokens=THEIRS"),
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
