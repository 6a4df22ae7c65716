"""Which files of a repository a file depends on: Python imports and C-family includes, resolved inside the repository.

Only paths and texts are looked at, nothing is imported or run. What does not resolve to a file of the given set (the
standard library, other packages, dropped files) is no dependency.

Not covered: imports made at run time, `sys.path` changes, the module systems of other languages.
"""

from __future__ import annotations

import functools
import posixpath
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from codeflow.transform.fim import parser_of

_C_FAMILY = ("C", "C++", "Cuda")
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">\r\n]+)[">]', re.MULTILINE)
_SOURCE_FOLDERS = ("", "src", "lib", "python")  # where packages lie, relative to a repository's root


class ImportGraph:
    """The files of one repository, and what each of them depends on."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = sorted(set(paths))
        self._known = frozenset(self.paths)
        self._modules = {module: path for path in reversed(self.paths) if (module := _module_parts(path))}
        self._by_name: dict[str, list[str]] = {}
        for path in self.paths:
            self._by_name.setdefault(posixpath.basename(path), []).append(path)

    def dependencies(self, path: str, text: str, language: str) -> tuple[str, ...]:
        """Return the paths that the file at `path` depends on directly, in the order of its text, without itself."""
        if language == "Python":
            found = [target for statement in python_imports(text) for target in self._resolve(path, *statement)]
        elif language in _C_FAMILY:
            found = [target for match in _INCLUDE.finditer(text) for target in self._include(path, match[2])]
        else:
            found = []
        return tuple(target for target in dict.fromkeys(found) if target != path)

    def _resolve(self, importer: str, level: int, module: str, names: Sequence[str]) -> list[str]:
        """Resolve `from <level dots><module> import <names>`; `names` is empty for `import module`."""
        parts: tuple[str, ...] = tuple(module.split(".")) if module else ()
        if level:
            folder = posixpath.dirname(importer).split("/") if "/" in importer else []
            if level - 1 > len(folder):
                return []
            roots = [tuple(folder[: len(folder) - (level - 1)])]
        else:
            roots = self._roots(importer, module.partition(".")[0])
        for root in roots:
            found = [path for name in names if (path := self._modules.get((*root, *parts, name)))]
            whole = self._modules.get((*root, *parts))
            if whole and len(found) < max(len(names), 1):  # some of the names are defined in the module itself
                found.append(whole)
            if found:
                return found
        return []

    def _roots(self, importer: str, first: str) -> list[tuple[str, ...]]:
        """Return the folders that an absolute import may start from: source folders, then those of scripts."""
        roots = [tuple(folder.split("/")) if folder else () for folder in _SOURCE_FOLDERS]
        if first not in sys.stdlib_module_names:  # else a sibling `json.py` would pass for the library's
            folders = tuple(importer.split("/")[:-1])
            roots += [folders[:n] for n in range(1, len(folders) + 1)]
        return list(dict.fromkeys(roots))

    def _include(self, importer: str, target: str) -> list[str]:
        beside = posixpath.normpath(posixpath.join(posixpath.dirname(importer), target))
        if beside in self._known:
            return [beside]
        ending = "/" + target
        named = self._by_name.get(posixpath.basename(target), [])
        found = [path for path in named if path == target or path.endswith(ending)]
        return found if len(found) == 1 else []  # several files of that name: the build system would know


def _module_parts(path: str) -> tuple[str, ...]:
    stem, extension = posixpath.splitext(path)
    if extension not in (".py", ".pyi"):
        return ()
    parts = tuple(stem.split("/"))
    return parts[:-1] if parts[-1] == "__init__" else parts


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


def in_dependency_order(paths: Sequence[str], dependencies: dict[str, tuple[str, ...]]) -> list[str]:
    """Return `paths` so that each follows those of them that it depends on; otherwise their order is kept.

    In a cycle the file that comes first in `paths` is reached first, and the import that closes the cycle is ignored.
    """
    wanted, placed, open_now = set(paths), [], set[str]()
    done: set[str] = set()
    for start in paths:
        stack = [(start, iter(dependencies.get(start, ())))] if start not in done else []
        open_now.update(path for path, _ in stack)
        while stack:
            path, rest = stack[-1]
            below = next((p for p in rest if p in wanted and p not in done and p not in open_now), None)
            if below is None:
                stack.pop()
                done.add(path)
                placed.append(path)
            else:
                open_now.add(below)
                stack.append((below, iter(dependencies.get(below, ()))))
    return placed
