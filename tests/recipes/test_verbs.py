"""The table of stages agrees with the functions that it names."""

from __future__ import annotations

import inspect

import pytest

from codeflow.execute.chain import resolve
from codeflow.recipes.verbs import VERBS


@pytest.mark.parametrize("name", VERBS)
def test_a_pool_is_given_to_the_functions_that_take_one(name: str) -> None:
    assert ("pool" in inspect.signature(resolve(VERBS[name].run)).parameters) == VERBS[name].pooled
