"""Docstrings of a Python module as one document of prose.

A scan over the triple-quoted strings keeps those that open a module, class or function. It is some hundred times as
fast as a parse, which counts over hundreds of megabytes, and never compiles or imports what it reads.
Not covered: docstrings in single quotes, or behind a `def` that shares its line with other code.
"""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterator

_QUOTES = ('"""', "'''")
_OPENS_BLOCK = re.compile(r":[ \t]*(?:#.*)?\Z")
_DEFINES = re.compile(r"^[ \t]*(?:async[ \t]+def|def|class)\b", re.M)
_ONLY_COMMENTS = re.compile(r"\ufeff?(?:[ \t]*(?:#[^\n]*)?\r?\n)*\Z")
_LOOK_BACK_CHARACTERS = 2000  # the longest signature that is recognised
_RST = re.compile(r"^\s*:(?:param|returns?|raises?|type|rtype)\b|^\s*\.\. \w+|``|::\s*$|^\s*>>> ", re.M)


def triple_quoted(source: str) -> Iterator[tuple[int, int, int]]:
    """Yield (start of the opening quotes, start of the content, end of the content) of each triple-quoted string."""
    at = 0
    following = {quote: source.find(quote) for quote in _QUOTES}
    while True:
        for quote, place in following.items():
            if -1 < place < at:
                following[quote] = source.find(quote, at)
        found = [(place, quote) for quote, place in following.items() if place >= at]
        if not found:
            return
        start, quote = min(found)
        if _is_quoted(source, start, quote):
            at = start + 3
            continue
        end = source.find(quote, start + 3)
        while end > 0 and _is_escaped(source, end):
            end = source.find(quote, end + 1)
        if end < 0:
            return
        yield start, start + 3, end
        at = end + 3


def _is_quoted(source: str, start: int, quote: str) -> bool:
    """Say whether the triple quotes at `start` stand inside an ordinary string or a comment."""
    other = "'" if quote == '"""' else '"'
    if source[start - 1 : start] == other and source[start + 3 : start + 4] == other:
        return True
    return source.count(other, source.rfind("\n", 0, start) + 1, start) % 2 == 1


def _is_escaped(source: str, at: int) -> bool:
    n = 0
    while source[at - 1 - n] == "\\":
        n += 1
    return n % 2 == 1


def docstrings(source: str) -> list[str]:
    """Return the docstrings of a module in order, without their indentation."""
    found = []
    for start, content, end in triple_quoted(source):
        line = source.rfind("\n", 0, start) + 1
        prefix = source[line:start].strip()
        if prefix not in ("", "r", "R", "u", "U") or not _opens(source, line):
            continue
        body = source[content:end]
        found.append(inspect.cleandoc(body if prefix in ("r", "R") else _unescape(body)).strip())
    return [text for text in found if text]


def _opens(source: str, line: int) -> bool:
    """Say whether the line starting at `line` is the first of a module, class or function."""
    before = source[max(0, line - _LOOK_BACK_CHARACTERS) : line]
    if _OPENS_BLOCK.search(before.rstrip().rpartition("\n")[2]):
        return bool(_DEFINES.search(before))
    return line <= _LOOK_BACK_CHARACTERS and bool(_ONLY_COMMENTS.match(before))


def _unescape(body: str) -> str:
    if "\\" not in body:
        return body
    quote = '"""' if '"""' not in body and not body.endswith('"') else "'''"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return str(ast.literal_eval(quote + body + quote))
    except (SyntaxError, ValueError):
        return body


def docstring_document(source: str, min_characters: int) -> tuple[str, str] | None:
    """Return (text, language) of a module's docstrings together, or None where they are shorter than the minimum.

    The language is "reStructuredText" where its markup is seen, else "Text".
    """
    text = "\n\n\n".join(docstrings(source))
    if len(text) < min_characters:
        return None
    text = text.encode("utf-8", "replace").decode("utf-8") + "\n"  # "\ud800" in an escape is no text
    return text, "reStructuredText" if _RST.search(text) else "Text"
