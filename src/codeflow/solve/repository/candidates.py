"""Commits that could be tasks: source and tests changed together, in text, and not too much of it.

The steps of the main line are read, as histories are (`corpus/git_history.py`): a merged branch is one change against
its first parent. A commit's test side is its tests, their data and what steers them; all else is its source side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from codeflow.core.errors import UserError
from codeflow.corpus.git_files import BlobReader
from codeflow.corpus.git_log import RawCommit, RawEntry, is_utf8, raw_commits, readable
from codeflow.corpus.git_program import git
from codeflow.corpus.git_repository import Repository
from codeflow.solve.repository.verdict import STEERING, is_test_path

_TRAILERS = ("co-authored-by:", "signed-off-by:", "reviewed-by:", "change-id:", "merge pull request ", "merge branch ")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One commit: its parent is the base, `sources` and `tests` its two sides as (path, blob hash or "")."""

    sha: str
    parent: str
    seconds: int  # author time
    message: str
    sources: tuple[tuple[str, str], ...]
    tests: tuple[tuple[str, str], ...]
    test_files: tuple[str, ...]  # those that pytest collects


def candidates(
    repository: Repository, max_commits: int, max_source_files: int, dropped: Counter[str]
) -> Iterator[Candidate]:
    """Yield the candidates among the newest commits, newest first; count the others by reason."""
    boundary = _boundary(repository)
    commits = list(raw_commits(repository, max_commits))
    for commit in reversed(commits):
        found = _candidate(commit, max_source_files)
        if commit.sha in boundary or (commit.parents and commit.parents[0] in boundary and repository.shallow):
            found = "no parent here"
        if isinstance(found, str):
            dropped[found] += 1
        else:
            yield found


def _boundary(repository: Repository) -> frozenset[str]:
    if not repository.shallow:
        return frozenset()
    status, output, _ = git(["rev-list", "--max-parents=0", repository.head], repository.folder)
    return frozenset(output.decode().split()) if status == 0 else frozenset()


def _candidate(commit: RawCommit, max_source_files: int) -> Candidate | str:
    if not commit.parents:
        return "no parent"
    sides: dict[bool, dict[str, str]] = {True: {}, False: {}}
    for entry in commit.entries:
        problem = _enter(sides, entry)
        if problem:
            return problem
    sources, tests = sides[False], sides[True]
    code = [path for path in sources if path.endswith(".py")]
    files = tuple(sorted(path for path, sha in tests.items() if sha and _is_collected(path)))
    if not code:
        return "no source changed"
    if not files:
        return "no test changed"
    if len(code) > max_source_files:
        return "too many source files"
    return Candidate(
        sha=commit.sha,
        parent=commit.parents[0],
        seconds=commit.author_seconds,
        message=readable(commit.message),
        sources=tuple(sorted(sources.items())),
        tests=tuple(sorted(tests.items())),
        test_files=files,
    )


def _enter(sides: dict[bool, dict[str, str]], entry: RawEntry) -> str:
    """Put one changed path on its side; say why it cannot be."""
    status, old_mode, mode, _, sha, old_path, path = entry
    if not (is_utf8(path) and is_utf8(old_path)):
        return "odd path"
    if status not in "AMDR" or not path.isprintable() or not old_path.isprintable():
        return "odd change"
    if {"120000", "160000"} & {old_mode, mode}:
        return "link or submodule changed"
    if status == "R":
        sides[is_test_path(old_path)][old_path] = ""
    sides[is_test_path(path)][path] = "" if status == "D" else sha
    return ""


def _is_collected(path: str) -> bool:
    name = PurePosixPath(path).name
    return name not in STEERING and name.endswith(".py") and (name.startswith("test_") or name.endswith("_test.py"))


def texts(side: tuple[tuple[str, str], ...], reader: BlobReader, max_bytes: int) -> dict[str, str | None] | str:
    """Return one side's texts by path (None: deleted), or why they cannot be had."""
    found: dict[str, str | None] = {path: None for path, sha in side if not sha}
    present = [(path, sha) for path, sha in side if sha]
    problem = ""
    for (path, _), (_, n_bytes, content) in zip(
        present, reader.read([sha for _, sha in present], max_bytes), strict=True
    ):
        if content is None:
            problem = problem or ("too large" if n_bytes > 0 else "object missing")
            continue
        try:
            found[path] = content.decode("utf-8")
        except UnicodeDecodeError:
            problem = problem or "binary or not UTF-8"
        if b"\0" in content:
            problem = problem or "binary or not UTF-8"
    return problem or found


def described(repository: Repository, candidate: Candidate) -> str:
    """Return what the commits of a step say, oldest first, without trailers and lines of merges."""
    status, output, _ = git(
        ["log", "--reverse", "--no-merges", "--format=%B%x00", f"{candidate.parent}..{candidate.sha}"],
        repository.folder,
    )
    said = output.decode("utf-8", "replace").split("\0") if status == 0 else []
    found: list[str] = []
    for message in [*said, candidate.message] if len(said) != 2 else said:
        lines = [line.rstrip() for line in message.strip().splitlines() if not line.lower().startswith(_TRAILERS)]
        text = "\n".join(lines).strip()
        if text and text not in found:
            found.append(text)
    return "\n\n".join(found)


def tree_id(repository: Repository, revision: str) -> str:
    """Return git's hash of a commit's tree. Raises UserError when there is no such commit."""
    status, output, complaint = git(["rev-parse", "--verify", f"{revision}^{{tree}}"], repository.folder)
    if status:
        raise UserError(f"no commit '{revision}' in {repository.name} ({complaint}); fetch the whole history")
    return output.decode().strip()


def nearest_version(repository: Repository, revision: str) -> str:
    """Return the version in the nearest tag before a commit, or ""."""
    status, output, _ = git(["describe", "--tags", "--abbrev=0", revision], repository.folder)
    version = output.decode("utf-8", "replace").strip().lstrip("vV").rpartition("/")[2] if status == 0 else ""
    return version if version[:1].isdigit() and all(c.isalnum() or c in ".+!-_" for c in version) else ""
