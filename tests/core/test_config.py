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
    blends: dict[str, float | Inner] = {}
    inners: tuple[Inner, ...] = (Inner(),)
    spare: Inner | None = None
    limit: float | None = None


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=7", Outer(train=Inner(steps=7))),
        ("train.name=b", Outer(train=Inner(name="b"))),
        ("rates.x=0.25", Outer(rates={"x": 0.25})),
        ("sizes=[4]", Outer(sizes=(4,))),
        ("sizes.1=9", Outer(sizes=(1, 9))),
        ("rates.new=0.25", Outer(rates={"x": 0.5, "new": 0.25})),
        ("rates.C++=0", Outer(rates={"x": 0.5, "C++": 0})),
        ("blends.first=1", Outer(blends={"first": 1.0})),
        ("blends.deep.steps=9", Outer(blends={"deep": Inner(steps=9)})),
        ("inners.0.name=b", Outer(inners=(Inner(name="b"),))),
        ("spare.steps=4", Outer(spare=Inner(steps=4))),
        ('rates={"y": 1}', Outer(rates={"y": 1})),
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
        ("rates.new=many", ["rates.new", "'many'", "number"]),
        ("rates=1", ["group of fields (x)"]),
        ("rates.x.y=1", ["rates.x is a value (0.5)"]),
        ("rates.=1", ["empty name after 'rates'"]),
        ("rates.a.b=1", ["rates.a", "{'b': 1}", "number"]),
        ("inners.0.nme=b", ["no field 'nme' in inners.0", "did you mean 'name'"]),
        ("spare.stops=4", ["spare.stops", "xtra"]),
        ("limit.x=4", ["limit", "number"]),
        ("sizes=5", ["sizes=5", "a list is needed; write sizes='[5]'"]),
        ("sizes=null", ["sizes=None", "a list is needed"]),
    ],
)
def test_bad_override_is_one_clear_line(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        apply_overrides(Outer(), [override])
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_overrides_build_on_each_other() -> None:
    found = apply_overrides(Outer(), ['rates={"y": 1}', "rates.z=2", 'train={"name": "b"}', "train.steps=5"])
    assert found == Outer(rates={"y": 1, "z": 2}, train=Inner(name="b", steps=5))


def test_canonical_json_ignores_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": [1, 2]}) == canonical_json({"a": [1, 2], "b": 1}) == '{"a":[1,2],"b":1}'
