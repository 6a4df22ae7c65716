"""A document as blocks: headings, paragraphs, lists and code."""

from __future__ import annotations

from dataclasses import dataclass

FENCE = "~~~"


@dataclass(frozen=True)
class Block:
    """A part of a document. `level` is a heading's, 0 else; `lines` are a list's items or a code block's lines."""

    kind: str
    lines: tuple[str, ...]
    level: int = 0


def parse_blocks(text: str) -> list[Block]:
    """Return the blocks of a document. A fence that is not closed reaches to the end."""
    lines = text.splitlines()
    blocks: list[Block] = []
    place = 0
    while place < len(lines):
        line = lines[place]
        if not line.strip():
            place += 1
        elif line.startswith(FENCE):
            stop = next((n for n in range(place + 1, len(lines)) if lines[n].rstrip() == FENCE), len(lines))
            blocks.append(Block("code", tuple(lines[place + 1 : stop])))
            place = stop + 1
        elif level := heading_level(line):
            blocks.append(Block("heading", (line[level:].strip(),), level))
            place += 1
        else:
            stop = place
            while stop < len(lines) and lines[stop].strip() and not _opens_another(lines[stop], stop > place):
                stop += 1
            blocks.append(text_block(lines[place:stop]))
            place = stop
    return blocks


def heading_level(line: str) -> int:
    """Return how many "=" begin a heading, at most 6; 0 where the line is none, as without a space after them."""
    level = len(line) - len(line.lstrip("="))
    if not 1 <= level <= 6 or line[level : level + 1] != " ":
        return 0
    return level if line[level:].strip() else 0


def _opens_another(line: str, is_inside: bool) -> bool:
    return is_inside and (line.startswith(FENCE) or heading_level(line) > 0)


def text_block(lines: list[str]) -> Block:
    """Return a list where the first line begins with "- ", else a paragraph of one line.

    Lines of a list that do not begin so go on with the item before.
    """
    if not lines[0].startswith("- "):
        return Block("paragraph", (" ".join(line.strip() for line in lines),))
    items: list[str] = []
    for line in lines:
        if line.startswith("- "):
            items.append(line[2:].strip())
        else:
            items[-1] += " " + line.strip()
    return Block("list", tuple(items))
