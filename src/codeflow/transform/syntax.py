"""What the syntax tree of a document says: one parse, one walk, a handful of numbers.

Every language with a grammar in `core/languages.py` is parsed by tree-sitter; Python also by `ast`, whose verdict is
the interpreter's own. "Deep AST analysis" (Code-Flow §2) starts here: these tags feed filters, quality and curricula.

The walk is one `TreeCursor` in pre-order that reads node kinds as integers (about 20 MB/s, a third of the parse);
only the few nodes of interest are looked at as objects. It is iterative, so that no nesting can overflow a stack.
"""

from __future__ import annotations

import ast
import functools
import gc
import warnings
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from codeflow.core.languages import BY_NAME, Language
from codeflow.core.types import Document
from codeflow.transform import doc_comments
from codeflow.transform.operator import Drop, Operator, with_tags

if TYPE_CHECKING:
    import tree_sitter

_ERROR_KIND = 65535
_FUNCTION, _CLASS, _COMMENT, _ERROR, _DOCUMENTED = 1, 2, 3, 4, 5
_MAX_AST_BYTES = 4_000_000


@dataclass(frozen=True)
class Grammar:
    """A loaded grammar with the node kinds that the walk looks at: kind number -> what it is."""

    parser: tree_sitter.Parser
    interesting: dict[int, int]
    n_kinds: int
    docstrings: bool  # Python: the first statement of a body, when it is a string
    language: Language
    not_declared: frozenset[int]  # kinds among functions and classes that nobody documents
    assigned: frozenset[int]  # kinds that are declared when they are given a name
    with_body: frozenset[int]  # kinds that are declared when they have a body


@functools.cache
def grammar_of(language: str) -> Grammar | None:
    """Return the grammar of a language by its name in `core/languages.py`, or None where there is none."""
    import tree_sitter
    from tree_sitter_language_pack import get_language

    entry = BY_NAME.get(language)
    if entry is None or not entry.grammar:
        return None
    grammar = get_language(entry.grammar)  # type: ignore[arg-type]
    interesting = {_ERROR_KIND: _ERROR}
    for names, what in ((entry.functions, _FUNCTION), (entry.classes, _CLASS), (entry.comments, _COMMENT)):
        for name in names:
            interesting[named_kind(grammar, name)] = what
    for name in entry.documented:
        interesting[named_kind(grammar, name)] = _DOCUMENTED
    special = [
        frozenset(kind for name in names if (kind := grammar.id_for_node_kind(name, True)))
        for names in (doc_comments.NOT_DECLARED, doc_comments.ASSIGNED, doc_comments.WITH_BODY)
    ]
    parser, is_python = tree_sitter.Parser(grammar), language == "Python"
    return Grammar(parser, interesting, grammar.node_kind_count, is_python, entry, *special)


def named_kind(grammar: Any, name: str) -> int:
    """Return the number of a named node kind (not of a keyword of the same spelling). Raises KeyError without one."""
    kind = grammar.id_for_node_kind(name, True)
    if not kind:
        raise KeyError(f"the grammar has no node kind '{name}'")
    return kind


@dataclass(slots=True)
class Walk:
    """What one walk over a tree gathers. Byte counts are of the UTF-8 text."""

    n_nodes: int = 0
    max_depth: int = 0
    n_functions: int = 0
    n_classes: int = 0
    n_documented: int = 0  # functions and classes with a docstring, or a comment that documents them
    n_declared: int = 0  # functions and classes that could have one
    comment_bytes: int = 0
    docstring_bytes: int = 0  # beyond Python of comments that document, which are comments too
    error_bytes: int = 0
    function_lines: list[int] = field(default_factory=list)
    entropy_bits: float = 0.0  # of the distribution of node kinds


class MeasureSyntax(Operator):
    """Tag a document with the measurements of its syntax tree. Never drops; `filters` judge.

    Tags: `syntax_error_ratio` (share of bytes in erroneous or missing nodes), `syntax_max_depth`,
    `syntax_node_entropy` (bits), `comment_share` (bytes), `n_functions`, `n_classes`, `mean_function_lines`,
    `max_function_lines`, `documented_share` (of declared functions and classes: those with a docstring, beyond Python
    with a comment that documents them, see `doc_comments`); for Python `docstring_share` (bytes) and `ast_ok` (1 where
    `ast.parse` accepts), for others `doc_comment_share` (bytes; they are part of `comment_share`).
    """

    name: ClassVar[str] = "syntax"
    python_ast: bool = True

    def __call__(self, document: Document) -> Document | Drop:
        """Return the document with its syntax tags; unchanged where its language has no grammar."""
        grammar = grammar_of(document.language)
        if grammar is None:
            return document
        data = document.text.encode("utf-8", "replace")
        walk = walk_tree(grammar, data)
        n_bytes = max(1, len(data))
        tags: dict[str, float] = {
            "syntax_error_ratio": min(1.0, walk.error_bytes / n_bytes),
            "syntax_max_depth": float(walk.max_depth),
            "syntax_node_entropy": round(walk.entropy_bits, 6),
            "comment_share": walk.comment_bytes / n_bytes,
            "n_functions": float(walk.n_functions),
            "n_classes": float(walk.n_classes),
        }
        if walk.function_lines:
            tags["mean_function_lines"] = sum(walk.function_lines) / len(walk.function_lines)
            tags["max_function_lines"] = float(max(walk.function_lines))
        tags["documented_share"] = walk.n_documented / walk.n_declared if walk.n_declared else 0.0
        tags["docstring_share" if grammar.docstrings else "doc_comment_share"] = walk.docstring_bytes / n_bytes
        if grammar.docstrings and self.python_ast:
            tags["ast_ok"] = float(parses_as_python(document.text))
        return with_tags(document, tags)


def parses_as_python(text: str) -> bool:
    """Return whether `ast.parse` accepts `text`; running out of stack or memory on it counts as refusal."""
    if len(text) > _MAX_AST_BYTES:  # the tree takes about a hundred times the text
        return False
    collecting = gc.isenabled()
    gc.disable()  # a tree has no cycles, and looking for them while it grows takes a third of the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    finally:
        if collecting:
            gc.enable()
    return True


def walk_tree(grammar: Grammar, data: bytes) -> Walk:
    """Parse `data` and gather everything in one pre-order walk."""
    tree = grammar.parser.parse(data)
    walk = Walk()
    kinds = array("H")
    add, interesting = kinds.append, grammar.interesting
    comments = None if grammar.docstrings else doc_comments.DocComments(data, grammar.language)
    cursor = tree.walk()
    down, right, up = cursor.goto_first_child, cursor.goto_next_sibling, cursor.goto_parent
    depth = 0
    error_end = 0  # errors inside errors count once
    going = True
    while going:
        node = cursor.node
        kind = node.kind_id  # type: ignore[union-attr]
        add(kind)
        if kind in interesting:
            what = interesting[kind]
            if what == _ERROR:
                if node.end_byte > error_end:  # type: ignore[union-attr]
                    walk.error_bytes += node.end_byte - max(error_end, node.start_byte)  # type: ignore[union-attr]
                    error_end = node.end_byte  # type: ignore[union-attr]
            else:
                _look_at(walk, node, what, grammar, comments)
        if down():
            depth += 1
            continue
        if depth > walk.max_depth:
            walk.max_depth = depth
        while not right():
            if not up():
                going = False
                break
            depth -= 1
    if tree.root_node.has_error:
        walk.error_bytes += _count_missing(tree)
    if comments is None:
        walk.docstring_bytes += _docstring_bytes(tree.root_node)
        walk.n_declared = walk.n_functions + walk.n_classes
    else:
        walk.docstring_bytes, walk.n_documented = comments.n_bytes, comments.n_documented
        walk.n_declared = comments.n_declared
    walk.n_nodes = len(kinds)
    walk.entropy_bits = _entropy_bits(kinds, grammar.n_kinds)
    return walk


def _look_at(walk: Walk, node: Any, what: int, grammar: Grammar, comments: doc_comments.DocComments | None) -> None:
    if what == _COMMENT:
        walk.comment_bytes += node.end_byte - node.start_byte
        if comments is not None:
            comments.comment(node.start_byte, node.end_byte)
        return
    if what == _DOCUMENTED:
        if comments is not None:
            comments.declaration(node.start_byte, counts=False)
        return
    if what == _FUNCTION:
        walk.n_functions += 1
        walk.function_lines.append(node.end_point[0] - node.start_point[0] + 1)
    else:
        walk.n_classes += 1
    if comments is not None:
        _declare(comments, node, grammar)
    else:
        body = node.child_by_field_name("body")
        n_bytes = _docstring_bytes(body) if body is not None else 0
        walk.docstring_bytes += n_bytes
        walk.n_documented += n_bytes > 0


def _declare(comments: doc_comments.DocComments, node: Any, grammar: Grammar) -> None:
    kind, start = node.kind_id, node.start_byte
    if kind in grammar.not_declared or (kind in grammar.assigned and not comments.is_assigned(start)):
        return
    if kind not in grammar.with_body or node.child_by_field_name("body") is not None:
        comments.declaration(start)


def _docstring_bytes(body: Any) -> int:
    """Return the bytes of the string that opens a Python module or body; 0 where there is none."""
    for at in range(body.named_child_count):
        child = body.named_child(at)
        if child.type == "comment":
            continue
        if child.type == "expression_statement" and child.named_child_count:
            child = child.named_child(0)
        is_string = child.type in ("string", "concatenated_string")
        return child.end_byte - child.start_byte if is_string else 0
    return 0


def _count_missing(tree: Any) -> int:
    """Return the number of missing nodes (each counts as one byte); only erroneous subtrees are entered."""
    n, stack = 0, [tree.root_node]
    while stack:
        node = stack.pop()
        n += node.is_missing
        if node.has_error:
            stack.extend(node.children)
    return n


def _entropy_bits(kinds: array[int], n_kinds: int) -> float:
    import numpy as np

    counts = np.bincount(np.minimum(np.frombuffer(kinds, dtype=np.uint16), n_kinds), minlength=n_kinds + 1)
    shares = counts[counts > 0] / len(kinds)
    return float(-(shares * np.log2(shares)).sum()) + 0.0 if len(kinds) > 1 else 0.0
