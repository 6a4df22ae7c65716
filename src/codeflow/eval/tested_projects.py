"""Small tested projects, written for this one, and the holes that are cut into their functions.

Each folder of `projects/` is a project: a package and its tests. Of every function of the package one middle is taken
out at each level: its whole body behind the docstring, and one of its blocks, statements and expressions, drawn by the
function's name. Python's own parser finds them, so the holes change with the projects alone.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from codeflow.solve.hidden_tests import HiddenTests
from codeflow.transform.fim import generator
from codeflow.transform.imports import ImportGraph

LEVELS = ("function", "block", "statement", "expression")
_FOLDER = Path(__file__).with_name("projects")
_SHORTEST_EXPRESSION = 8  # characters
_EXPRESSIONS = (
    *(ast.Call, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Subscript, ast.Tuple, ast.UnaryOp),
    *(ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp),
)
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Project:
    """A package and its tests, as (path, text)."""

    name: str
    sources: tuple[tuple[str, str], ...]
    tests: tuple[tuple[str, str], ...]

    @property
    def suite(self) -> HiddenTests:
        """The tests as a verifier takes them."""
        trees = [ast.parse(text) for _, text in self.tests]
        names = [node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        return HiddenTests("unittest", dict(self.tests), sum(name.startswith("test_") for name in names), {})

    def context_of(self, path: str) -> tuple[tuple[str, str], ...]:
        """Return the other sources: what `path` imports, what that imports, then the rest."""
        texts = dict(self.sources)
        graph = ImportGraph(texts)
        needs = {source: graph.dependencies(source, text, "Python") for source, text in self.sources}
        order = dict.fromkeys([*needs[path], *(far for near in needs[path] for far in needs[near]), *texts])
        return tuple((other, texts[other]) for other in order if other != path)


@dataclass(frozen=True, slots=True)
class Cut:
    """A middle of a function, as character offsets into the text of its file; `definition` is the whole function."""

    path: str
    function: str  # with its class, as in "Network.add"
    level: str
    middle: Span
    definition: Span


@functools.cache
def projects() -> tuple[Project, ...]:
    """Return the projects, in order of their names."""
    return tuple(_read(folder) for folder in sorted(_FOLDER.iterdir()) if folder.is_dir())


def _read(folder: Path) -> Project:
    files = {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))}
    tests = tuple((path, text) for path, text in files.items() if path.startswith("tests/"))
    sources = tuple((path, text) for path, text in files.items() if not path.startswith("tests/"))
    return Project(folder.name, sources, tests)


def cuts(project: Project) -> Iterator[Cut]:
    """Yield the holes of a project, in order of path, function and level."""
    for path, text in project.sources:
        starts = _line_starts(text)
        for name, function in _functions(ast.parse(text).body):
            definition = _span(starts, function, function)
            for level in LEVELS:
                spans = [_span(starts, first, last) for first, last in _nodes(function, level)]
                if level == "expression":
                    spans = [span for span in spans if span[1] - span[0] >= _SHORTEST_EXPRESSION]
                if spans:
                    middle = generator(0, project.name, path, name, level).choice(spans)
                    yield Cut(path, name, level, middle, definition)


def _line_starts(text: str) -> list[int]:
    assert text.isascii(), "offsets of the syntax tree are bytes; write the sources of a project in ASCII"
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


def _span(starts: list[int], first: ast.stmt | ast.expr, last: ast.stmt | ast.expr) -> Span:
    assert last.end_lineno is not None
    assert last.end_col_offset is not None
    return starts[first.lineno - 1] + first.col_offset, starts[last.end_lineno - 1] + last.end_col_offset


def _functions(body: list[ast.stmt], place: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("__"):
            yield place + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{place}{node.name}.")


def _body(function: ast.FunctionDef) -> list[ast.stmt]:
    return function.body[1:] if ast.get_docstring(function) else function.body


def _nodes(function: ast.FunctionDef, level: str) -> list[tuple[ast.stmt, ast.stmt] | tuple[ast.expr, ast.expr]]:
    """Return the first and last node of each place for a middle."""
    body = _body(function)
    if level == "function":
        return [(body[0], body[-1])]
    inside = [node for statement in body for node in _walk(statement)]
    if level == "expression":
        return [(node, node) for node in inside if isinstance(node, _EXPRESSIONS) and not _is_target(node)]
    if level == "block":
        lists = [getattr(node, field, None) for node in inside for field in ("body", "orelse")]
        return [(found[0], found[-1]) for found in lists if isinstance(found, list) and found]
    return [(node, node) for node in inside if isinstance(node, ast.stmt) and len(body) > 1]


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and what is inside it, annotations and f-strings aside: Python 3.11 misplaces what is in those."""
    yield node
    for field, value in ast.iter_fields(node):
        if field == "annotation" or isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(child)


def _is_target(node: ast.expr) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Store)
