from __future__ import annotations

import json
from pathlib import Path

import pytest

from codeflow.eval.benchmarks.bfcl import language_of
from codeflow.eval.foreign_values import java_value, javascript_value
from codeflow.eval.function_calls import check_calls


def _function(**types: str) -> dict:
    properties = {
        name: {"type": kind, "items": {"type": "integer"}} if kind == "array" else {"type": kind}
        for name, kind in types.items()
    }
    return {"name": "f", "parameters": {"properties": properties, "required": list(types)[:1]}}


@pytest.mark.parametrize(
    ("given", "allowed", "kind"),
    [
        ({"x": 1}, {"x": [1, 2]}, ""),
        ({"x": 3}, {"x": [1, 2]}, "value_error:others"),
        ({"x": 1.0}, {"x": [1]}, "type_error:simple"),
        ({"x": True}, {"x": [1]}, "type_error:simple"),
        ({}, {"x": [1]}, "simple_function_checker:missing_required"),
        ({"x": 1, "z": 1}, {"x": [1]}, "simple_function_checker:unexpected_param"),
        ({"x": "size"}, {"x": ["size"]}, ""),  # a variable
        ({"x": "Size"}, {"x": ["size"]}, "value_error:others"),
    ],
)
def test_integers_and_variables(given: dict, allowed: dict, kind: str) -> None:
    assert check_calls([_function(x="integer")], [{"f": given}], [{"f": allowed}], "python", "simple_python") == kind


def test_sentences_lists_and_dictionaries() -> None:
    functions = [_function(s="string", a="array", d="dict")]
    answer = {"f": {"s": ["New York, NY"], "a": [[1, 2]], "d": [{"k": ["v", ""]}, ""]}}

    def kind(**given: object) -> str:
        return check_calls(functions, [{"f": given}], [answer], "python", "simple_python")

    assert kind(s="new york NY.", a=[1, 2], d={}) == ""
    assert kind(s="York", a=[1, 2]) == "value_error:string"
    assert kind(s="new york ny", a=[2, 1]) == "value_error:list/tuple"
    assert kind(s="new york ny", a=["1"]) == "type_error:nested"
    assert kind(s="new york ny", a=[1, 2], d={"k": "w"}) == "value_error:dict_value"
    assert kind(s="new york ny", a=[1, 2], d={"q": 1}) == "value_error:dict_key"
    assert kind(s="new york ny") == "simple_function_checker:missing_optional"


def test_parallel_calls_come_in_any_order_but_each_once() -> None:
    functions = [_function(x="integer")]
    answers = [{"f": {"x": [1]}}, {"f": {"x": [2]}}]

    def kind(*values: int) -> str:
        return check_calls(functions, [{"f": {"x": value}} for value in values], answers, "python", "parallel")

    assert kind(2, 1) == ""
    assert kind(1, 1) == "parallel_function_checker_no_order:cannot_find_match"
    assert kind(1) == "parallel_function_checker_no_order:wrong_count"


@pytest.mark.parametrize(
    ("text", "declared", "nested", "value"),
    [
        ("12", "integer", None, 12),
        ("12L", "long", None, 12),
        ("12", "long", None, "12"),
        ("1.5f", "float", None, 1.5),
        ("1.5", "float", None, "1.5"),
        ("true", "boolean", None, True),
        ("new int[]{1, 2}", "Array", "integer", [1, 2]),
        ('new ArrayList<>(Arrays.asList("a", "b"))', "ArrayList", "String", ["a", "b"]),
        ("new ArrayList<Integer>() {{ add(1); add(2); }}", "ArrayList", "integer", [1, 2]),
        ("new ArrayList<>()", "ArrayList", "String", []),
        ('new HashMap<String, Object>() {{ put("k", 1); put("l", true); }}', "HashMap", None, {"k": 1, "l": True}),
        ("name", "String", None, "name"),
    ],
)
def test_java(text: str, declared: str, nested: str | None, value: object) -> None:
    assert java_value(text, declared, nested) == value


@pytest.mark.parametrize(
    ("text", "declared", "nested", "value"),
    [
        ("'a'", "String", None, "a"),
        ("5n", "Bigint", None, 5),
        ("[1, 2]", "array", "integer", [1, 2]),
        ("new Array('a', 'b')", "array", "String", ["a", "b"]),
        ("[[1, 2], [3, 4]]", "array", "array", [[1, 2], [3, 4]]),
        ('{"k": 1, "l": [true, "x"]}', "dict", None, {"k": 1, "l": [True, "x"]}),
        ("call()", "any", None, "call()"),
    ],
)
def test_javascript(text: str, declared: str, nested: str | None, value: object) -> None:
    assert javascript_value(text, declared, nested) == value


def test_every_official_verdict(official: Path) -> None:
    rows = [json.loads(line) for line in (official / "bfcl/ast_verdicts_sample.jsonl").read_text().splitlines()]
    assert len(rows) > 600
    for row in rows:
        category = row["category"]
        kind = check_calls(
            row["function"], row["model_output"], row["possible_answer"], language_of(category), category
        )
        assert (not kind) == row["valid"], row
        assert row["valid"] or kind == row["error_type"], row
