"""Runs of consecutive commits, composed into one change of a repository, and what is measured on them.

A span starts at the state R_start that its first commit's parent left, and ends at the state R_end of its last commit
(Code-Flow §2). `Composition` holds the touched files of both, `candidates_of` walks through a history with a bounded
window and yields every span that was considered, with its scores or the reason against it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pydantic import Field, model_validator

from codeflow.core.config import Config
from codeflow.core.languages import BY_EXTENSION, Language
from codeflow.core.types import Change, Commit
from codeflow.transform import commit_message

_LOCK_FILES = frozenset(
    re.findall(
        r"\S+",
        "package-lock.json npm-shrinkwrap.json yarn.lock pnpm-lock.yaml poetry.lock pdm.lock uv.lock pipfile.lock "
        "cargo.lock composer.lock gemfile.lock go.sum gradle.lockfile packages.lock.json flake.lock bun.lock mix.lock",
    )
)


_HEAD_CHARACTERS = 2_000  # of a file, in which programs say that they wrote it


class SpanLimits(Config):
    """Which spans are considered at all."""

    max_commits: int = Field(default=6, ge=1)
    max_files: int = Field(default=12, ge=1)
    max_bytes: int = Field(default=200_000, ge=1)  # of the touched files before and after, together
    min_changed_lines: int = Field(default=3, ge=1)
    max_changed_lines: int = Field(default=600, ge=1)

    @model_validator(mode="after")
    def _lines_rise(self) -> SpanLimits:
        if self.min_changed_lines > self.max_changed_lines:
            raise ValueError(
                f"min_changed_lines={self.min_changed_lines} exceeds max_changed_lines={self.max_changed_lines}"
            )
        return self


class SpanTargets(Config):
    """Where the scores of size are 1; they fall off on both sides in proportion."""

    changed_lines: float = Field(default=60, gt=0)
    files: float = Field(default=3, gt=0)
    commits: float = Field(default=3, gt=0)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One span that was considered: its place, what selection needs, and its scores or the reason against it."""

    first: int  # number of its first commit in the stream of commits
    last: int
    position: float  # of R_start
    reason: str = ""  # why it is out, "" for a candidate that stands
    paths: frozenset[str] = frozenset()
    subsystem: str = ""
    words: frozenset[str] = frozenset()
    scores: dict[str, float] = field(default_factory=dict)


class Discontinuity(Exception):
    """A commit's before side is not what the span's earlier commits left."""


class Composition:
    """The touched files of R_start and of the state after each commit added so far."""

    def __init__(self) -> None:
        self.before: dict[str, str] = {}
        self.current: dict[str, str | None] = {}  # None: the file was there and is gone
        self.modes_before: dict[str, str] = {}
        self.modes_now: dict[str, str] = {}
        self.renames: dict[str, str] = {}  # new path -> path at R_start

    def add(self, commit: Commit) -> None:
        """Compose one more commit. Raises Discontinuity when it does not continue what is here."""
        leaving = {change.old_path for change in commit.changes if change.status in "DR"}
        for change in commit.changes:
            old = self.current.get(change.old_path, change.before)
            if change.status != "A":
                if old is None or old != change.before:
                    raise Discontinuity(change.old_path)
                if change.old_path not in self.current:
                    self.before[change.old_path] = old
                    self.modes_before[change.old_path] = change.old_mode
            if change.status in "AR" and change.path not in leaving and self.current.get(change.path) is not None:
                raise Discontinuity(change.path)
        for change in commit.changes:  # sources first, so that swapped names and chains of renames come out right
            if change.status in "DR":
                self.current[change.old_path] = None
        sources = dict(self.renames)
        for change in commit.changes:
            if change.status in "DR":
                self.renames.pop(change.old_path, None)
        for change in commit.changes:
            if change.status == "R":
                origin = sources.get(change.old_path, change.old_path)
                if origin in self.before:
                    self.renames[change.path] = origin
            if change.status != "D":
                self.current[change.path] = change.after
                self.modes_now[change.path] = change.mode

    def files(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the files that differ, before and after (path -> text)."""
        after = {path: text for path, text in self.current.items() if text is not None}
        same = {path for path, text in self.before.items() if after.get(path) == text}
        return (
            {path: text for path, text in sorted(self.before.items()) if path not in same},
            {path: text for path, text in sorted(after.items()) if path not in same},
        )

    def patch(self) -> str:
        """Return the patch from R_start to the state now, modes included."""
        from codeflow.transform.patch import make_patch

        return make_patch(*self.files(), self.renames, (self.modes_before, self.modes_now))

    def pairs(self) -> Iterator[tuple[str, str | None, str | None]]:
        """Yield (path, text before, text after) of each file that differs; a renamed one once, by its new path."""
        before, after = self.files()
        moved = {new: old for new, old in self.renames.items() if new in after and old in before and old not in after}
        for path in sorted({*before, *after} - set(moved.values())):
            yield path, before.get(moved.get(path, path)), after.get(path)


@functools.lru_cache(maxsize=20_000)
def path_noise(path: str) -> str:
    """Return why a file of this path is noise ("lock_file", "vendored"), or ""."""
    from codeflow.corpus.detect import is_vendored

    if PurePosixPath(path).name.lower() in _LOCK_FILES:
        return "lock_file"
    return "vendored" if is_vendored(path) else ""


@functools.lru_cache(maxsize=20_000)
def is_test(path: str) -> bool:
    """Say whether the path is that of a test."""
    import enry

    from codeflow.corpus import detect

    return detect.is_test(path) or enry.is_test(path)


@functools.lru_cache(maxsize=20_000)
def language_of(path: str) -> Language | None:
    """Return the table's language for the path's extension."""
    return BY_EXTENSION.get(PurePosixPath(path).suffix.lower())


def is_code(path: str) -> bool:
    """Say whether the path's extension is that of a programming language."""
    language = language_of(path)
    return language is not None and language.domain == "code"


@functools.lru_cache(maxsize=2_000)
def _looks_generated(path: str, head: str) -> bool:
    """Most commits leave a file's head as it was, so the answer is remembered."""
    from codeflow.corpus.detect import is_generated

    return is_generated(path, head.encode("utf-8", "surrogatepass"))


def change_noise(change: Change, is_held_out: Callable[[Change], bool]) -> str:
    """Return why one change spoils every span it is in, or ""."""
    if change.status == "T":
        return "type_change"
    sides = [("A", change.before), ("D", change.after)]
    if change.binary or any(text is None and change.status != absent for absent, text in sides):
        return "not_text"
    if noise := path_noise(change.path) or path_noise(change.old_path):
        return noise
    if _looks_generated(change.path, (change.after or change.before or "")[:_HEAD_CHARACTERS]):
        return "generated"
    if is_held_out(change):
        return "held_out"
    return "secret" if any(text and has_secret(text) for text in (change.before, change.after)) else ""


@functools.lru_cache(maxsize=256)  # the text after a commit is mostly the text before the file's next one
def has_secret(text: str) -> bool:
    """Say whether the text holds a credential. Replacing it would make the patch a fiction, so the span is refused."""
    from codeflow.transform.secrets import find_secrets

    return bool(find_secrets(text, emails=False, ip_addresses=False))


class SyntaxMemory:
    """Whether texts parse, each parsed once. A text of a language without a grammar has no answer (None)."""

    def __init__(self) -> None:
        self._known: dict[bytes, bool] = {}

    def parses(self, path: str, text: str) -> bool | None:
        """Say whether `text` parses without an error in the language of `path`."""
        language = language_of(path)
        if language is None or not language.grammar or language.domain != "code":
            return None
        data = text.encode("utf-8", "surrogatepass")
        key = hashlib.blake2b(data, digest_size=16, person=language.grammar[:16].encode()).digest()
        if key not in self._known:
            from codeflow.transform.fim import parser_of

            self._known[key] = not parser_of(language.grammar).parse(data).root_node.has_error
        return self._known[key]


@dataclass(frozen=True, slots=True)
class Step:
    """A commit of the window with what is said of it alone."""

    number: int
    commit: Commit
    fault: str
    start: float  # position of the state before it


def _may_start(step: Step, starts: tuple[float, float]) -> bool:
    return starts[0] <= step.start <= starts[1]


class Survey:
    """Walks over a repository's commits, oldest first, and considers the spans that start in a part of its life."""

    def __init__(
        self,
        limits: SpanLimits,
        targets: SpanTargets,
        starts: tuple[float, float],
        is_held_out: Callable[[Change], bool],
        reverted: frozenset[str],
    ) -> None:
        self.limits, self.targets, self.starts = limits, targets, starts
        self.is_held_out, self.reverted = is_held_out, reverted
        self._syntax = SyntaxMemory()
        # While a span grows most of its files stay the same objects, whose hashes Python keeps: looking up is cheap.
        self._sizes: dict[tuple[str, str], tuple[int, int]] = {}
        self._parses: dict[tuple[str, str], bool | None] = {}

    def candidates(self, commits: Iterable[Commit]) -> Iterator[Candidate]:
        """Yield every span that was considered, in order of its start, then of its end."""
        window: deque[Step] = deque()
        previous: Commit | None = None
        for number, commit in enumerate(commits):
            follows = previous is not None and commit.parent == previous.sha
            if not follows:  # no span may cross a gap
                while window:
                    yield from self._from_first(window)
                    window.popleft()
            start = previous.position if previous is not None and follows else None
            if start is not None and start > self.starts[1] and not (window and _may_start(window[0], self.starts)):
                return
            previous = commit
            if start is None or start < self.starts[0]:
                continue
            window.append(Step(number, commit, self._fault(commit), start))
            if len(window) == self.limits.max_commits:
                yield from self._from_first(window)
                window.popleft()
        while window:
            yield from self._from_first(window)
            window.popleft()

    def _fault(self, commit: Commit) -> str:
        noise = commit_message.noise(commit.message)
        if noise:
            return noise
        if any(commit.sha.startswith(sha) for sha in self.reverted):
            return "reverted_later"
        if len(commit.changes) > 4 * self.limits.max_files:
            return "too_many_files"
        if has_secret(commit.message):
            return "secret"
        return next((fault for change in commit.changes if (fault := change_noise(change, self.is_held_out))), "")

    def _from_first(self, window: deque[Step]) -> Iterator[Candidate]:
        first = window[0]
        if not _may_start(first, self.starts):
            return
        composition, steps = Composition(), []
        self._sizes.clear()
        self._parses.clear()
        for step in window:
            out = functools.partial(Candidate, first.number, step.number, first.start)
            if step.fault:
                yield out(step.fault)
                return
            try:
                composition.add(step.commit)
            except Discontinuity:
                yield out("discontinuous")
                return
            steps.append(step)
            candidate, is_final = self._measured(composition, steps, out)
            yield candidate
            if is_final:
                return

    def _measured(
        self, composition: Composition, steps: list[Step], out: Callable[..., Candidate]
    ) -> tuple[Candidate, bool]:
        """Return the candidate that ends here, and whether longer ones need not be looked at."""
        before, after = composition.files()
        pairs = list(composition.pairs())
        if len(pairs) > self.limits.max_files:
            return out("too_many_files"), True
        if sum(map(len, before.values())) + sum(map(len, after.values())) > self.limits.max_bytes:
            return out("too_large"), True
        if not pairs:
            return out("no_net_change"), False
        if not any(is_code(path) for path, _, _ in pairs):
            return out("no_code"), False
        n_lines = sum(sum(self._size(old or "", new or "")) for _, old, new in pairs)
        if n_lines > self.limits.max_changed_lines:
            return out("patch_too_large"), True
        if n_lines < self.limits.min_changed_lines:
            return out("patch_too_small"), False
        if all(_squeezed(old) == _squeezed(new) for _, old, new in pairs):
            return out("format_only"), False
        parse = self._parse_share(pairs)
        if parse is None:
            return out("breaks_syntax"), False
        messages = [step.commit.message for step in steps]
        paths = frozenset({*before, *after})
        scores = {
            "size": _bump(n_lines, self.targets.changed_lines),
            "files": _bump(len(pairs), self.targets.files),
            "commits": _bump(len(steps), self.targets.commits),
            "tests": _tests_score(paths),
            "message": sum(map(commit_message.quality, messages)) / len(messages),
            "parse": parse,
            "coherence": _coherence([step.commit for step in steps]),
        }
        words = frozenset().union(*map(commit_message.words, messages))
        return out("", paths, _subsystem(paths), words, scores), False

    def _size(self, old: str, new: str) -> tuple[int, int]:
        from codeflow.transform.line_diff import changed_lines

        key = (old, new)
        if key not in self._sizes:
            self._sizes[key] = changed_lines(old, new)
        return self._sizes[key]

    def _parse_share(self, pairs: list[tuple[str, str | None, str | None]]) -> float | None:
        """Return the share of sides of code files that parse; None when the span breaks a file that parsed."""
        answers: list[bool] = []
        for path, old, new in pairs:
            was, now = self._parse(path, old), self._parse(path, new)
            if now is False and was is not False:
                return None
            answers += [answer for answer in (was, now) if answer is not None]
        return sum(answers) / len(answers) if answers else 0.5

    def _parse(self, path: str, text: str | None) -> bool | None:
        if text is None:
            return None
        if (path, text) not in self._parses:
            self._parses[path, text] = self._syntax.parses(path, text)
        return self._parses[path, text]


def _squeezed(text: str | None) -> str | None:
    return None if text is None else "".join(text.split())


def _bump(value: float, target: float, width: float = 1.1) -> float:
    return math.exp(-0.5 * (math.log(value / target) / width) ** 2)


def _tests_score(paths: frozenset[str]) -> float:
    tests = any(is_test(path) for path in paths)
    source = any(is_code(path) and not is_test(path) for path in paths)
    return 1.0 if tests and source else 0.5 if source else 0.25


@functools.lru_cache(maxsize=20_000)
def _folder(path: str, depth: int) -> str:
    return "/".join(PurePosixPath(path).parts[:-1][:depth])


def _subsystem(paths: frozenset[str]) -> str:
    """Return the commonest folder (two levels deep) of the span's source files, tests only if there is nothing else."""
    source = sorted(path for path in paths if is_code(path) and not is_test(path)) or sorted(paths)
    folders = [_folder(path, 2) for path in source]
    return min(set(folders), key=lambda name: (-folders.count(name), name))


def _coherence(commits: list[Commit]) -> float:
    """Rate 0..1 how much each commit goes on with the code files, or at least the folders, of the one before.

    Only code counts: a changelog or a version file is touched by whatever happens.
    """
    if len(commits) == 1:
        return 0.6  # nothing to cohere: between work on one thing and work on unrelated ones
    shared: list[float] = []
    for left, right in itertools.pairwise(commits):
        a, b = ({change.path for change in commit.changes if is_code(change.path)} for commit in (left, right))
        folders = {_folder(path, 9) for path in a} & {_folder(path, 9) for path in b}
        shared.append(1.0 if a & b else 0.5 if folders else 0.0)
    return sum(shared) / len(shared)
