"""Which files of a repository a file depends on: imports, includes and uses, resolved inside the repository.

    Python                  packages under the root, `src`, `lib`, `python`, beside the importer, relative imports
    C, C++, Cuda            beside the includer, else the only file whose path ends like the include
    JavaScript, TypeScript  relative paths, extension or not, `index` files; `@/x`, `~/x`, `x` from the root or `src`
    Java                    qualified names by the end of the path; types of the same package that the text mentions
    Go                      packages of the repository's module (told from what its files import), without tests
    Rust                    `mod` files, `crate`, `self` and `super` paths, other crates of the workspace

Only paths and texts are looked at, nothing is imported or run. What does not resolve to a file of the given set (the
standard library, other packages, dropped files) is no dependency.

Not covered: imports made at run time, `sys.path` changes, path aliases of build tools, generated code.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from codeflow.transform import import_statements as statements

_SOURCE_FOLDERS = ("", "src", "lib", "python")  # where packages lie, relative to a repository's root
_SCRIPT_ENDINGS = (".ts", ".tsx", ".d.ts", ".mts", ".cts", ".js", ".jsx", ".mjs", ".cjs")
_WORD = re.compile(r"[A-Z]\w*")  # of type names
_CRATE_ROOTS = ("lib.rs", "main.rs")


class ImportGraph:
    """The files of one repository, and what each of them depends on."""

    def __init__(self, paths: Iterable[str], go_texts: Iterable[str] = ()) -> None:
        """Index `paths`; `go_texts` are the texts of the Go files among them, which tell the module's path."""
        self.paths = sorted(set(paths))
        self._known = frozenset(self.paths)
        self._modules = {module: path for path in reversed(self.paths) if (module := _module_parts(path))}
        self._by_name: dict[str, list[str]] = {}
        self._by_folder: dict[str, list[str]] = {}
        for path in self.paths:
            self._by_name.setdefault(posixpath.basename(path), []).append(path)
            self._by_folder.setdefault(posixpath.dirname(path), []).append(path)
        self._go_module = self._module_of(go_texts)
        self._of: dict[str, Callable[[str, str], Iterable[str]]] = {
            "Python": self._python,
            **dict.fromkeys(("C", "C++", "Cuda"), self._included),
            **dict.fromkeys(("JavaScript", "TypeScript", "TSX"), self._javascript),
            "Java": self._java,
            "Go": self._go,
            "Rust": self._rust,
        }

    def dependencies(self, path: str, text: str, language: str) -> tuple[str, ...]:
        """Return the paths that the file at `path` depends on directly, in the order of its text, without itself."""
        resolve = self._of.get(language)
        found = resolve(path, text) if resolve else ()
        return tuple(target for target in dict.fromkeys(found) if target != path)

    def _python(self, path: str, text: str) -> Iterator[str]:
        for level, module, names in statements.python_imports(text):
            yield from self._resolve(path, level, module, names)

    def _included(self, path: str, text: str) -> Iterator[str]:
        for target in statements.includes(text):
            yield from self._include(path, target)

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

    def _javascript(self, path: str, text: str) -> Iterator[str]:
        for specifier in statements.javascript_imports(text):
            if specifier.startswith("."):
                places = [posixpath.normpath(posixpath.join(posixpath.dirname(path), specifier))]
            else:
                bare = specifier[2:] if specifier.startswith(("@/", "~/")) else specifier
                places = [posixpath.join(folder, bare) for folder in ("", "src")]
            found = next((file for place in places for file in _script_files(place) if file in self._known), None)
            if found:
                yield found

    def _java(self, path: str, text: str) -> Iterator[str]:
        mentioned = set(_WORD.findall(text))
        for name in statements.java_imports(text):
            parts = name.split(".")
            if parts[-1] == "*":
                folder = "/".join(parts[:-1])
                yield from (found for found in self._java_package(folder) if _stem(found) in mentioned)
                continue
            for n in range(len(parts), max(len(parts) - 3, 1), -1):  # the rest names a member or a nested class
                ending = "/".join(parts[:n]) + ".java"
                found = [p for p in self._by_name.get(f"{parts[n - 1]}.java", []) if f"/{p}".endswith(f"/{ending}")]
                if found:
                    yield found[0]
                    break
        beside = self._by_folder[posixpath.dirname(path)] if path in self._known else []
        yield from (other for other in beside if other.endswith(".java") and _stem(other) in mentioned)

    def _java_package(self, folder: str) -> Iterator[str]:
        for name, paths in self._by_folder.items():
            if f"/{name}".endswith(f"/{folder}"):
                yield from (path for path in paths if path.endswith(".java"))

    def _module_of(self, go_texts: Iterable[str]) -> str:
        """Return the module path under which most imports name a folder of the repository, "" where none does."""
        folders = {folder for folder, paths in self._by_folder.items() if any(p.endswith(".go") for p in paths)}
        votes: Counter[str] = Counter()
        for target in (target for text in go_texts for target in statements.go_imports(text)):
            parts = target.split("/")
            for n in range(1, len(parts)):
                if "/".join(parts[n:]) in folders:
                    votes["/".join(parts[:n])] += 1
        return min(votes, key=lambda name: (-votes[name], name)) if votes else ""

    def _go(self, path: str, text: str) -> Iterator[str]:
        for target in statements.go_imports(text):
            if self._go_module and f"{target}/".startswith(f"{self._go_module}/"):
                folder = target[len(self._go_module) + 1 :]
                files = self._by_folder.get(folder, [])
                yield from (file for file in files if file.endswith(".go") and not file.endswith("_test.go"))

    def _rust(self, path: str, text: str) -> Iterator[str]:
        root, here = self._crate_of(path)
        for name in statements.rust_modules(text):
            yield from self._rust_module(root, (*here, name))
        for use in statements.rust_uses(text):
            start, rest, base = use[0], list(use[1:]), root
            if start == "crate":
                module: tuple[str, ...] = ()
            elif start == "self":
                module = here
            elif start == "super":
                n = next((i for i, part in enumerate(use) if part != "super"), len(use))
                module, rest = here[: max(len(here) - n, 0)], list(use[n:])
            elif crate := self._crate_named(start):
                module, base = (), crate
            else:
                module, rest = here, list(use)  # a module of this one
            for n in range(len(rest), -1, -1):  # the last parts name items inside a module
                if found := self._rust_module(base, (*module, *rest[:n])):
                    yield from found
                    break

    def _crate_of(self, path: str) -> tuple[str, tuple[str, ...]]:
        """Return the folder of the crate's root file and the file's module path inside it."""
        folder = posixpath.dirname(path)
        while folder and not any(posixpath.join(folder, name) in self._known for name in _CRATE_ROOTS):
            folder = posixpath.dirname(folder)
        parts = path.removesuffix(".rs")[len(folder) + 1 if folder else 0 :].split("/")
        return folder, tuple(parts[:-1] if parts[-1] in ("mod", "lib", "main") else parts)

    def _crate_named(self, name: str) -> str:
        for folder in (name, name.replace("_", "-")):
            ending = f"/{folder}/src/lib.rs"
            found = [path for path in self._by_name.get("lib.rs", []) if f"/{path}".endswith(ending)]
            if len(found) == 1:
                return posixpath.dirname(found[0])
        return ""

    def _rust_module(self, root: str, module: tuple[str, ...]) -> list[str]:
        place = posixpath.join(root, *module)
        names = [f"{place}.rs", f"{place}/mod.rs"] if module else [posixpath.join(root, name) for name in _CRATE_ROOTS]
        return [name for name in names if name in self._known][:1]


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]


def _script_files(place: str) -> Iterator[str]:
    """Yield the files that a JavaScript or TypeScript specifier may mean, likeliest first."""
    stem, extension = posixpath.splitext(place)
    if extension in _SCRIPT_ENDINGS:
        yield place
        if "js" in extension:  # TypeScript sources are imported by the names that they compile to
            yield from (f"{stem}{ending}" for ending in (".ts", ".tsx", ".mts", ".cts"))
    yield from (f"{place}{ending}" for ending in _SCRIPT_ENDINGS)
    yield from (f"{place}/index{ending}" for ending in _SCRIPT_ENDINGS)


def _module_parts(path: str) -> tuple[str, ...]:
    stem, extension = posixpath.splitext(path)
    if extension not in (".py", ".pyi"):
        return ()
    parts = tuple(stem.split("/"))
    return parts[:-1] if parts[-1] == "__init__" else parts


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
