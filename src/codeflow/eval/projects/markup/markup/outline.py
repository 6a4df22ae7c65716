"""Names for headings, and tables of contents."""

from __future__ import annotations

from collections.abc import Iterable

from .blocks import Block


def slug(title: str) -> str:
    """Return a heading's name in addresses: lower-case words of letters and digits, joined by hyphens."""
    words: list[str] = []
    word = ""
    for character in title.lower():
        if character.isalnum():
            word += character
        elif word and character != "'":
            words.append(word)
            word = ""
    return "-".join([*words, word]) if word else "-".join(words) or "section"


def names(blocks: Iterable[Block]) -> list[str]:
    """Return a name for each heading, in order; a repeated one gets "-2", "-3" and so on, never one that is taken."""
    taken: set[str] = set()
    found: list[str] = []
    for block in blocks:
        if block.kind != "heading":
            continue
        stem = name = slug(block.lines[0])
        number = 2
        while name in taken:
            name = f"{stem}-{number}"
            number += 1
        taken.add(name)
        found.append(name)
    return found


def numbers(blocks: Iterable[Block]) -> list[str]:
    """Return a number such as "2.1" for each heading; skipped levels count as 1."""
    counts: list[int] = []
    found: list[str] = []
    for block in blocks:
        if block.kind != "heading":
            continue
        if len(counts) >= block.level:
            counts = counts[: block.level]
            counts[-1] += 1
        else:
            counts += [1] * (block.level - len(counts))
        found.append(".".join(map(str, counts)))
    return found
