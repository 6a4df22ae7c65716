"""What became of a file's text after it was committed, read from a repository's history. The text is not judged.

A version is the text that a commit gave a file; it ends when a later commit changes or deletes the file (a rename alone
does not). Of each version is known how many commits of the project it outlived, whether the commit that ended it says
that it fixes something and came soon, whether that commit put the previous text back, and how many of its functions
a test began to name while it stood, when no test had named them before.

Not covered: functions behind names shorter than six characters, or shared by several files; definitions without a
keyword, as in C. Tests are found by their path. Messages are read as English.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from codeflow.core.storage import sha256_text
from codeflow.core.types import Change, Commit
from codeflow.transform.spans import is_code, is_test, path_noise

_FIX = re.compile(r"(?i)\b(?:fix(?:e[sd]|ing)?|bug ?fix|hot ?fix|repair(?:s|ed)?|regression|crash(?:es|ed)?)\b")
_DEFINED = re.compile(
    r"\b(?:def|fn|func|fun|function|class|struct|trait|interface)\s+(?:\([^()\n]{0,80}\)\s*)?(?:self\.)?([A-Za-z_]\w{5,})"
)
_WORD = re.compile(r"[A-Za-z_]\w{5,}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one version of one file."""

    document_id: str  # of the version's text
    repository: str
    path: str
    sha: str  # of the commit that wrote it
    n_bytes: int
    survived_commits: int
    ended: bool  # False: the version still stands at the last commit
    fixed_soon: bool
    reverted: bool
    n_tests_gained: int  # functions that a test began to name


@dataclass(slots=True)
class _Version:
    document_id: str
    sha: str
    written_path: str
    number: int  # of its commit within the project
    before_id: str  # of the text that it replaced, "" for a new file
    n_bytes: int
    defined: frozenset[str]
    n_tests_gained: int = 0


def outcomes(commits: Iterable[Commit], soon_commits: int) -> Iterator[Outcome]:
    """Yield the outcome of every version of a code file that is no test. Commits of a repository come oldest first."""
    projects: dict[str, _Project] = {}
    for commit in commits:
        project = projects.setdefault(commit.repository, _Project(commit.repository, soon_commits))
        yield from project.take(commit)
    for project in projects.values():
        yield from project.standing()


@dataclass(slots=True)
class _Project:
    repository: str
    soon_commits: int
    number: int = -1  # of the last commit taken
    files: dict[str, _Version] = field(default_factory=dict)
    definers: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # function -> paths
    tested: set[str] = field(default_factory=set)  # words that any test has ever held

    def take(self, commit: Commit) -> Iterator[Outcome]:
        """Yield the versions that a commit ends; note those that it begins and the tests that it adds."""
        self.number += 1
        fixes = bool(_FIX.search(commit.message))
        for change in commit.changes:
            if is_subject(change.path) or is_subject(change.old_path):
                yield from self._changed(change, commit.sha, fixes)
        for change in commit.changes:  # after the code, so that tests may come with what they test
            if change.after is not None and is_code(change.path) and is_test(change.path):
                self._tests(set(_WORD.findall(change.after)))

    def _changed(self, change: Change, sha: str, fixes: bool) -> Iterator[Outcome]:
        after_id = sha256_text(change.after) if change.after is not None else ""
        version = None if change.status == "A" else self._remove(change.old_path)
        if version is not None and after_id == version.document_id:  # renamed, not changed
            self._add(change.path, version)
            return
        if version is not None:
            soon = fixes and self.number - version.number <= self.soon_commits
            back = bool(version.before_id) and after_id == version.before_id
            yield self._outcome(version, True, soon, back)
        if change.after is not None and is_subject(change.path):
            before_id = version.document_id if version else ""
            n_bytes = len(change.after.encode("utf-8", "surrogatepass"))
            defined = frozenset(_DEFINED.findall(change.after))
            self._add(change.path, _Version(after_id, sha, change.path, self.number, before_id, n_bytes, defined))

    def _tests(self, words: set[str]) -> None:
        new = words - self.tested
        self.tested |= new
        for word in new:
            paths = self.definers.get(word, ())
            if len(paths) == 1:
                self.files[next(iter(paths))].n_tests_gained += 1

    def _add(self, path: str, version: _Version) -> None:
        self._remove(path)  # a path can be added over, where an earlier change came without contents
        self.files[path] = version
        for name in version.defined:
            self.definers[name].add(path)

    def _remove(self, path: str) -> _Version | None:
        version = self.files.pop(path, None)
        for name in version.defined if version else ():
            self.definers[name].discard(path)
        return version

    def standing(self) -> Iterator[Outcome]:
        """Yield the versions that stand at the last commit taken."""
        for _, version in sorted(self.files.items()):
            yield self._outcome(version, False, False, False)

    def _outcome(self, version: _Version, ended: bool, soon: bool, back: bool) -> Outcome:
        age = self.number - version.number
        where = (version.document_id, self.repository, version.written_path, version.sha, version.n_bytes)
        return Outcome(*where, age, ended, soon, back, version.n_tests_gained)


def is_subject(path: str) -> bool:
    """Say whether files of this path are labelled: code that is no test, and not vendored."""
    return is_code(path) and not is_test(path) and not path_noise(path)
