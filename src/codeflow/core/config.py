"""Frozen configurations, and overrides such as `train.general.steps=200` set on them.

A configuration is a tree of pydantic models. Overrides are applied to its JSON form and the whole tree is validated
once, so that defaults live in one place and every error names a path.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from codeflow.core.errors import UserError, suggest


class Config(BaseModel):
    """Base of all configurations: frozen, unknown fields forbidden, JSON round trip exact."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


ConfigT = TypeVar("ConfigT", bound=Config)


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value` (sorted keys, no spaces) that hashes are taken over."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def apply_overrides(config: ConfigT, overrides: Iterable[str]) -> ConfigT:
    """Return `config` with each `path.to.field=value` set; values are JSON, or else plain strings.

    Raises UserError naming the path, the value and the choices when a path does not exist or a value does not fit.
    """
    tree = config.model_dump(mode="json")
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise UserError(f"override '{override}' is not of the form path.to.field=value")
        _set(tree, path, _value(text))
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
    value = repr(item.get("input"))
    return f"{path}={value if len(value) <= 80 else value[:77] + '...'}: {message}"


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _set(tree: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    node = tree
    walked: list[str] = []
    for part in [*parents, last]:
        key: Any = int(part) if isinstance(node, list) and part.isdigit() else part
        if isinstance(node, list):
            if not isinstance(key, int) or key >= len(node):
                raise UserError(f"{path}: '{part}' is no index of {'.'.join(walked)}, which has {len(node)} items")
        elif not isinstance(node, dict):
            raise UserError(f"{path}: {'.'.join(walked)} is a value ({node!r}), it has no field '{part}'")
        elif key not in node:
            raise UserError(f"{path}: no field '{part}' in {'.'.join(walked) or 'the recipe'}{suggest(part, node)}")
        walked.append(part)
        if len(walked) == len(parents) + 1:
            if isinstance(node[key], dict) and node[key] and not isinstance(value, dict):
                raise UserError(f"{path}: is a group of fields ({', '.join(node[key])}); set one of them")
            node[key] = value
        else:
            node = node[key]
