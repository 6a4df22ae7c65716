"""Which files of a repository matter to a change: its importers, its tests, its neighbours, as of the change's start.

A `Tree` is rebuilt by replaying commits, so it holds nothing that a later commit brought. It knows the text files that
the replayed commits touched: of a history read from its root all of them, of a cut one those changed since.

Not covered: files whose text the history leaves out (binary, huge); a file's imports are resolved when it changes, so
one that is added later under the same name is seen only after the importer's next change.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator

from codeflow.core.types import Commit
from codeflow.transform.imports import ImportGraph
from codeflow.transform.spans import is_code, is_test, language_of

KINDS = ("importer", "test", "neighbour")


class Tree:
    """The text files of a repository after the commits replayed so far, and who imports whom."""

    def __init__(self, max_file_characters: int) -> None:
        """Start empty; longer files are not kept."""
        self.files: dict[str, str] = {}
        self._max_file_characters = max_file_characters
        self._imports: dict[str, tuple[str, ...]] = {}
        self._changed: set[str] = set()

    def apply(self, commit: Commit) -> None:
        """Replay one commit."""
        for change in commit.changes:
            if change.status in "DR":
                self._put(change.old_path, None)
        for change in commit.changes:
            if change.status != "D":
                self._put(change.path, change.after)

    def _put(self, path: str, text: str | None) -> None:
        if text is None or len(text) > self._max_file_characters:
            self.files.pop(path, None)
        else:
            self.files[path] = text
        self._changed.add(path)

    def imports(self) -> dict[str, tuple[str, ...]]:
        """Return what each code file imports from the repository; only changed files are read again."""
        go_texts = (text for path, text in self.files.items() if path.endswith(".go"))
        graph = ImportGraph(self.files, go_texts)
        for path in sorted(self._changed):
            language = language_of(path)
            if path in self.files and language is not None:
                self._imports[path] = graph.dependencies(path, self.files[path], language.name)
            else:
                self._imports.pop(path, None)
        self._changed.clear()
        return self._imports


def relevant_files(tree: Tree, touched: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield (kind, path) of the untouched files that matter to a change of `touched`, most relevant first.

    Importers of touched files come first, those of most of them before others; then tests that import a touched file or
    are named after one; then neighbours: what touched files import, and code in their folders.
    """
    imports = tree.imports()
    wanted = set(touched)
    stems = {_stem(path) for path in touched if is_code(path) and not is_test(path)} - {"__init__", "index", "mod"}
    users = {path: sum(target in wanted for target in found) for path, found in imports.items() if path not in wanted}
    importers = sorted((path for path, n in users.items() if n), key=lambda path: (-users[path], path))
    yielded = set(wanted)
    tests = [path for path in importers if is_test(path)]
    tests += sorted(path for path in imports if is_test(path) and any(stem in _stem(path) for stem in stems))
    neighbours = [target for path in sorted(wanted) for target in imports.get(path, ())]
    folders = {posixpath.dirname(path) for path in touched if is_code(path)}
    neighbours += sorted(path for path in imports if posixpath.dirname(path) in folders)
    groups = ([path for path in importers if not is_test(path)], tests, neighbours)
    for kind, paths in zip(KINDS, groups, strict=True):
        for path in paths:
            if path not in yielded and path in tree.files and is_code(path):
                yielded.add(path)
                yield kind, path


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0].lower()
