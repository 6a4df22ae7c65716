"""The rule by which BFCL judges function calls: names, parameters, types and values against lists of allowed ones.

A call is `{name: {parameter: value}}`; a possible answer is `{name: {parameter: [allowed value, ...]}}`, where "" among
the allowed values says that the parameter may be left out. Written from the rule of the Berkeley Function-Calling
Leaderboard (Apache-2.0), quirks included: a value of the type of the first allowed one counts as a variable, whatever
the declared type; nested types are checked one level deep; in sentences case, spaces and `,./-_*^` do not matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from codeflow.eval.foreign_values import JAVA_TYPES, JAVASCRIPT_TYPES, java_value, javascript_value

CallLanguage = Literal["python", "java", "javascript"]
Call = Mapping[str, Mapping[str, Any]]

_PYTHON_TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
_LISTS = {"python": ("array", "tuple"), "java": ("Array", "ArrayList", "array"), "javascript": ("array",)}
_IGNORED = re.compile(r"[ ,./\-_*^]")
_OPTIONAL = ""


class Mismatch(Exception):
    """A call is not one of the allowed ones; `kind` is the official error type."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def check_calls(
    functions: Sequence[Mapping[str, Any]],
    calls: Sequence[Call],
    answers: Sequence[Call],
    language: CallLanguage,
    category: str,
) -> str:
    """Return "" when `calls` are what `answers` allow, else the official error type.

    `category` is the official one: in parallel ones the order of calls is free, in multiple ones a function is chosen
    among several. `functions` are the official descriptions.
    """
    try:
        if "parallel" in category:
            _check_parallel(functions, calls, answers, language)
        else:
            several = "multiple" in category
            expected = len(answers) if several else 1
            if len(calls) != expected:
                raise Mismatch(f"{'multiple' if several else 'simple'}_function_checker:wrong_count")
            described = _described(functions, next(iter(answers[0]))) if several else functions[0]
            _check_call(described, calls[0], answers[0], language)
    except Mismatch as mismatch:
        return mismatch.kind
    return ""


def _described(functions: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next(function for function in functions if function["name"] == name)


def _check_parallel(
    functions: Sequence[Mapping[str, Any]], calls: Sequence[Call], answers: Sequence[Call], language: CallLanguage
) -> None:
    """Give each answer in turn the first call that fits it and no other answer has taken."""
    if len(calls) != len(answers):
        raise Mismatch("parallel_function_checker_no_order:wrong_count")
    free = list(calls)
    for answer in answers:
        described = _described(functions, next(iter(answer)))
        fitting = next((i for i, call in enumerate(free) if _fits(described, call, answer, language)), None)
        if fitting is None:
            raise Mismatch("parallel_function_checker_no_order:cannot_find_match")
        del free[fitting]


def _fits(described: Mapping[str, Any], call: Call, answer: Call, language: CallLanguage) -> bool:
    try:
        _check_call(described, call, answer, language)
    except Mismatch:
        return False
    return True


def _check_call(described: Mapping[str, Any], call: Call, answer: Call, language: CallLanguage) -> None:
    allowed = next(iter(answer.values()))
    properties, required = described["parameters"]["properties"], described["parameters"]["required"]
    if described["name"] not in call:
        raise Mismatch("simple_function_checker:wrong_func_name")
    given = call[described["name"]]
    if any(name not in given for name in required):
        raise Mismatch("simple_function_checker:missing_required")
    for name, value in given.items():
        if name not in properties or name not in allowed:
            raise Mismatch("simple_function_checker:unexpected_param")
        _check_value(value, properties[name], allowed[name], language)
    if any(name not in given and _OPTIONAL not in values for name, values in allowed.items()):
        raise Mismatch("simple_function_checker:missing_optional")


def _check_value(value: Any, declared: Mapping[str, Any], allowed: Sequence[Any], language: CallLanguage) -> None:
    described = declared["type"]
    types = {"python": _PYTHON_TYPES, "java": JAVA_TYPES, "javascript": JAVASCRIPT_TYPES}[language]
    wanted = types[described]
    nested_name = declared["items"]["type"] if described in _LISTS[language] else None
    nested = types[nested_name] if nested_name else None
    if language == "python":
        if described == "tuple" and type(value) is tuple:
            value = list(value)
        if described == "float" and type(value) is int:
            value = float(value)
    else:
        if type(value) is not str:
            raise Mismatch("type_error:java" if language == "java" else "type_error:js")
        convert = java_value if language == "java" else javascript_value
        value = convert(value, described, nested_name)
    if _is_variable(value, allowed, wanted, nested):
        if value not in allowed:
            raise Mismatch("value_error:others")
    elif wanted is dict:
        _check_dict(value, allowed)
    elif wanted is list and nested is dict:
        _check_dicts(value, allowed)
    elif wanted is str:
        if _plain(value) not in [_plain(one) for one in allowed if type(one) is str]:
            raise Mismatch("value_error:string")
    elif wanted is list:
        if [_plain(item) for item in value] not in [[_plain(item) for item in one] for one in allowed]:
            raise Mismatch("value_error:list/tuple")
    elif value not in allowed:
        raise Mismatch("value_error:others")


def _is_variable(value: Any, allowed: Sequence[Any], wanted: type | None, nested: type | None) -> bool:
    """Check the type of a value; say whether it stands for a variable, and so must be exactly an allowed one."""
    first = next((type(one) for one in allowed if one != _OPTIONAL), None)
    variable = first is not None and first is not wanted
    if type(value) is wanted:
        if nested is None:
            return variable
        for one in allowed:
            if type(one) is not list or all(_item_fits(item, one, nested) for item in value):
                return variable
        raise Mismatch("type_error:nested" if type(value) is first else "type_error:simple")
    if first is not None and type(value) is first:
        return True
    raise Mismatch("type_error:simple")


def _item_fits(item: Any, allowed: Sequence[Any], wanted: type) -> bool:
    first = next((type(one) for one in allowed if one != _OPTIONAL), None)
    return type(item) is wanted or (first is not None and type(item) is first)


def _plain(value: Any) -> Any:
    """Return a text without what does not matter, any other value as it is."""
    return _IGNORED.sub("", value).lower().replace("'", '"') if type(value) is str else value


def _check_dict(value: Mapping[str, Any], answers: Sequence[Any]) -> None:
    kind = "dict_checker:unclear"
    for answer in answers:
        if answer == _OPTIONAL:
            continue
        kind = _dict_error(value, answer)
        if not kind:
            return
    raise Mismatch(kind)


def _dict_error(value: Any, answer: Mapping[str, Sequence[Any]]) -> str:
    if not isinstance(value, dict):
        return "value_error:dict_value"
    kind = ""
    for key, item in value.items():
        if key not in answer:
            kind = "value_error:dict_key"
            break
        if _plain(item) not in [_plain(one) for one in answer[key]]:
            kind = "value_error:dict_value"
            break
    missing = any(key not in value and _OPTIONAL not in allowed for key, allowed in answer.items())
    return "value_error:dict_key" if missing else kind


def _check_dicts(values: Sequence[Any], answers: Sequence[Any]) -> None:
    kind = "list_dict_checker:unclear"
    for answer in answers:
        if len(values) != len(answer):
            kind = "value_error:list_dict_count"
            continue
        kind = next((kind for value, one in zip(values, answer, strict=True) if (kind := _dict_error(value, one))), "")
        if not kind:
            return
    raise Mismatch(kind)
