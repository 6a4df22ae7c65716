"""The git program, started so that a repository's content and configuration cannot make it do anything but read.

No shell, no hooks, no pagers, no external diff programs, no prompts, no lazy fetching, none of the user's or the
system's configuration (it would change the output), and no transport unless a clone asks for one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, cast

from codeflow.core.errors import UserError

_SETTINGS = (
    "safe.directory=*",  # the files are only read, by us
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.quotePath=false",
    "core.attributesFile=/dev/null",
    "log.showSignature=false",
    "diff.orderFile=/dev/null",
    "diff.ignoreSubmodules=none",
    "gc.auto=0",
    "maintenance.auto=false",
    "protocol.allow=never",
    "color.ui=false",
)
FETCH_PROTOCOLS = "https:ssh:file"
_CHUNK_BYTES = 1 << 20


def command(arguments: Sequence[str], folder: Path | None = None) -> list[str]:
    """Return the argument list that runs git with `arguments` on the repository in `folder`. UserError without git."""
    program = shutil.which("git")
    if program is None:
        raise UserError("the program 'git' is not installed; install it (Debian: apt install git)")
    settings = [part for setting in _SETTINGS for part in ("-c", setting)]
    place = ["-C", str(folder)] if folder else []
    return [program, "--no-pager", *settings, *place, *arguments]


def environment(folder: Path | None = None, fetch: bool = False) -> dict[str, str]:
    """Return the environment that git runs in; with `fetch` the user's own credentials and proxies apply."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    kept |= {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_ALLOW_PROTOCOL": FETCH_PROTOCOLS if fetch else "none",
        "LC_ALL": "C",
        "TZ": "UTC",
    }
    if fetch:
        kept["GIT_SSH_COMMAND"] = "ssh -oBatchMode=yes"
    else:
        kept["GIT_CONFIG_GLOBAL"] = "/dev/null"
    if folder is not None:  # a folder inside a larger repository is not itself one
        kept["GIT_CEILING_DIRECTORIES"] = str(folder.resolve().parent)
    return kept


def git(
    arguments: Sequence[str], folder: Path | None = None, fetch: bool = False, timeout_seconds: float | None = 60
) -> tuple[int, bytes, str]:
    """Run git to its end; return exit status, standard output and the last line of its complaint."""
    try:
        done = subprocess.run(
            command(arguments, folder),
            env=environment(folder, fetch),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, b"", f"no answer within {timeout_seconds:g} s"
    complaint = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return done.returncode, done.stdout, complaint[-1] if complaint else ""


@contextmanager
def stream(
    arguments: Sequence[str], folder: Path, stdin: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """Start git with its standard output as a pipe; leaving the block closes its pipes, which ends it."""
    with subprocess.Popen(
        command(arguments, folder),
        env=environment(folder),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a full pipe that nobody reads would stop git
        bufsize=_CHUNK_BYTES,
    ) as process:
        with contextlib.suppress(OSError):  # the user's pipes may hold no more: git then waits for us more often
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _CHUNK_BYTES)  # type: ignore[arg-type]
        try:
            yield process
        finally:
            if process.stdin:
                with contextlib.suppress(BrokenPipeError):  # it has ended before it took all; the reader says so
                    process.stdin.close()


def token_lists(pipe: IO[bytes]) -> Iterator[list[str]]:
    """Yield the NUL-terminated tokens of a pipe as they come, some at once; what is not UTF-8 as surrogate escapes."""
    rest, buffered = b"", cast(BufferedReader, pipe)
    while chunk := buffered.read1(_CHUNK_BYTES):
        whole, found, last = chunk.rpartition(b"\0")
        if found:
            yield (rest + whole).decode("utf-8", "surrogateescape").split("\0")
            rest = last
        else:
            rest += chunk
    if rest:
        yield [rest.decode("utf-8", "surrogateescape")]
