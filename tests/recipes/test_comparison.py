"""The comparison on answers whose pass@k, differences and verdicts are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codeflow.core.errors import UserError
from codeflow.core.manifest import RUN
from codeflow.core.records import write_records
from codeflow.core.storage import write_text
from codeflow.eval.micro_task_scores import NAME
from codeflow.eval.records import Generated
from codeflow.recipes import comparison
from codeflow.recipes.comparison import ComparedPath, ComparisonConfig
from tests.recipes.conftest import finish, start

N_TASKS = 40


def config(**changes: object) -> ComparisonConfig:
    paths = tuple(
        ComparedPath(name=f"seed {n}", start=f"sft_{n}", arms={"GRPO": f"rl_{n}", "control": f"random_{n}"})
        for n in (0, 1)
    )
    tree = {"paths": paths, "pooled": ("seed 0", "seed 1"), "ks": (1, 4), "bootstrap_resamples": 300, **changes}
    return ComparisonConfig(**tree)


def judged(passed: int, n: int = 4) -> dict[str, list[bool]]:
    return {f"task {i}": [sample < passed for sample in range(n)] for i in range(N_TASKS)}


def write_scores(folder: Path, answers: dict[str, list[bool]], fault: str = "") -> Path:
    start(folder, "scores", {})
    checkpoint = folder.name.removeprefix("score_")
    texts = {"prompt": "p", "output": "o", "reference": "", "reason": "", "sandbox": "", "backend": ""}
    rows = [
        Generated(
            NAME,
            "",
            checkpoint,
            task,
            sample,
            passed=passed,
            reward=0.0,
            fault=fault,
            **texts,
            prompt_sha256="",
            scorer="",
        )
        for task, found in answers.items()
        for sample, passed in enumerate(found)
    ]
    write_records(folder / "generations-00000.parquet", rows, Generated)
    return finish(folder)


def write_checkpoint(folder: Path, seconds: float) -> Path:
    start(folder, "checkpoint", {})
    write_text(folder / RUN, json.dumps({"seconds": seconds}))
    return finish(folder)


def test_rows_hold_values_differences_and_verdicts() -> None:
    one = {"sft_0": judged(1), "rl_0": judged(3), "random_0": judged(1)}
    two = {"sft_1": judged(2), "rl_1": judged(2), "random_1": judged(1)}
    rows = {(row["path"], row["k"]): row for row in comparison.rows(config(), {**one, **two})}
    assert set(rows) == {(path, k) for path in ("seed 0", "seed 1", "mean of 2") for k in (1, 4)}
    first = rows["seed 0", 1]
    assert first["start"] == {"value": 0.25, "low": 0.25, "high": 0.25, "n": N_TASKS}
    assert first["arms"]["GRPO"]["difference"]["value"] == 0.5
    assert first["arms"]["GRPO"]["apart"]
    assert not first["arms"]["control"]["apart"]
    assert rows["seed 1", 1]["arms"]["control"]["difference"]["value"] == -0.25
    assert rows["mean of 2", 1]["arms"]["GRPO"]["difference"]["value"] == 0.25
    assert rows["seed 0", 4]["start"]["value"] == 1.0


def test_differences_are_taken_task_by_task() -> None:
    """Tasks that differ much among each other do not blur a difference that is the same on all."""
    before = {f"task {i}": [i % 2 == 0, i % 2 == 0, i % 2 == 0, False] for i in range(N_TASKS)}
    after = {task: [*answers[:3], True] for task, answers in before.items()}
    found = comparison.rows(
        config(ks=(1,)),
        {**dict.fromkeys(("sft_0", "sft_1", "random_0", "random_1"), before), **dict.fromkeys(("rl_0", "rl_1"), after)},
    )
    arm = found[0]["arms"]["GRPO"]
    assert arm["difference"] == {"value": 0.25, "low": 0.25, "high": 0.25, "n": N_TASKS}
    assert arm["value"]["high"] - arm["value"]["low"] > 0.1


def test_the_stage_writes_a_table_from_scores_and_checkpoints(tmp_path: Path) -> None:
    inputs = {}
    for n in (0, 1):
        for name, passed in (("sft", 1), ("rl", 3), ("random", 1)):
            inputs[f"score_{name}_{n}"] = write_scores(tmp_path / f"score_{name}_{n}", judged(passed))
    inputs["rl_0"] = write_checkpoint(tmp_path / "rl_0", 104.6)
    start(tmp_path / "comparison", "comparison", {})
    comparison.run(config(), inputs, tmp_path / "comparison")
    table = (tmp_path / "comparison" / comparison.TABLE).read_text()
    assert "| seed 1 | 0.250 [0.250, 0.250] | 0.750 [0.750, 0.750] * | +0.500 [+0.500, +0.500] |" in table
    assert "0.250 [0.250, 0.250] | +0.000 [+0.000, +0.000] |" in table
    assert "Seconds of training: rl_0 105." in table
    assert f"at least {N_TASKS} tasks" in table
    data = json.loads((tmp_path / "comparison" / comparison.DATA).read_text())
    assert len(data["rows"]) == 6
    assert data["seconds"] == {"rl_0": 104.6} | dict.fromkeys(("sft_0", "random_0", "sft_1", "rl_1", "random_1"))


def test_answers_that_could_not_be_judged_are_left_out_and_missing_checkpoints_named(tmp_path: Path) -> None:
    inputs = {"score_sft_0": write_scores(tmp_path / "score_sft_0", judged(1), fault="infrastructure")}
    with pytest.raises(UserError, match="no scores of 'sft_0'"):
        comparison.run(config(), inputs, tmp_path / "comparison")


def test_too_few_answers_for_k() -> None:
    every = {f"{name}_{n}": judged(1) for name in ("sft", "rl", "random") for n in (0, 1)}
    with pytest.raises(UserError, match="lower ks"):
        comparison.rows(config(ks=(8,)), every)
