"""Two texts beside each other: a line difference with its words marked, and the words that two passages share.

Both sides are bounded (`MAX_LINES`, `MAX_WORDS`), since matching takes time quadratic in them; what is cut is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from markupsafe import Markup

from codeflow.report.inert import inert

MAX_LINES, MAX_WORDS = 240, 300
_CONTEXT_LINES = 2
_LINE_CHARACTERS = 400
_LINE_TOKENS = 160  # words are marked in lines of at most so many
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Row:
    """One line of each side; a number is 0 where a side has none. `kind`: equal, changed, left, right or gap."""

    kind: str
    left: int
    left_text: Markup
    right: int
    right_text: Markup


def difference(left: str, right: str) -> list[Row]:
    """Return the rows of two texts side by side; long equal stretches become a gap."""
    ours, theirs = left.splitlines()[:MAX_LINES], right.splitlines()[:MAX_LINES]
    rows: list[Row] = []
    for operation, a, b, c, d in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if operation == "equal":
            rows += _equal(ours, a, b, c, first=not rows, last=b == len(ours) and d == len(theirs))
        else:
            rows += _unequal(ours, a, b, theirs, c, d)
    return rows


def _equal(ours: list[str], a: int, b: int, c: int, first: bool, last: bool) -> Iterator[Row]:
    head, tail = (0 if first else _CONTEXT_LINES), (0 if last else _CONTEXT_LINES)
    hidden = b - a - head - tail
    for at in range(b - a):
        if hidden > 1 and head <= at < b - a - tail:
            if at == head:
                yield Row("gap", 0, Markup(f"{hidden} equal lines"), 0, Markup())
            continue
        text = inert(_cut(ours[a + at]))
        yield Row("equal", a + at + 1, text, c + at + 1, text)


def _unequal(ours: list[str], a: int, b: int, theirs: list[str], c: int, d: int) -> Iterator[Row]:
    paired = min(b - a, d - c)
    for at in range(paired):
        left, right = mark_words(_cut(ours[a + at]), _cut(theirs[c + at]))
        yield Row("changed", a + at + 1, left, c + at + 1, right)
    for at in range(a + paired, b):
        yield Row("left", at + 1, inert(_cut(ours[at])), 0, Markup())
    for at in range(c + paired, d):
        yield Row("right", 0, Markup(), at + 1, inert(_cut(theirs[at])))


def _cut(line: str) -> str:
    return line if len(line) <= _LINE_CHARACTERS else line[:_LINE_CHARACTERS] + "…"


def mark_words(left: str, right: str) -> tuple[Markup, Markup]:
    """Return two lines with what differs in `<b>`; unmarked where they have little in common."""
    ours, theirs = _TOKEN.findall(left), _TOKEN.findall(right)
    matcher = SequenceMatcher(None, ours, theirs, autojunk=False)
    if max(len(ours), len(theirs)) > _LINE_TOKENS or matcher.ratio() < 0.4:
        return inert(left), inert(right)
    sides = ([], [])
    for operation, a, b, c, d in matcher.get_opcodes():
        for parts, tokens in zip(sides, (ours[a:b], theirs[c:d]), strict=True):
            text = inert("".join(tokens))
            parts.append(text if operation == "equal" or not text else Markup("<b>") + text + Markup("</b>"))
    return Markup().join(sides[0]), Markup().join(sides[1])


def shared_words(left: str, right: str) -> tuple[Markup, Markup]:
    """Return two passages with the words that both have, in order and regardless of case, in `<mark>`."""
    ours, theirs = _words(left), _words(right)
    matcher = SequenceMatcher(None, [w.lower() for w, _, _ in ours], [w.lower() for w, _, _ in theirs], autojunk=False)
    blocks = [block for block in matcher.get_matching_blocks() if block.size]
    left_spans = [(ours[m.a][1], ours[m.a + m.size - 1][2]) for m in blocks]
    right_spans = [(theirs[m.b][1], theirs[m.b + m.size - 1][2]) for m in blocks]
    return _marked(left, left_spans), _marked(right, right_spans)


def _words(text: str) -> list[tuple[str, int, int]]:
    words = []
    for found in _WORD.finditer(text):
        if len(words) == MAX_WORDS:
            break
        words.append((found[0], found.start(), found.end()))
    return words


def _marked(text: str, spans: list[tuple[int, int]]) -> Markup:
    parts, at = [], 0
    for start, end in spans:
        parts += [inert(text[at:start]), Markup("<mark>") + inert(text[start:end]) + Markup("</mark>")]
        at = end
    return Markup().join([*parts, inert(text[at:])])
