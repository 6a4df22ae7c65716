"""`git log --raw` of a repository, read as a stream: commits and the objects on both sides of their changes.

Merges are compared with their first parent. Texts are UTF-8; bytes that are not are kept as surrogate escapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from codeflow.core.errors import UserError
from codeflow.corpus.git_program import stream, token_lists
from codeflow.corpus.git_repository import Repository

ABSENT = frozenset(("0" * 40, "0" * 64))  # the object of a side that is not there
_FORMAT = "%H%x00%P%x00%at%x00%B%x00"

RawEntry = tuple[str, str, str, str, str, str, str]
"""Status (A, M, D, R or T), old mode, mode, old object, object, old path, path. A plain tuple: there are very many."""


class RawCommit(NamedTuple):
    """One commit of `git log --raw`, without contents."""

    sha: str
    parents: tuple[str, ...]
    author_seconds: int
    message: str
    entries: list[RawEntry]


def raw_commits(
    repository: Repository, n: int, skip: int = 0, first_parent: bool = True, rename_similarity: int = 50
) -> Iterator[RawCommit]:
    """Yield the newest `n` commits before the newest `skip`, oldest first, as `git log --raw` prints them.

    Without `first_parent`, the commits of merged branches too. Raises UserError when git cannot read them.
    """
    arguments = ["log", "--raw", "-z", "--no-abbrev", "--reverse", f"-M{rename_similarity}%"]
    arguments += ["-l2000", "--diff-merges=first-parent", "--no-ext-diff", "--no-textconv", "--no-color"]
    arguments += ["--encoding=UTF-8", "--no-notes", "--no-mailmap", "--no-decorate", f"--format={_FORMAT}"]
    arguments += ["--first-parent"] if first_parent else ["--topo-order"]
    arguments += [f"--skip={skip}", f"--max-count={n}", repository.head, "--"]
    with stream(arguments, repository.folder) as process:
        assert process.stdout
        yield from parse_log(token_lists(process.stdout))
        if process.wait():
            raise UserError(f"git log failed on {repository.name}; check it with 'git fsck'")


def parse_log(lists: Iterable[list[str]]) -> Iterator[RawCommit]:
    """Parse the NUL-separated tokens of `git log --raw -z` in our format, in lists as they come."""
    tokens = chain.from_iterable(lists)
    sha = next(tokens, "")
    while sha:
        parents, seconds, message = next(tokens), next(tokens), next(tokens)
        next(tokens, "")  # the end of the header
        entries: list[RawEntry] = []
        token = next(tokens, "").removeprefix("\n")
        while token[:1] == ":":
            old_mode, mode, old_sha, new_sha, status = token[1:].split(" ")
            old_path = path = next(tokens)
            status = status[0]
            if status in "RC":
                path = next(tokens)
            entries.append((status, old_mode, mode, old_sha, new_sha, old_path, path))
            token = next(tokens, "")
        yield RawCommit(
            sha,
            tuple(parents.split(" ")) if parents else (),
            int(seconds) if seconds.removeprefix("-").isdecimal() else 0,
            message,
            entries,
        )
        sha = token


def is_utf8(text: str) -> bool:
    """Say whether a text of the log was UTF-8 in the repository."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def readable(text: str) -> str:
    """Return a text of the log with replacement characters for what was not UTF-8."""
    return text if is_utf8(text) else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
