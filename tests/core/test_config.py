from __future__ import annotations

import pytest
from pydantic import Field

from codeflow.core.config import Config, apply_overrides, canonical_json
from codeflow.core.errors import UserError


class Inner(Config):
    steps: int = Field(default=3, ge=1)
    name: str = "a"


class Outer(Config):
    train: Inner = Inner()
    rates: dict[str, float] = {"x": 0.5}
    sizes: tuple[int, ...] = (1, 2)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=7", Outer(train=Inner(steps=7))),
        ("train.name=b", Outer(train=Inner(name="b"))),
        ("rates.x=0.25", Outer(rates={"x": 0.25})),
        ("sizes=[4]", Outer(sizes=(4,))),
        ("sizes.1=9", Outer(sizes=(1, 9))),
    ],
)
def test_override_sets_one_field(override: str, expected: Outer) -> None:
    assert apply_overrides(Outer(), [override]) == expected


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.step=7", ["train.step", "did you mean 'steps'"]),
        ("trian.steps=7", ["no field 'trian'", "did you mean 'train'"]),
        ("train.steps=many", ["train.steps", "'many'", "integer"]),
        ("train.steps=0", ["train.steps", "greater than or equal to 1"]),
        ("train=7", ["group of fields", "steps, name"]),
        ("train.steps", ["path.to.field=value"]),
        ("train.steps.x=1", ["train.steps is a value (3)"]),
        ("sizes.5=1", ["has 2 items"]),
    ],
)
def test_bad_override_is_one_clear_line(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        apply_overrides(Outer(), [override])
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_canonical_json_ignores_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": [1, 2]}) == canonical_json({"a": [1, 2], "b": 1}) == '{"a":[1,2],"b":1}'
