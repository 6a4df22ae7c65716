"""Values written as Java or JavaScript source, as BFCL reads them: to Python values, or the text itself.

What cannot be read as the declared type stays text; the type check that follows then decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

JAVA_TYPES: dict[str, type] = {
    **dict.fromkeys(("byte", "short", "integer", "long"), int),
    **dict.fromkeys(("float", "double"), float),
    "boolean": bool,
    **dict.fromkeys(("char", "String", "any"), str),
    **dict.fromkeys(("Array", "ArrayList", "Queue", "Stack"), list),
    "Set": set,
    **dict.fromkeys(("HashMap", "Hashtable"), dict),
}
JAVASCRIPT_TYPES: dict[str, type] = {
    **dict.fromkeys(("String", "any"), str),
    **dict.fromkeys(("integer", "Bigint"), int),
    "float": float,
    "Boolean": bool,
    "dict": dict,
    "array": list,
}

_WHOLE = r"^-?\d+$"
_DECIMAL = r"^-?\d+(\.\d+)?([eE][+-]?\d+)?"
_Number = tuple[str, Callable[[str], Any]]
_JAVA_NUMBERS: dict[str, _Number] = {
    **dict.fromkeys(("byte", "short", "integer"), (_WHOLE, int)),
    "long": (r"^-?\d+[lL]$", lambda text: int(text[:-1])),
    "float": (_DECIMAL + "[fF]$", lambda text: float(text[:-1])),
    "double": (_DECIMAL + "$", float),
    "boolean": (r"^(true|false)\Z", lambda text: text == "true"),
}
_JAVASCRIPT_NUMBERS: dict[str, _Number] = {
    "integer": (_WHOLE, int),
    "float": (r"^-?\d+(\.\d+)?$", float),
    "Bigint": (r"^-?\d+n$", lambda text: int(text[:-1])),
    "Boolean": (r"^(true|false)\Z", lambda text: text == "true"),
}


def _number(text: str, rule: _Number) -> Any:
    pattern, convert = rule
    return convert(text.rstrip("\n")) if re.match(pattern, text) else text


def java_value(text: str, declared: str, nested: str | None = None) -> Any:
    """Return the value of Java source of the declared type; lists know their items' type as `nested`."""
    if declared in _JAVA_NUMBERS:
        return _number(text, _JAVA_NUMBERS[declared])
    if declared == "Array":
        return _java_array(text, nested)
    if declared == "ArrayList":
        return _java_list(text, nested)
    if declared == "HashMap":
        return _java_map(text)
    return text


def _java_item(text: str, nested: str | None) -> Any:
    return java_value(text, nested) if nested else _java_guess(text)


def _java_array(text: str, nested: str | None) -> Any:
    found = re.search(r"new\s+\w+\[\]\s*\{(.*?)\}", text)
    if not found:
        return text
    return [_java_item(item.strip(), nested) for item in found[1].split(",") if item.strip()]


def _java_list(text: str, nested: str | None) -> Any:
    whole = re.search(r"new\s+ArrayList<\w*>\(Arrays\.asList\((.+?)\)\)", text)
    added = re.search(r"new\s+ArrayList<\w*>\(\)\s*\{\{\s*(.+?)\s*\}\}", text, re.DOTALL)
    if whole:
        items = whole[1].split(",")
    elif added:
        items = re.findall(r"add\((.+?)\)", added[1])
    else:
        return [] if re.search(r"new\s+ArrayList<\w*>\(\)", text) else text
    quoted = nested in ("char", "String")  # their quotes go, whatever they are
    return [item.strip()[1:-1] if quoted else _java_item(item.strip(), nested) for item in items]


def _java_map(text: str) -> Any:
    found = re.search(r"new\s+HashMap<.*?>\s*\(\)\s*\{\s*\{?\s*(.*?)\s*\}?\s*\}", text, re.DOTALL)
    if not found:
        return {} if re.search(r"new\s+HashMap<.*?>\s*\(\)", text) else text
    return {key: _java_guess(value.strip()) for key, value in re.findall(r"put\(\"(.*?)\",\s*(.*?)\)", found[1])}


def _java_guess(text: str) -> Any:
    """Return a value whose type nobody declared."""
    if text in ("true", "false"):
        return text == "true"
    if text.startswith('"') and text.endswith('"'):
        return text[1:-1]
    for rule in (_JAVA_NUMBERS["long"], _JAVA_NUMBERS["float"]):
        if re.match(rule[0], text):
            return _number(text, rule)
    return _int_or_float(text)


def _int_or_float(text: str) -> Any:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def javascript_value(text: str, declared: str, nested: str | None = None) -> Any:
    """Return the value of JavaScript source of the declared type; lists know their items' type as `nested`."""
    if declared in _JAVASCRIPT_NUMBERS:
        return _number(text, _JAVASCRIPT_NUMBERS[declared])
    if declared == "String":
        return _unquoted(text)
    if declared == "array":
        return _javascript_array(text.strip(), nested)
    if declared == "dict":
        return _javascript_dict(text.strip())
    return text


def _is_quoted(text: str) -> bool:
    return (text.startswith('"') and text.endswith('"')) or (text.startswith("'") and text.endswith("'"))


def _unquoted(text: str) -> str:
    return text[1:-1] if _is_quoted(text) else text


_NESTED = re.compile(
    r"\[\s*\[.*?\]\s*(,\s*\[.*?\]\s*)*\]|\bnew\s+Array\(\s*\[.*?\]\s*(,\s*\[.*?\]\s*)*\)"
)  # an array of arrays
_FLAT = re.compile(r"\[(.*?)\]|\bnew\s+Array\((.*?)\)")


def _javascript_array(text: str, nested: str | None) -> Any:
    within = _NESTED.match(text)
    if within:
        rows = [row.strip() for row in re.findall(r"\[(.*?)\]", within[0])]
        rows[0] = rows[0].removeprefix("[")
        return [[_javascript_guess(item) for item in row.split(",")] for row in rows]
    flat = _FLAT.match(text)
    if not flat:
        return text
    inside = (flat[1] if flat[1] is not None else flat[2]).strip()
    items = [item.strip() for item in inside.split(",")] if inside else []
    if nested and nested not in JAVASCRIPT_TYPES:
        return text
    return [javascript_value(item, nested) if nested else _javascript_guess(item) for item in items]


def _javascript_dict(text: str) -> Any:
    if text == "{}":
        return {}
    found = re.match(r"\{(.*?)\}", text)
    if not found:
        return text
    values: dict[str, Any] = {}
    for key, value in re.findall(r"([^:]+):\s*(.*?)(?:,\s*(?=[^,]+:)|$)", found[1]):
        value = value.strip()
        name = key.strip().strip("'\"")
        if value.startswith("[") and value.endswith("]"):
            values[name] = _javascript_array(value, None)
        elif value.startswith("{") and value.endswith("}"):
            values[name] = _javascript_dict(value)
        else:
            values[name] = _javascript_guess(value.strip("'\""))
    return values


def _javascript_guess(text: str) -> Any:
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    return text[1:-1] if _is_quoted(text) else _int_or_float(text)
