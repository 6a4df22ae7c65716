"""Holes in files of a repository, and the prompt that asks a base model to fill one, cut to the room there is.

The prompt is the recipe's format for repository-level completion up to `<|fim_middle|>` (Code-Flow §2). Where it is too
long, files of the context go first, the least wanted before others; then prefix and suffix lose their outer ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from codeflow.core.types import Segment
from codeflow.tokens.special import FIM_MIDDLE
from codeflow.transform.fim import Fim, segments, window
from codeflow.transform.repo_context import context_segments

_SMALLEST_WINDOW = 64  # characters of prefix and suffix together


@dataclass(frozen=True, slots=True)
class Hole:
    """A middle that was taken out of the file at `path`. `files` are others as (path, text), the most wanted first."""

    repository: str
    files: tuple[tuple[str, str], ...]
    path: str
    prefix: str
    suffix: str


def prompt(hole: Hole) -> tuple[Segment, ...]:
    """Return the whole prompt, the most wanted files last."""
    parts = segments(Fim(hole.prefix, "", hole.suffix))
    before_middle = next(n for n, part in enumerate(parts) if part.text == FIM_MIDDLE)
    context = context_segments(hole.repository, hole.files[::-1], hole.path)
    return (*context, *parts[: before_middle + 1])


def prompt_text(hole: Hole) -> str:
    """Return how the whole prompt reads, special tokens spelt out."""
    return "".join(part.text for part in prompt(hole))


def fitting_prompt(hole: Hole, encode: Callable[[Sequence[Segment]], Sequence[int]], room_tokens: int) -> Sequence[int]:
    """Return the ids of the longest prompt of at most `room_tokens`, none where even the smallest is longer."""
    smaller = hole
    while len(ids := encode(prompt(smaller))) > room_tokens:
        n_characters = len(smaller.prefix) + len(smaller.suffix)
        if smaller.files:
            smaller = Hole(hole.repository, smaller.files[:-1], hole.path, hole.prefix, hole.suffix)
        elif n_characters > _SMALLEST_WINDOW:
            cut = window(Fim(smaller.prefix, "", smaller.suffix), n_characters * 3 // 4)
            smaller = Hole(hole.repository, (), hole.path, cut.prefix, cut.suffix)
        else:
            return ()
    return ids
