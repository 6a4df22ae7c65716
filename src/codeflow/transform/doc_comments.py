"""Documentation in comments, beyond Python: which comments document, and which declarations are documented.

Two conventions cover the languages of the table (`Language.doc_marks`): where comments that document are marked
(Javadoc, JSDoc, KDoc, Scaladoc, PHPDoc, Doxygen, XML documentation, rustdoc), a marked comment is one wherever it
stands; where they are not (Go, Ruby, Shell, SQL), it is the run of comments right above a declaration, without a blank
line between. A declaration is documented when such a comment ends right above it; attributes, decorators and words like
`export` or `template <...>` may stand between.
"""

from __future__ import annotations

import re

from codeflow.core.languages import Language

# Functions without a name of their own, and blocks that hold documented things.
NOT_DECLARED = ("function_expression", "generator_function", "anonymous_function", "impl_item")
ASSIGNED = ("arrow_function",)  # declared when it is given a name
WITH_BODY = ("struct_specifier", "class_specifier")  # of C: also how a type is merely named
_GAP_BYTES = 400
_BETWEEN = re.compile(
    rb"\s*(?:(?:#!?\[[^\]]*\]|@[\w.]+(?:\([^()]*\))?|template\s*<[^<>]*>|\[[^\[\]]*\]|"
    rb"(?:export|default|declare|abstract|async|typedef|static|extern|inline|public|private|protected|local)\b)\s*)*"
)
_ASSIGNMENT = re.compile(rb"(?:export\s+)?(?:default\s+)?(?:const|let|var)\s+[\w$]+\s*(?::[^=\n]*)?=\s*(?:async\s+)?\Z")
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")


class DocComments:
    """Follows the comments and declarations of one walk, in the order of the text."""

    def __init__(self, data: bytes, language: Language) -> None:
        self._data = data
        self._marks = tuple(mark.encode() for mark in language.doc_marks)
        self._start = self._end = -1  # of the last run of comments
        self._documents = False  # whether that run does, or may
        self.n_bytes = 0  # of comments that document
        self.n_documented = 0
        self.n_declared = 0

    def comment(self, start: int, end: int) -> None:
        """Take in the next comment, bytes [start, end)."""
        while end > start and self._data[end - 1] in b"\r\n":  # some grammars put the line's end into it
            end -= 1
        marked = self._is_marked(start)
        between = self._data[self._end : start] if 0 <= start - self._end <= _GAP_BYTES else b"x"
        if self._end < 0 or between.strip() or between.count(b"\n") > 1:
            self._start, self._documents = start, False
        self._end = end
        self._documents |= marked
        if self._marks and marked:
            self.n_bytes += end - start

    def _is_marked(self, start: int) -> bool:
        head = self._data[start : start + 4]
        if not self._marks:
            return not head.startswith(b"#!")
        mark = next((mark for mark in self._marks if head.startswith(mark)), b"")
        following = head[len(mark) : len(mark) + 1]
        no_doc = {b"/**": b"*/", b"///": b"/"}.get(mark, b"")  # `/**/`, and the banners `/****` and `////`
        return bool(mark) and (not following or following not in no_doc)

    def declaration(self, start: int, counts: bool = True) -> None:
        """Take in the next declaration; one that does not count may still be what a comment documents."""
        self.n_declared += counts
        if not self._documents or not 0 <= start - self._end <= _GAP_BYTES:
            return
        gap = self._data[self._end : start]
        fits = _BETWEEN.fullmatch(gap) or _ASSIGNMENT.fullmatch(gap.lstrip())
        if not fits or (not self._marks and _BLANK_LINE.search(gap)):
            return
        self.n_documented += counts
        if not self._marks:
            self.n_bytes += self._end - self._start
        self._documents = False  # a comment documents one declaration

    def is_assigned(self, start: int) -> bool:
        """Say whether the function that starts here is given a name: `const f = (x) => x`."""
        line = self._data[max(0, start - _GAP_BYTES) : start]
        return _ASSIGNMENT.search(line[line.rfind(b"\n") + 1 :]) is not None
