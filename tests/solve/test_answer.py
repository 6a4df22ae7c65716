from __future__ import annotations

import pytest

from codeflow.solve.answer import answer_ids, program
from codeflow.tokens.special import END_OF_TEXT_ID, END_THINK, IM_END_ID, SPECIAL_IDS

CLOSE = SPECIAL_IDS[END_THINK]


@pytest.mark.parametrize(
    ("ids", "thinking", "expected"),
    [
        ([50, 51, IM_END_ID], False, [50, 51]),
        ([50, 51, END_OF_TEXT_ID], False, [50, 51]),
        ([50, 51], False, [50, 51]),  # cut off
        ([50, CLOSE, 51, 52, IM_END_ID], True, [51, 52]),
        ([50, CLOSE, 51, CLOSE, 52], True, [52]),
        ([50, CLOSE, 51, IM_END_ID], False, [51]),
        ([50, 51, IM_END_ID], True, []),  # a block that was never closed leaves no answer
        ([], True, []),
        ([IM_END_ID], False, []),
    ],
)
def test_what_stands_after_the_thinking_block(ids, thinking, expected):
    assert answer_ids(ids, CLOSE, thinking) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(x):\n    return x", "def f(x):\n    return x\n"),
        ("\n\ndef f(x):\n    return x\n\n", "def f(x):\n    return x\n"),
        ("Here:\n```python\ndef f(x):\n    return x\n```\nDone.", "def f(x):\n    return x\n"),
        ("```\na = 1\n", "a = 1\n"),
        ("```python\na = 1\n```\n```python\nb = 2\n```", "a = 1\n"),
        ("", "\n"),
    ],
)
def test_program_of_a_text(text, expected):
    assert program(text) == expected
