"""Prompts for a model to continue: segments to ids, and the hole between two texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from codeflow.core.types import Segment
from codeflow.tokens.special import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX

if TYPE_CHECKING:
    from codeflow.tokens.tokenizer import Tokenizer


def fim_segments(prefix: str, suffix: str) -> tuple[Segment, ...]:
    """Return the prompt for the middle between two texts; an empty one leaves only its marker."""
    parts = (
        Segment("special", FIM_PREFIX),
        Segment("text", prefix),
        Segment("special", FIM_SUFFIX),
        Segment("text", suffix),
        Segment("special", FIM_MIDDLE),
    )
    return tuple(part for part in parts if part.text)


def render_prompt(segments: Iterable[Segment], tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a prompt's segments; only those of role "special" become special tokens."""
    return [
        token
        for part in segments
        for token in ([tokenizer.special_id(part.text)] if part.role == "special" else tokenizer.encode(part.text))
    ]
