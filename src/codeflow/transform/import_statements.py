"""What a file's text asks for, by language: the import, include and use statements, before anything is resolved.

Python is read from its syntax tree; the others by patterns at the start of a line. A pattern can be fooled by a comment
or a string; what it then finds hardly ever names a file of the repository, and `imports` keeps only what does.

Not covered: imports made at run time with computed names.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from codeflow.transform.fim import parser_of

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*["<]([^">\r\n]+)[">]', re.MULTILINE)
_JAVASCRIPT = re.compile(
    r"""(?:\bfrom|^[ \t]*import|\b(?:require|import)[ \t]*\()\s*(["'])([^"'\r\n]+)\1""", re.MULTILINE
)
_JAVA = re.compile(r"^[ \t]*import[ \t]+(?:static[ \t]+)?([\w.]+(?:\.\*)?)[ \t]*;", re.MULTILINE)
_GO = re.compile(r"^import[ \t]+(?:\(([^)]*)\)|([^\r\n]*))", re.MULTILINE)
_GO_PATH = re.compile(r'"([^"\s]+)"')
_RUST_USE = re.compile(r"^[ \t]*(?:pub(?:\([^)]*\))?[ \t]+)?use[ \t]+([^;]+);", re.MULTILINE)
_RUST_MODULE = re.compile(r"^[ \t]*(?:pub(?:\([^)]*\))?[ \t]+)?mod[ \t]+(\w+)[ \t]*;", re.MULTILINE)


def includes(text: str) -> list[str]:
    """Return what a C, C++ or Cuda text includes, quoted or in angle brackets."""
    return _INCLUDE.findall(text)


def javascript_imports(text: str) -> list[str]:
    """Return the specifiers of import, export from, require and dynamic import with a literal."""
    return [specifier for _, specifier in _JAVASCRIPT.findall(text)]


def java_imports(text: str) -> list[str]:
    """Return qualified names, "a.b.C", "a.b.C.member" or "a.b.*"."""
    return _JAVA.findall(text)


def go_imports(text: str) -> list[str]:
    """Return the import paths of a Go text."""
    return [path for block, line in _GO.findall(text) for path in _GO_PATH.findall(block or line)]


def rust_modules(text: str) -> list[str]:
    """Return the names of modules that stand in files of their own (`mod name;`)."""
    return _RUST_MODULE.findall(text)


def rust_uses(text: str) -> list[tuple[str, ...]]:
    """Return the paths of `use` declarations, groups expanded: `a::{b, c::d as e}` gives (a, b) and (a, c, d)."""
    return [path for tree in _RUST_USE.findall(text) for path in _expanded("".join(tree.split("\n"))) if path]


def _expanded(tree: str) -> list[tuple[str, ...]]:
    head, brace, rest = tree.partition("{")
    prefix = tuple(part for part in re.split(r"\s*::\s*", head.split(" as ")[0].strip()) if part not in ("", "*"))
    if not brace:
        return [prefix]
    inner, depth, start, branches = rest.rpartition("}")[0], 0, 0, list[str]()
    for place, letter in enumerate(inner):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            branches.append(inner[start:place])
            start = place + 1
    branches.append(inner[start:])
    found = [prefix + branch for text in branches if text.strip() for branch in _expanded(text)]
    return [path[:-1] if len(path) > 1 and path[-1] == "self" else path for path in found]


def python_imports(text: str) -> list[tuple[int, str, tuple[str, ...]]]:
    """Return (dots, module, names) of every import statement, in the order of the text.

    `import a.b` gives (0, "a.b", ()), `from ..c import d as e` gives (2, "c", ("d",)), a star import no names. Text
    that does not parse gives the statements that can be made out.
    """
    from tree_sitter import QueryCursor

    if "import" not in text:
        return []
    root = parser_of("python").parse(text.encode("utf-8", "surrogatepass")).root_node
    nodes = QueryCursor(_query()).captures(root).get("import", [])
    found: list[tuple[int, str, tuple[str, ...]]] = []
    for node in sorted(nodes, key=lambda node: node.start_byte):
        names = tuple(name for child in node.children_by_field_name("name") if (name := _name(child)))
        if node.type == "import_statement":
            found += [(0, name, ()) for name in names]
            continue
        module = node.child_by_field_name("module_name")
        if module is None:
            continue
        dotted = (module.text or b"").decode("utf-8", "replace").replace(" ", "")
        bare = dotted.lstrip(".")
        if bare or dotted:
            found.append((len(dotted) - len(bare), bare, names))
    return found


def _name(node: Any) -> str:
    inner = node.child_by_field_name("name") if node.type == "aliased_import" else node
    return (inner.text or b"").decode("utf-8", "replace").replace(" ", "") if inner is not None else ""


@functools.cache
def _query() -> Any:
    from tree_sitter import Query
    from tree_sitter_language_pack import get_language

    return Query(get_language("python"), "[(import_statement) (import_from_statement)] @import")
