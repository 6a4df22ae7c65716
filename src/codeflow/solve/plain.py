"""Plain values as text with exact types, so that a result can leave the sandbox and be compared outside.

    None, True, False   null, true, false            list, tuple   ["l", ...], ["t", ...]
    int, float          ["i", hex], ["f", hex]       set           ["s", ...] (frozenset: "z")
    complex             ["c", hex, hex]              dict          ["d", key, value, key, value, ...]
    str, bytes          "...", ["b", hex]

Two values are equal when their canonical texts are: 1, True and 1.0 differ, so do a list and a tuple; the order in
sets and dictionaries does not matter; NaN equals itself and -0.0 equals 0.0. `driver.py` writes it inside.
"""

from __future__ import annotations

import json
from typing import Any

_SEQUENCES: dict[str, Any] = {"l": list, "t": tuple, "s": set, "z": frozenset}
_TAGS = {kind: tag for tag, kind in _SEQUENCES.items()}
_ZERO = 0.0


def to_tree(value: Any) -> Any:
    """Return the JSON tree of a plain value. Raises TypeError for anything else, subclasses included."""
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return ["i", format(value, "x")]
    if kind is float:
        return ["f", value.hex()]
    if kind is complex:
        return ["c", value.real.hex(), value.imag.hex()]
    if kind is bytes:
        return ["b", value.hex()]
    if kind in _TAGS:
        return [_TAGS[kind], *(to_tree(item) for item in value)]
    if kind is dict:
        return ["d", *(to_tree(part) for pair in value.items() for part in pair)]
    raise TypeError(f"{kind.__name__} is not a plain value")


def from_tree(tree: Any) -> Any:
    """Return the value of a JSON tree. Raises ValueError when it is none."""
    if tree is None or isinstance(tree, bool | str):
        return tree
    tag, *parts = _checked(tree)
    if tag == "i":
        return int(parts[0], 16)
    if tag == "f":
        return float.fromhex(parts[0])
    if tag == "c":
        return complex(float.fromhex(parts[0]), float.fromhex(parts[1]))
    if tag == "b":
        return bytes.fromhex(parts[0])
    values = [from_tree(part) for part in parts]
    return dict(zip(values[::2], values[1::2], strict=True)) if tag == "d" else _SEQUENCES[tag](values)


def canonical(tree: Any) -> str:
    """Return the one text of a JSON tree's value. Raises ValueError when the tree is not one of `to_tree`'s.

    Works on the tree alone, so nothing made by untrusted code is ever built or compared.
    """
    if tree is None or isinstance(tree, bool | str):
        return json.dumps(tree)
    tag, *parts = _checked(tree)
    if tag in "ifcb":
        texts = [_scalar(tag, part) for part in parts]
    else:
        texts = [canonical(part) for part in parts]
        if tag in "sz":
            texts = sorted(set(texts))
        elif tag == "d":
            texts = sorted(f"{key}:{value}" for key, value in zip(texts[::2], texts[1::2], strict=True))
    return f"{tag}[{','.join(texts)}]"


def _scalar(tag: str, part: Any) -> str:
    if not isinstance(part, str):
        raise ValueError(f"{part!r} is no text of a number")
    if tag == "i":
        return format(int(part, 16), "x")
    if tag == "b":
        return bytes.fromhex(part).hex()
    return (float.fromhex(part) + _ZERO).hex()  # -0.0 + 0.0 is 0.0


def _checked(tree: Any) -> list[Any]:
    lengths = {"i": 2, "f": 2, "b": 2, "c": 3}
    if not isinstance(tree, list) or not tree or tree[0] not in ("i", "f", "b", "c", "d", *_SEQUENCES):
        raise ValueError("not the tree of a plain value")
    if len(tree) != lengths.get(tree[0], len(tree)):
        raise ValueError(f"wrong number of parts for '{tree[0]}'")
    return tree
