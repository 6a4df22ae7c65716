"""Frozen configurations, and overrides such as `train.general.steps=200` set on them.

A configuration is a tree of pydantic models. Overrides are applied to its JSON form and the whole tree is validated
once, so that defaults live in one place and every error names a path.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from codeflow.core.errors import UserError, suggest


class Config(BaseModel):
    """Base of all configurations: frozen, unknown fields forbidden, JSON round trip exact."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


_SEVERAL = ("tuple_type", "list_type")  # pydantic's names of what is wrong where one value stands for several
ConfigT = TypeVar("ConfigT", bound=Config)


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value` (sorted keys, no spaces) that hashes are taken over."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def apply_overrides(config: ConfigT, overrides: Iterable[str]) -> ConfigT:
    """Return `config` with each `path.to.field=value` set; values are JSON, or else plain strings.

    In a field that is a mapping (`mixture.code=0.5`) the last name may be a new key; a name with a dot in it needs the
    mapping as JSON. A group of fields that is not set (None) starts from its defaults.

    Raises UserError naming the path, the value and the choices when a path does not exist or a value does not fit.
    """
    tree = config.model_dump(mode="json")
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise UserError(f"override '{override}' is not of the form path.to.field=value")
        _set(config, tree, path, _value(text))
    return validate(type(config), tree)


def validate(kind: type[ConfigT], tree: Any, origin: str = "") -> ConfigT:
    """Build a `kind` from its JSON tree. Raises UserError with one line per wrong field."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors()]
        raise UserError((f"{origin}: " if origin else "") + "; ".join(lines)) from None


def _explain(item: Any) -> str:
    path = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    if not path:  # a rule over several fields; its message names them
        return message
    if item["type"] in _SEVERAL:
        one = item.get("input")
        example = f"; write {path}='{json.dumps([one])}'" if isinstance(one, str | int | float) else ""
        message = f"a list is needed{example}"
    value = repr(item.get("input"))
    return f"{path}={value if len(value) <= 80 else value[:77] + '...'}: {message}"


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _set(config: Config, tree: Any, path: str, value: Any) -> None:
    """Set the value at `path` in the tree of `config`, whose own values tell groups of fields from mappings."""
    *parents, last = path.split(".")
    node, shape = tree, config
    for depth, part in enumerate(parents):
        key = _key(node, shape, path, depth)
        if isinstance(node, dict) and node.get(key) is None:  # a new key of a mapping, or a group that is not set
            node[key] = {}
        node, shape = node[key], _inside(shape, part)
    key = _key(node, shape, path, len(parents))
    old = node[key] if isinstance(node, list) else node.get(key)
    if isinstance(old, dict) and old and not isinstance(value, dict):
        raise UserError(f"{path}: is a group of fields ({', '.join(old)}); set one of them")
    node[key] = value


def _key(node: Any, shape: Any, path: str, depth: int) -> Any:
    """Return the key of part `depth` of `path` in `node`; raise UserError where there can be no such part."""
    parts = path.split(".")
    part, walked = parts[depth], ".".join(parts[:depth])
    if not part:
        raise UserError(f"{path}: an empty name after '{walked}'; write path.to.field=value")
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
            raise UserError(f"{path}: '{part}' is no index of {walked}, which has {len(node)} items")
        return int(part)
    if not isinstance(node, dict):
        raise UserError(f"{path}: {walked} is a value ({node!r}), it has no field '{part}'")
    fields = type(shape).model_fields if isinstance(shape, BaseModel) else ()
    if fields and part not in fields:
        raise UserError(f"{path}: no field '{part}' in {walked or 'the recipe'}{suggest(part, fields)}")
    return part


def _inside(shape: Any, part: str) -> Any:
    """Return what `shape` holds under `part`; None where only an override put something there."""
    if isinstance(shape, BaseModel):
        return getattr(shape, part)
    if isinstance(shape, Mapping):
        return shape.get(part)
    if isinstance(shape, Sequence) and not isinstance(shape, str):
        return shape[int(part)] if int(part) < len(shape) else None
    return None
