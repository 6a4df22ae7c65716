from __future__ import annotations

import pytest

from codeflow.execute.chain import resolve
from codeflow.recipes.runner import recipes
from codeflow.recipes.verbs import VERBS


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


def test_sources_reach_their_stages() -> None:
    recipe = resolve(recipes()["tiny"])().with_sources(("a", "b"), "own", None)
    assert recipe.collect.repositories == ("a", "b")
    assert recipe.history.repositories == ("a", "b")
    assert recipe.history.optional_repositories == ("own",)
