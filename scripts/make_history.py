#!/usr/bin/env python3
"""Write a git repository with a synthetic history: a small Python project that grows, its tests growing with it.

    python scripts/make_history.py FOLDER [--commits N]

The history holds what real ones hold: merges, renames, reverts, binary files, an empty message, texts, messages and
a path that are not UTF-8, mode changes, a submodule, symlinks, an LFS pointer, a very large file, an empty commit.
Authors and dates are fixed, so equal arguments give equal commit ids. A file `.codeflow-synthetic` marks it as made up.
Not covered: octopus merges, tags, signatures.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parent))

from history_features import Feature, feature

MARKER = ".codeflow-synthetic"
_START_SECONDS = 1_609_750_800  # 2021-01-04 09:00 UTC
_STEP_SECONDS = 111_600  # 31 hours
_FILE, _PROGRAM, _LINK, _SUBMODULE = "100644", "100755", "120000", "160000"
_LATIN = "Übersicht über die Zählung\nGrüße aus Köln\n".encode("latin-1")


@dataclass
class Project:
    """The project at one commit."""

    modules: dict[str, dict[str, str]] = field(default_factory=dict)  # module -> function -> source
    tests: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # module -> function -> test bodies
    files: dict[bytes, tuple[str, bytes]] = field(default_factory=dict)  # path -> (mode, content) of everything else

    def tree(self) -> dict[bytes, tuple[str, bytes]]:
        """Return every file: path -> (mode, content)."""
        tree = dict(self.files)
        for module, functions in self.modules.items():
            text = f'"""Functions on {module}."""\n\n\n' + "\n\n".join(functions.values())
            tree[f"tally/{module}.py".encode()] = (_FILE, text.encode())
        for module, tests in self.tests.items():
            text = f"from tally.{module} import {', '.join(sorted(tests))}\n"
            for name, bodies in tests.items():
                for number, body in enumerate(bodies):
                    text += f"\n\ndef test_{name}_{number}():\n    {body}\n"
            tree[f"tests/test_{module}.py".encode()] = (_FILE, text.encode())
        return tree


Step = tuple[bytes, Callable[[Project], None]]  # commit message, what it does


@dataclass(frozen=True)
class _Commit:
    mark: int
    project: Project


def _put(path: str | bytes, content: bytes, mode: str = _FILE) -> Callable[[Project], None]:
    key = path.encode() if isinstance(path, str) else path

    def apply(project: Project) -> None:
        project.files[key] = (mode, content)

    return apply


def _remove(path: str) -> Callable[[Project], None]:
    def apply(project: Project) -> None:
        project.files.pop(path.encode(), None)

    return apply


def _move(old: str, new: str) -> Callable[[Project], None]:
    def apply(project: Project) -> None:
        project.files[new.encode()] = project.files.pop(old.encode())

    return apply


def _rename(old: str, new: str) -> Callable[[Project], None]:
    def apply(project: Project) -> None:
        project.modules = {new if name == old else name: value for name, value in project.modules.items()}
        project.tests = {new if name == old else name: value for name, value in project.tests.items()}

    return apply


def _add(item: Feature) -> Step:
    def apply(project: Project) -> None:
        module = _module_of(item, project)
        project.modules.setdefault(module, {})[item.name] = item.first
        project.tests.setdefault(module, {})[item.name] = [item.first_test]

    return f"Add {item.name}\n\nWith a test.\n".encode(), apply


def _mend(item: Feature) -> Step:
    def apply(project: Project) -> None:
        module = _module_of(item, project)
        project.modules[module][item.name] = item.better
        project.tests[module][item.name] = [item.first_test, item.better_test]

    return f"{item.name}: handle {item.defect}\n".encode(), apply


def _module_of(item: Feature, project: Project) -> str:
    """Return where the feature lives: modules may have been renamed."""
    names = {"text": "strings"} if "strings" in project.modules else {}
    return names.get(item.module, item.module)


def _begin(project: Project) -> None:
    _put(MARKER, b"Made by scripts/make_history.py.\n")(project)
    _put("tally/__init__.py", b'"""Small functions on texts, numbers, sequences and records."""\n')(project)
    _put("README.md", b"# tally\n\nSmall functions, each with its tests.\n")(project)
    _put("LICENSE", b"MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining a copy.\n")(
        project
    )
    _put("tools/check.sh", b"#!/bin/sh\nexec python -m pytest -q tests\n")(project)


def _png(seed: int) -> bytes:
    """Return bytes that look like an image; nobody decodes them."""
    return b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes((seed * 31 + i * i) % 256 for i in range(2000))


def _large() -> bytes:
    return b"".join(b"%d,%d,%d\n" % (n, n * n % 997, n * 7 % 101) for n in range(60_000))


_ENCODED = b"ISO-8859-1:"  # such a message is stored with an encoding header
_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 123456\n"
_MODULES = b'[submodule "vendor/dates"]\n\tpath = vendor/dates\n\turl = https://example.org/dates.git\n'


def _link_submodule(project: Project) -> None:
    _put(".gitmodules", _MODULES)(project)
    _put("vendor/dates", b"5d" * 20, _SUBMODULE)(project)


_GUIDE: tuple[Step, ...] = (
    (b"Begin a guide\n", _put("docs/guide.md", b"# Guide\n\nImport what you need.\n")),
    (b"Guide: errors\n", _put("docs/guide.md", b"# Guide\n\nImport what you need.\n\nErrors are ValueErrors.\n")),
)

# What happens beside features, in this order. A string is something that the history itself does.
_EVENTS: tuple[Step | str, ...] = (
    (b"Say how to run the tests\n", _put("README.md", b"# tally\n\nSmall functions.\n\nRun `tools/check.sh`.\n")),
    "merge",
    (b"Add a logo\n", _put("docs/logo.png", _png(1))),
    (b"Rename text to strings\n", _rename("text", "strings")),
    (b"", _put("docs/notes.txt", b"Notes\n=====\n")),
    "revert",
    ("Notizen für Köln\n".encode("latin-1"), _put("docs/latin.txt", _LATIN)),
    (b"Make the check a program\n", _put("tools/check.sh", b"#!/bin/sh\nexec python -m pytest -q tests\n", _PROGRAM)),
    (b"Take dates as a submodule\n", _link_submodule),
    (b"Link the notes\n", _put("NOTES", b"docs/notes.txt", _LINK)),
    "merge of an older fork",
    (b"Keep recordings in LFS\n", _put("data/recording.bin", _LFS)),
    (b"Add measurements\n", _put("data/measurements.csv", _large())),
    (b"Nothing changes here\n", lambda project: None),
    (b"New logo\n", _put("docs/logo.png", _png(2))),
    (b"Remove measurements, they are too large\n", _remove("data/measurements.csv")),
    (b"Notes become a file\n", _put("NOTES", b"See docs/notes.txt.\n")),
    (b"A path from an old system\n", _put("docs/stra\u00dfe.txt".encode("latin-1"), b"strasse\n")),
    (b"Lines from another system, without an end\n", _put("docs/windows.txt", b"one\r\ntwo\r\nthree")),
    (_ENCODED + b"Gr\xfc\xdfe\n", _put("docs/greeting.txt", b"hello\n")),
    (
        b"Move the notes\n",
        lambda project: project.files.update({b"docs/remarks.txt": project.files.pop(b"docs/notes.txt")}),
    ),
    "revert",
    "merge",
)


class _Writer:
    """Writes commits as a `git fast-import` stream."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._mark = 0

    def commit(self, branch: str, message: bytes, project: Project, parent: _Commit | None, other: int = 0) -> _Commit:
        """Write a commit of `project` onto `parent` (and merging the commit marked `other`); return it."""
        self._mark += 1
        seconds = _START_SECONDS + self._mark * _STEP_SECONDS
        person = b"Synthetic Author <author@example.org> %d +0000" % seconds
        encoding = b""
        if message.startswith(_ENCODED):
            encoding, message = b"encoding ISO-8859-1\n", message.removeprefix(_ENCODED)
        out = [b"commit refs/heads/%s\nmark :%d\n" % (branch.encode(), self._mark)]
        out += [b"author %s\ncommitter %s\n%s" % (person, person, encoding), _data(message)]
        if parent:
            out.append(b"from :%d\n" % parent.mark)
        if other:
            out.append(b"merge :%d\n" % other)
        out += _changes(parent.project.tree() if parent else {}, project.tree())
        self._pipe.write(b"".join(out))
        return _Commit(self._mark, project)


def _data(content: bytes) -> bytes:
    return b"data %d\n%s\n" % (len(content), content)


def _changes(before: dict[bytes, tuple[str, bytes]], after: dict[bytes, tuple[str, bytes]]) -> Iterator[bytes]:
    for path in sorted(before.keys() - after.keys()):
        yield b"D %s\n" % _quoted(path)
    for path in sorted(after):
        if before.get(path) != after[path]:
            mode, content = after[path]
            if mode == _SUBMODULE:
                yield b"M %s %s %s\n" % (mode.encode(), content, _quoted(path))
            else:
                yield b"M %s inline %s\n%s" % (mode.encode(), _quoted(path), _data(content))


def _quoted(path: bytes) -> bytes:
    plain = (bytes([c]) if 32 < c < 127 and c not in b'"\\' else b"\\%03o" % c for c in path)
    return b'"' + b"".join(plain) + b'"'


def _features() -> Iterator[Step]:
    """Yield the project's ordinary commits: a feature is added, the next one too, then the first is mended."""
    yield _add(feature(0))
    for number in count(1):
        yield _add(feature(number))
        yield _mend(feature(number - 1))


def _write_commits(writer: _Writer, n_commits: int) -> None:
    """Write `n_commits` commits of the main line, and those of the branches merged into it."""
    features, events = _features(), iter(_EVENTS)
    project = Project()
    _begin(project)
    head = writer.commit("main", b"Begin the project\n", project, None)
    before, last = head, next(features)
    for number in range(1, n_commits):
        event = next(events, None) if number % 2 == 0 and number > 3 else None
        if event == "merge":
            before, head = head, _merge(writer, head, head, [next(features), next(features)])
            continue
        if event == "merge of an older fork":
            before, head = head, _merge(writer, before, head, list(_GUIDE))
            continue
        if event == "revert":  # of a feature's commit, which comes again next
            title = last[0].splitlines()[0]
            before, head = head, writer.commit("main", b'Revert "%s"\n' % title, before.project, head)
            features = chain([last], features)
            continue
        if isinstance(event, tuple):
            step = event
        else:
            step = last = next(features) if number > 1 else last
        project = copy.deepcopy(head.project)
        step[1](project)
        before, head = head, writer.commit("main", step[0], project, head)


def _merge(writer: _Writer, fork: _Commit, head: _Commit, steps: list[Step]) -> _Commit:
    """Write a branch of `steps` from `fork` and merge it into `head`; return the merge."""
    branch, merged = fork, copy.deepcopy(head.project)
    for message, apply in steps:
        project = copy.deepcopy(branch.project)
        apply(project)
        apply(merged)
        branch = writer.commit("topic", message, project, branch)
    return writer.commit("main", b"Merge branch 'topic'\n", merged, head, branch.mark)


def write_history(folder: Path, n_commits: int = 60) -> None:
    """Make the repository `folder` with `n_commits` commits on its main line, checked out at the last one.

    Raises ValueError when `folder` holds something or `n_commits` is below 1; CalledProcessError when git fails.
    """
    if n_commits < 1 or (folder.exists() and any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty, or {n_commits} commits are too few; name a new folder, and 1 or more")
    folder.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}

    def git(*arguments: str) -> list[str]:
        return ["git", "-c", "safe.directory=*", "-C", str(folder), *arguments]

    subprocess.run(git("init", "--quiet", "--template=", "--initial-branch=main"), env=environment, check=True)
    with subprocess.Popen(git("fast-import", "--quiet"), env=environment, stdin=subprocess.PIPE) as process:
        assert process.stdin
        _write_commits(_Writer(process.stdin), n_commits)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "git fast-import")
    subprocess.run(git("reset", "--quiet", "--hard", "main"), env=environment, check=True)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Write a git repository with a synthetic history.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--commits", type=int, default=60, help="commits on the main line (default 60)")
    arguments = parser.parse_args()
    try:
        write_history(arguments.folder, arguments.commits)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
