from __future__ import annotations

import pytest

from codeflow.execute.chain import resolve
from codeflow.recipes.runner import recipes
from codeflow.recipes.verbs import VERBS
from codeflow.tokens.mixture import flatten


@pytest.mark.parametrize("name", sorted(recipes()))
def test_chains_are_wired_in_order(name: str) -> None:
    seen: set[str] = set()
    for stage in resolve(recipes()[name])().chain():
        assert stage.name not in seen
        assert set(stage.inputs.values()) <= seen, f"{stage.name} reads what is not made yet"
        seen.add(stage.name)


@pytest.mark.parametrize("name", sorted(recipes()))
def test_recipes_survive_json(name: str) -> None:
    recipe = resolve(recipes()[name])()
    assert type(recipe).model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_leads_somewhere(verb: str) -> None:
    assert callable(resolve(VERBS[verb].run))
    assert resolve(VERBS[verb].config)().model_dump_json()
    if VERBS[verb].world:
        assert callable(resolve(VERBS[verb].world))


def test_a_tenth_of_the_second_mid_training_stage_is_fresh_rows_of_the_first() -> None:
    post = resolve(recipes()["tiny"])().post
    for config in (post.stage2.loop, post.stage2.dense):
        weights = flatten(config.mixture)
        fresh = {name: weight for name, weight in weights.items() if name.startswith("stage1/")}
        assert sum(fresh.values()) == pytest.approx(0.1)
        assert tuple(fresh) == config.once
        assert weights["trajectories"] == pytest.approx(0.9 * 110 / 300)  # of the table for 128k
        assert config.validation_rows == post.stage1.loop.validation_rows  # else another order
    inputs = {stage.name: stage.inputs for stage in post.training()}
    for kind in ("loop", "dense"):
        assert inputs[f"{kind}_stage2"]["tokens_stage1"] == "pack_stage1"
        assert inputs[f"{kind}_stage2"]["parent"] == f"{kind}_stage1"


def test_sources_reach_their_stages() -> None:
    recipe = resolve(recipes()["tiny"])().with_sources(("a", "b"), "own", None)
    assert recipe.collect.repositories == ("a", "b")
    assert recipe.history.repositories == ("a", "b")
    assert recipe.history.optional_repositories == ("own",)
