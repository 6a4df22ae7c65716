"""Prompts for holes: the recipe's format, and what is left out where there is little room."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from codeflow.core.types import Segment
from codeflow.eval.holes import Hole, fitting_prompt, prompt_text

HOLE = Hole("shop", (("near.py", "n = 1\n"), ("far.py", "f = 22")), "a.py", "x = 1\ny = 2\n", "z = 3\n")


def _encode(parts: Sequence[Segment]) -> list[int]:
    """One id for each character, and one for each special token."""
    return [n for part in parts for n in ([0] if part.role == "special" else map(ord, part.text))]


def test_format_is_the_recipes() -> None:
    assert prompt_text(HOLE) == (
        "<|repo_name|>shop\n<|file_sep|>far.py\nf = 22\n<|file_sep|>near.py\nn = 1\n<|file_sep|>a.py\n"
        "<|fim_prefix|>x = 1\ny = 2\n<|fim_suffix|>z = 3\n<|fim_middle|>"
    )


@pytest.mark.parametrize(
    ("room", "shown", "hidden"),
    [
        (500, "f = 22", "none"),
        (60, "n = 1", "f = 22"),
        (35, "y = 2", "n = 1"),
    ],
)
def test_the_least_wanted_goes_first(room: int, shown: str, hidden: str) -> None:
    text = "".join(map(chr, fitting_prompt(HOLE, _encode, room)))
    assert 0 < len(text) <= room
    assert shown in text
    assert hidden not in text


def test_outer_ends_go_last_and_what_cannot_fit_is_nothing() -> None:
    lines = [f"line {n}\n" for n in range(100)]
    hole = Hole("shop", HOLE.files, "a.py", "".join(lines[:50]), "".join(lines[50:]))
    text = "".join(map(chr, fitting_prompt(hole, _encode, 200)))
    assert 100 < len(text) <= 200
    assert "line 49\n\0line 50\n" in text
    assert "line 0\n" not in text
    assert len(fitting_prompt(hole, _encode, 30)) == 0
    assert len(fitting_prompt(HOLE, _encode, -5)) == 0
