"""Files of a git repository at a revision, read through git's object store; the work tree is never looked at.

One `git ls-tree -r -z` lists them, one `git cat-file --batch` reads them, however many there are.
"""

from __future__ import annotations

import fcntl
import subprocess
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.corpus.git_program import stream, tokens

SYMLINK_MODE, GITLINK_MODE = "120000", "160000"
LFS_PREFIX = b"version https://git-lfs.github.com/spec/"
_REQUEST_BYTES = 65  # 64 hexadecimal digits at most, and the end of the line
_REQUESTS_AT_ONCE = 500  # fewer where the pipe is smaller than they are: neither side can block the other
_CHUNK_BYTES = 1 << 20
_LINUX = hasattr(fcntl, "F_GETPIPE_SZ")
_PIPE_BYTES = 1 << 14  # of a pipe that does not tell: macOS has no less


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One path of a tree."""

    path: str  # bytes that are not UTF-8 are kept as surrogate escapes
    mode: str
    sha: str
    n_bytes: int  # 0 for a gitlink, and for an object that is not there (partial clones)


def tree_entries(repository: Path, revision: str = "HEAD") -> Iterator[TreeEntry]:
    """Yield the files, symlinks and gitlinks at `revision`. Raises UserError when there is no such revision."""
    with stream(["ls-tree", "-r", "-z", "-l", "--full-tree", "--end-of-options", revision], repository) as process:
        assert process.stdout
        for token in tokens(process.stdout):
            head, _, path = token.partition(b"\t")
            mode, _, sha, size = head.decode().split()
            yield TreeEntry(path.decode("utf-8", "surrogateescape"), mode, sha, int(size) if size.isdigit() else 0)
        if process.wait():
            raise UserError(f"no revision '{revision}' in the repository '{repository.name}'; name a commit or branch")


class BlobReader:
    """One running `git cat-file --batch`, which may be asked ahead of what is read."""

    def __init__(self, process: subprocess.Popen[bytes], repository: Path) -> None:
        assert process.stdin
        self._repository = repository
        assert process.stdout
        self._requests, self._answers = process.stdin, process.stdout
        capacity_bytes = fcntl.fcntl(process.stdin, fcntl.F_GETPIPE_SZ) if _LINUX else _PIPE_BYTES
        self._limit = max(1, min(_REQUESTS_AT_ONCE, capacity_bytes // _REQUEST_BYTES))
        self._unsent: deque[str] = deque()
        self._sent: deque[str] = deque()  # and not answered yet

    def ask(self, shas: Iterable[str]) -> None:
        """Ask for objects; `answer` then gives one after the other. They are read while the caller does other work."""
        self._unsent.extend(shas)
        self._send()

    def answer(self, max_bytes: int | None = None) -> tuple[str, int, bytes | None]:
        """Return (sha, n_bytes, content) of the next object that was asked for.

        Content is None where the object is missing (n_bytes -1: shallow, damaged) or larger than `max_bytes`. Raises
        InfrastructureError when git has ended, as it does at a damaged object.
        """
        self._send()
        sha = self._sent.popleft()
        header = self._answers.readline().split()
        if len(header) == 2:  # "<sha> missing"
            return sha, -1, None
        if len(header) != 3:
            raise self._broken()
        n_bytes = int(header[2])
        if max_bytes is not None and n_bytes > max_bytes:
            _skip(self._answers, n_bytes + 1)
            return sha, n_bytes, None
        content = self._answers.read(n_bytes)
        if not self._answers.read(1):
            raise self._broken()
        return sha, n_bytes, content

    def read(self, shas: Collection[str], max_bytes: int | None = None) -> Iterator[tuple[str, int, bytes | None]]:
        """Yield the answers for each of `shas` in order. The iterator must be read to its end."""
        self.ask(shas)
        for _ in shas:
            yield self.answer(max_bytes)

    def _send(self) -> None:
        """Send what waits: not one by one, as each wakes git, and before git has nothing left to do."""
        n = min(len(self._unsent), self._limit - len(self._sent))
        if not n or (4 * n < self._limit and 8 * len(self._sent) > self._limit):
            return
        part = [self._unsent.popleft() for _ in range(n)]
        self._sent.extend(part)
        try:
            self._requests.write("".join(sha + "\n" for sha in part).encode("ascii"))
            self._requests.flush()
        except BrokenPipeError:
            raise self._broken() from None

    def _broken(self) -> InfrastructureError:
        return InfrastructureError(
            f"git cat-file ended early in {self._repository}: an object there is damaged; "
            "see `git fsck`, or leave the repository out"
        )


def _skip(pipe: IO[bytes], n_bytes: int) -> None:
    while n_bytes > 0:
        n_read = len(pipe.read(min(n_bytes, _CHUNK_BYTES)))
        if not n_read:
            return
        n_bytes -= n_read


@contextmanager
def blob_reader(repository: Path) -> Iterator[BlobReader]:
    """Start a reader of blobs by sha; git ends with the block."""
    with stream(["cat-file", "--batch"], repository, stdin=subprocess.PIPE) as process:
        yield BlobReader(process, repository)


def files_at(repository: Path, revision: str, paths: Iterable[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of the regular files at `revision`, in git's order, all or those named in `paths`.

    Symlinks, gitlinks and missing objects are left out. Raises UserError when there is no such revision.
    """
    wanted = None if paths is None else set(paths)
    entries = [
        entry
        for entry in tree_entries(repository, revision)
        if entry.mode not in (SYMLINK_MODE, GITLINK_MODE) and (wanted is None or entry.path in wanted)
    ]
    with blob_reader(repository) as reader:
        answers = reader.read([entry.sha for entry in entries])
        for entry, (_, _, content) in zip(entries, answers, strict=True):
            if content is not None:
                yield entry.path, content
