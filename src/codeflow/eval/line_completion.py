"""How CrossCodeEval judges a completed line: exact match, edit similarity, identifiers; comments do not count.

The official rule (amazon-science/cceval, Apache-2.0), quirks included: comments are removed textually, so a `//` or `#`
inside a string ends its line; of the completion one statement is kept: up to the first `;`, `{` or `}` (unless that is
its first character), in Python up to the first line's end at which prompt and completion parse.
"""

from __future__ import annotations

import functools
import keyword
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rapidfuzz.distance import Indel

if TYPE_CHECKING:
    import tree_sitter

LANGUAGES = ("python", "java", "typescript", "csharp")
_STATEMENT_END = re.compile(r"[;{}]")
_COMMENT = re.compile(r"(#|//).*")
_STRING = re.compile(r'"([^"\\]*(\\.[^"\\]*)*)"|' r"'([^'\\]*(\\.[^'\\]*)*)'")
_NAME = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*")

# What is no identifier, as the official word lists have it: no `true`, `false` or `null`, except C#'s `null`.
_JAVA = """abstract assert boolean break byte case catch char class const continue default do double else enum extends
final finally float for goto if implements import instanceof int interface long native new package private protected
public return short static strictfp super switch synchronized this throw throws transient try var void volatile while"""
_TYPESCRIPT = """break case catch class const continue debugger default delete do else enum export extends finally for
function if implements import in instanceof interface let new package private protected public return static super
switch this throw try typeof var void while with yield"""
_CSHARP = """abstract as base bool break byte case catch char checked class const continue decimal default delegate do
double else enum event explicit extern finally fixed float for foreach goto if implicit in int interface internal is
lock long namespace new null object operator out override params private protected public readonly ref return sbyte
sealed short sizeof stackalloc static string struct switch this throw try typeof uint ulong unchecked unsafe ushort
using virtual void volatile while"""
_KEYWORDS = {
    "python": frozenset(keyword.kwlist) - {"True", "False"},
    "java": frozenset(_JAVA.split()),
    "typescript": frozenset(_TYPESCRIPT.split()),
    "csharp": frozenset(_CSHARP.split()),
}


@dataclass(frozen=True, slots=True)
class LineMatch:
    """How near a completion came. Similarities are 0..1."""

    completion: str  # the statement that was judged, without comments
    exact: bool
    edit_similarity: float
    identifiers_exact: bool
    identifiers_f1: float


def compare_line(language: str, prompt: str, completion: str, truth: str) -> LineMatch:
    """Judge a completion of `prompt` in one of LANGUAGES against the true line."""
    kept = without_comments(statement(language, prompt, completion))
    target = without_comments(truth)
    names, wanted = identifiers(kept, language), identifiers(target, language)
    shared, total = len(set(names) & set(wanted)), len(set(names)) + len(set(wanted))
    return LineMatch(
        completion=kept,
        exact=_lines(kept) == _lines(target),
        edit_similarity=similarity_percent(kept.strip(), target.strip()) / 100,
        identifiers_exact=names == wanted,
        identifiers_f1=2 * shared / total if total else 0.0,
    )


def statement(language: str, prompt: str, completion: str) -> str:
    """Return the first statement of a completion, or all of it where no end is found."""
    if language != "python":
        end = _STATEMENT_END.search(completion)
        return completion[: end.end()] if end and end.start() else completion
    parser = _python_parser()
    for place in (found.start() for found in re.finditer("\n", completion)):
        # Asked of every prefix, as officially, the first that parses need not end a line; those do not count.
        if place and _parses(parser, prompt + completion[:place]):
            return completion[:place].rstrip()
    return completion


def without_comments(code: str) -> str:
    """Remove `#` and `//` with what follows on their line."""
    return _COMMENT.sub("", code)


def similarity_percent(left: str, right: str) -> int:
    """Return fuzzywuzzy's ratio: 1 - insertions and deletions / both lengths, in whole percents."""
    if left == right:
        return 100
    return round(100 * Indel.normalized_similarity(left, right)) if left and right else 0


def identifiers(code: str, language: str) -> list[str]:
    """Return the identifiers of `code` outside strings, in order, keywords left out."""
    words = re.findall(r"\w+", _STRING.sub("", code))
    return [word for word in words if _NAME.match(word) and word not in _KEYWORDS[language]]


def _lines(code: str) -> list[str]:
    return [line.strip() for line in code.split("\n") if line.strip()]


@functools.cache
def _python_parser() -> tree_sitter.Parser:
    import tree_sitter
    from tree_sitter_language_pack import get_language

    return tree_sitter.Parser(get_language("python"))


def _parses(parser: tree_sitter.Parser, code: str) -> bool:
    """Say whether no node is an error; what the parser made up as missing does not count."""
    waiting = [parser.parse(code.encode("utf-8", "replace")).root_node]
    while waiting:
        node = waiting.pop()
        if node.type == "ERROR":
            return False
        if node.has_error:
            waiting += node.children
    return True
