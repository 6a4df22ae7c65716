"""The format that recipes compute in: all of a recipe in one, chosen by what the machine multiplies in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codeflow.recipes import precision
from codeflow.recipes.paths import paths
from codeflow.recipes.precision import in_precision, native_precision


def _formats(tree: Any) -> list[str]:
    if isinstance(tree, dict):
        own = [tree[name] for name in ("precision", "dtype") if name in tree]
        return own + [found for value in tree.values() for found in _formats(value)]
    return [found for value in tree for found in _formats(value)] if isinstance(tree, list) else []


@pytest.mark.parametrize(("chosen", "dtype"), [("bf16", "bfloat16"), ("fp32", "float32")])
def test_everything_in_a_recipe_computes_alike(chosen: Any, dtype: str) -> None:
    recipe = in_precision(paths(), chosen)
    found = _formats(recipe.model_dump(mode="json"))
    assert len(found) > 10
    assert set(found) == {chosen, dtype}
    assert in_precision(recipe, chosen) == recipe


@pytest.mark.parametrize(
    ("instructions", "accelerator", "expected"), [(False, False, "fp32"), (True, False, "bf16"), (False, True, "bf16")]
)
def test_the_machine_decides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, instructions: bool, accelerator: bool, expected: str
) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: instructions)
    monkeypatch.setattr(precision, "_ACCELERATOR", tmp_path if accelerator else tmp_path / "missing")
    assert native_precision() == expected
