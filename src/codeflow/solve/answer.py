"""Where a model's turn ends, and what of it is the answer: no thinking block, no fence around a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from codeflow.core.errors import UserError, suggest
from codeflow.tokens.special import END_OF_TEXT_ID, END_THINK, IM_END_ID, SPECIAL_IDS

if TYPE_CHECKING:
    from codeflow.tokens.tokenizer import Tokenizer

STOP_IDS = (IM_END_ID, END_OF_TEXT_ID)
_FENCE = "```"


def stops(wanted: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the ids and texts to stop at: `wanted`, where special tokens go by name, and the ends that always stop.

    Raises UserError for what looks like a special token and is none.
    """
    unknown = [text for text in wanted if text.startswith("<|") and text.endswith("|>") and text not in SPECIAL_IDS]
    if unknown:
        raise UserError(f"stop token '{unknown[0]}' is no special token{suggest(unknown[0], SPECIAL_IDS)}")
    ids = {*STOP_IDS, *(SPECIAL_IDS[text] for text in wanted if text in SPECIAL_IDS)}
    return tuple(sorted(ids)), tuple(text for text in wanted if text not in SPECIAL_IDS)


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
