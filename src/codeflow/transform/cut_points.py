"""Where a long code document is best cut: before its definitions and its top-level statements (Code-Flow §3: packing).

Points are at line starts, in characters. A comment or decorator right above a definition stays with it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from codeflow.core.languages import BY_NAME
from codeflow.core.types import Document
from codeflow.transform.fim import parser_of, query_of


def cut_points(document: Document) -> tuple[int, ...]:
    """Return the points, rising, without 0; none for a language without a grammar."""
    language = BY_NAME.get(document.language)
    if language is None or not language.grammar:
        return ()
    from tree_sitter import QueryCursor

    data = document.text.encode("utf-8", "surrogatepass")
    root = parser_of(language.grammar).parse(data).root_node
    query = query_of(language.grammar, (*language.functions, *language.classes))
    definitions = QueryCursor(query).captures(root).get("node", []) if query else []
    comments = frozenset(language.comments)
    starts = {_first_byte(node, comments) for node in (*root.named_children, *definitions) if node.type not in comments}
    lines = sorted({data.rfind(b"\n", 0, start) + 1 for start in starts if _has_line(data, start)} - {0})
    if len(data) == len(document.text):
        return tuple(lines)
    points: list[int] = []
    for left, right in pairwise([0, *lines]):
        points.append((points[-1] if points else 0) + len(data[left:right].decode("utf-8", "surrogatepass")))
    return tuple(points)


def _first_byte(node: Any, comments: frozenset[str]) -> int:
    """Return where a node starts with the wrapper that decorates or exports it and the comments right above."""
    while node.parent is not None and node.parent.type in ("decorated_definition", "export_statement"):
        node = node.parent
    start, row = node.start_byte, node.start_point[0]
    before = node.prev_named_sibling
    while before is not None and before.type in comments and row - before.end_point[0] <= 1:
        start, row = before.start_byte, before.start_point[0]
        before = before.prev_named_sibling
    return start


def _has_line(data: bytes, start: int) -> bool:
    """Say whether nothing but white space stands before `start` on its line."""
    return not data[data.rfind(b"\n", 0, start) + 1 : start].strip()
