"""Documents to HTML."""

from __future__ import annotations

from collections.abc import Sequence

from .blocks import Block, parse_blocks
from .inline import escape, render
from .outline import names, numbers


def to_html(text: str) -> str:
    """Return the HTML of a document, a line for each block."""
    blocks = parse_blocks(text)
    waiting = iter(names(blocks))
    return "\n".join(block_html(block, next(waiting) if block.kind == "heading" else "") for block in blocks)


def block_html(block: Block, name: str) -> str:
    """Return the HTML of a block; `name` is a heading's."""
    if block.kind == "heading":
        return f'<h{block.level} id="{name}">{render(block.lines[0])}</h{block.level}>'
    if block.kind == "code":
        body = "".join(escape(line) + "\n" for line in block.lines)
        return f"<pre>{body}</pre>"
    if block.kind == "list":
        items = "".join(f"<li>{render(item)}</li>" for item in block.lines)
        return f"<ul>{items}</ul>"
    return f"<p>{render(block.lines[0])}</p>"


def contents(blocks: Sequence[Block], depth: int = 2) -> str:
    """Return the table of contents: a line for each heading of at most `depth` levels, its number and a link to it."""
    headings = [block for block in blocks if block.kind == "heading"]
    lines: list[str] = []
    for block, name, number in zip(headings, names(blocks), numbers(blocks), strict=True):
        if block.level <= depth:
            indent = "  " * (block.level - 1)
            lines.append(f'{indent}{number} <a href="#{name}">{render(block.lines[0])}</a>')
    return "\n".join(lines)


def word_count(text: str) -> int:
    """Return the number of words that a reader sees, code aside; a link's address is none."""
    total = 0
    for block in parse_blocks(text):
        if block.kind == "code":
            continue
        for line in block.lines:
            total += len(without_tags(render(line)).split())
    return total


def without_tags(html: str) -> str:
    """Return the text of HTML: what stands between "<" and ">" is left out."""
    parts: list[str] = []
    inside = False
    for character in html:
        if character in "<>":
            inside = character == "<"
        elif not inside:
            parts.append(character)
    return "".join(parts)
