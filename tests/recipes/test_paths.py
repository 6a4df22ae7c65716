from __future__ import annotations

import pytest

from codeflow.execute.chain import Stage
from codeflow.recipes.paths import paths
from codeflow.recipes.tiny import tiny


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    return {stage.name: stage for stage in paths().chain()}


def test_what_whole_has_made_is_reused(stages: dict[str, Stage]) -> None:
    known = {stage.name: stage for stage in tiny().chain()}
    shared = stages.keys() & known.keys()
    assert {"loop_stage2", "sft_instruct", "rl_instruct", "sft_instruct_more", "rl_thinking"} <= shared
    assert all(stages[name] == known[name] for name in shared)
    assert not {"evaluate", "report"} & shared, "what whole ends with must not be made over"


def test_only_what_the_paths_need_is_made(stages: dict[str, Stage]) -> None:
    assert not any(name.startswith("dense_") or name == "publish" for name in stages)


def test_the_control_differs_from_its_twin_in_the_reward_alone(stages: dict[str, Stage]) -> None:
    for suffix in ("", "_seed1", "_seed2"):
        twin, control = stages[f"rl_instruct{suffix}"], stages[f"rl_random{suffix}"]
        assert twin.inputs == control.inputs == {**twin.inputs, "checkpoint": f"sft_instruct{suffix}"}
        plain, random_reward = twin.config.model_dump(), control.config.model_dump()
        assert {name for name in plain if plain[name] != random_reward[name]} == {"phase", "reward"}
        assert random_reward["reward"] == "random"


def test_each_seed_reaches_every_phase_of_its_path(stages: dict[str, Stage]) -> None:
    for name in ("sft_instruct", "rl_instruct", "rl_random", "sft_instruct_more"):
        seeds = [stages[f"{name}{suffix}"].config.model_dump()["seed"] for suffix in ("", "_seed1", "_seed2")]
        assert len(set(seeds)) == 3
    assert stages["sft_instruct_more_seed1"].inputs["parent"] == "sft_instruct_seed1"


def test_everything_trained_on_the_paths_is_asked_and_compared(stages: dict[str, Stage]) -> None:
    trained = {name for name in stages if name.startswith(("sft_", "rl_"))}
    assert len(trained) == 3 * 4 + 2
    comparison = stages["comparison"]
    assert set(comparison.inputs) == trained | {f"score_{name}" for name in trained}
    compared = [{path["start"], *path["arms"].values()} for path in comparison.config.model_dump()["paths"]]
    assert set().union(*compared) == trained
    assert len(comparison.config.model_dump()["pooled"]) == 3


def test_post_training_runs_on_one_core_each(stages: dict[str, Stage]) -> None:
    assert all(stages[name].cores == 1 for name in stages if name.startswith(("sft_", "rl_", "score_")))


def test_other_seeds_can_be_asked_for() -> None:
    names = {stage.name for stage in paths().model_copy(update={"seeds": (4,)}).chain()}
    assert {"sft_instruct_seed4", "rl_random_seed4"} <= names
    assert "sft_instruct" not in names
