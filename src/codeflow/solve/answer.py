"""What of a model's turn is the answer: without the thinking block, and without the fence around a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from codeflow.tokens.special import END_OF_TEXT_ID, END_THINK, IM_END_ID

if TYPE_CHECKING:
    from codeflow.tokens.tokenizer import Tokenizer

STOP_IDS = (IM_END_ID, END_OF_TEXT_ID)
_FENCE = "```"


def answer_ids(ids: Sequence[int], end_think_id: int, thinking: bool) -> list[int]:
    """Return the ids after the thinking block, without the stop token; none when a block was never closed."""
    kept = list(ids[:-1] if ids and ids[-1] in STOP_IDS else ids)
    if end_think_id in kept:
        last = len(kept) - 1 - kept[::-1].index(end_think_id)
        return kept[last + 1 :]
    return [] if thinking else kept


def program(text: str) -> str:
    """Return the first fenced block of `text` (to its end where the fence is never closed), or all of it."""
    _, fence, rest = text.partition(_FENCE)
    if not fence:
        return text.strip("\n") + "\n"
    inside = rest.partition("\n")[2]
    return inside.partition(_FENCE)[0]


def program_of(ids: Sequence[int], tokenizer: Tokenizer, thinking: bool) -> str:
    """Return the program that a turn's ids give; `thinking`: the prompt opened a thinking block."""
    return program(tokenizer.decode(answer_ids(ids, tokenizer.special_id(END_THINK), thinking)))
