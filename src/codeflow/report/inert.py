"""Texts that nobody trusts, made harmless to look at on a page.

Markup is escaped. Characters that a reader would not see, or that move others about (controls and terminal escapes,
marks that turn the direction of writing, zero-width and tag characters, lone surrogates), are spelt out by number.
"""

from __future__ import annotations

import re

from markupsafe import Markup, escape

_ODD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def inert(text: str) -> Markup:
    """Return `text` as HTML: escaped, odd characters as `<i>U+202E</i>`."""
    return Markup(_ODD.sub(lambda found: f"<i>{_number(found)}</i>", str(escape(text))))


def plain(text: str, limit: int = 160) -> str:
    """Return a name as one short line of text, odd characters as `⟨U+202E⟩`. It has yet to be escaped."""
    line = " ".join(text[: limit + 1].split(" "))
    line = _ODD.sub(lambda found: f"⟨{_number(found)}⟩", re.sub(r"[\n\t]", " ", line[:limit]))
    return line + ("…" if len(text) > limit else "")


def _number(found: re.Match[str]) -> str:
    return f"U+{ord(found[0]):04X}"
