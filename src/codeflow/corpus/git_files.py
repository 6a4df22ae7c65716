"""Files of a git repository at a revision, read through git's object store; the work tree is never looked at.

One `git ls-tree -r -z` lists them, one `git cat-file --batch` reads them, however many there are.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.corpus.git_program import stream, token_lists

SYMLINK_MODE, GITLINK_MODE = "120000", "160000"
LFS_PREFIX = b"version https://git-lfs.github.com/spec/"
_REQUEST_BYTES = 65  # 64 hexadecimal digits at most, and the end of the line
_REQUESTS_AT_ONCE = 500  # fewer where the pipe is smaller than they are: neither side can block the other
_CHUNK_BYTES = 1 << 20
_FEW_BYTES, _MANY, _WAIT_SECONDS = 1 << 16, 64, 0.0005
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
        for token in chain.from_iterable(token_lists(process.stdout)):
            head, _, path = token.partition("\t")
            mode, _, sha, size = head.split()
            yield TreeEntry(path, mode, sha, int(size) if size.isdecimal() else 0)
        if process.wait():
            raise UserError(f"no revision '{revision}' in the repository '{repository.name}'; name a commit or branch")


class BlobReader:
    """One running `git cat-file --batch`, which may be asked ahead of what is read."""

    def __init__(self, process: subprocess.Popen[bytes], repository: Path) -> None:
        assert process.stdin
        self._repository = repository
        assert process.stdout
        self._requests, self._answers = process.stdin, process.stdout.fileno()
        capacity_bytes = fcntl.fcntl(process.stdin, fcntl.F_GETPIPE_SZ) if _LINUX else _PIPE_BYTES
        self._limit = max(1, min(_REQUESTS_AT_ONCE, capacity_bytes // _REQUEST_BYTES))
        self._refill = 3 * self._limit // 4  # above this, nothing would be sent
        self._unsent: deque[str] = deque()
        self._sent: deque[str] = deque()  # and not answered yet
        self._ready: deque[tuple[int, bytes | None]] = deque()  # answers that have come
        self._is_slow = False  # we wait for git, rather than git for us
        self._head = b""  # the first line of the next one, as far as it has come,
        self._begun: list[bytes] = []  # or its content, as far as it has come,
        self._n_bytes = self._n_missing = 0  # whole, and what is missing with the end of the line

    def ask(self, shas: Iterable[str]) -> None:
        """Ask for objects; `answer` then gives one after the other. They are read while the caller does other work."""
        self._unsent.extend(shas)
        self._send()

    def answer(self, max_bytes: int | None = None) -> tuple[str, int, bytes | None]:
        """Return (sha, n_bytes, content) of the next object that was asked for.

        Content is None where the object is missing (n_bytes -1: shallow, damaged) or larger than `max_bytes`. Raises
        InfrastructureError when git has ended, as it does at a damaged object.
        """
        if self._unsent and len(self._sent) <= self._refill:
            self._send()
        sha = self._sent.popleft()
        if not self._ready:
            self._receive(max_bytes)
        n_bytes, content = self._ready.popleft()
        return sha, n_bytes, None if max_bytes is not None and n_bytes > max_bytes else content

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

    def _receive(self, max_bytes: int | None) -> None:
        """Wait for at least one answer; take all that have come. One above `max_bytes` is thrown away as it comes."""
        while not self._ready:
            if self._is_slow and len(self._sent) >= _MANY:
                time.sleep(_WAIT_SECONDS)  # several answers at once: git need not wake us for each
            data = os.read(self._answers, _CHUNK_BYTES)
            if not data:
                raise self._broken()
            self._is_slow = len(data) < _FEW_BYTES
            if not self._n_missing:
                self._take(self._head + data if self._head else data, 0)
                continue
            part = data[: self._n_missing]
            self._n_missing -= len(part)
            too_large = max_bytes is not None and self._n_bytes > max_bytes
            self._begun = [] if too_large else [*self._begun, part]
            if not self._n_missing:
                self._ready.append((self._n_bytes, None if too_large else b"".join(self._begun)[:-1]))
                self._take(data, len(part))

    def _take(self, data: bytes, place: int) -> None:
        """Take the answers that `data` holds from `place` on, and the beginning of the next one."""
        ready, find, length = self._ready, data.find, len(data)
        while (end := find(b"\n", place)) >= 0:
            header = data[place:end].split()
            place = end + 1
            if len(header) == 3:
                n_bytes = int(header[2])
                end = place + n_bytes
                if end >= length:  # the end of the line is not there yet
                    self._n_bytes, self._n_missing = n_bytes, end + 1 - length
                    self._head, self._begun = b"", [data[place:]]
                    return
                ready.append((n_bytes, data[place:end]))
                place = end + 1
            elif len(header) == 2:  # "<sha> missing"
                ready.append((-1, None))
            else:
                raise self._broken()
        self._head = data[place:]

    def _broken(self) -> InfrastructureError:
        return InfrastructureError(
            f"git cat-file ended early in {self._repository}: an object there is damaged; "
            "see `git fsck`, or leave the repository out"
        )


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
