"""Markup inside a paragraph: *strong*, _emphasis_, `code` and [text](address)."""

from __future__ import annotations

import re

_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
_TAGS = {"*": "strong", "_": "em"}
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]*)\)")


def escape(text: str) -> str:
    """Return the text with the characters that mean something in HTML written out."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def is_safe(address: str) -> bool:
    """Say whether a link may lead there: to a page, a place or a mailbox, never to a script."""
    scheme, colon, _ = address.partition(":")
    if not colon or not scheme.isalnum():
        return True
    return scheme.lower() in ("http", "https", "mailto")


def render(text: str) -> str:
    """Return the HTML of a paragraph's text; a mark without its partner stands for itself, a backslash hides one."""
    parts: list[str] = []
    place = 0
    while place < len(text):
        character = text[place]
        link = _LINK.match(text, place)
        if character == "\\" and place + 1 < len(text):
            parts.append(escape(text[place + 1]))
            place += 2
        elif link and is_safe(link.group(2)):
            parts.append(f'<a href="{escape(link.group(2))}">{render(link.group(1))}</a>')
            place = link.end()
        elif character in _TAGS or character == "`":
            stop = closing(text, place)
            if stop is None:
                parts.append(character)
                place += 1
                continue
            inner = text[place + 1 : stop]
            tag = _TAGS.get(character, "code")
            parts.append(f"<{tag}>{escape(inner) if character == '`' else render(inner)}</{tag}>")
            place = stop + 1
        else:
            parts.append(escape(character))
            place += 1
    return "".join(parts)


def closing(text: str, place: int) -> int | None:
    """Return where the mark at `place` is closed: by the next one that is not hidden, with something between them."""
    mark = text[place]
    stop = place + 1
    while stop < len(text):
        if text[stop] == "\\":
            stop += 2
            continue
        if text[stop] == mark:
            return stop if stop > place + 1 else None
        stop += 1
    return None
