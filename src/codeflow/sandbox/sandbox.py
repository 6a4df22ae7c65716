"""The interface that every back end shares, local or remote: start, write, read, exec, snapshot, reset, close."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from codeflow.sandbox.files import Snapshot
from codeflow.sandbox.policy import Limits
from codeflow.sandbox.result import Result

CHANNEL_VARIABLE = "CODEFLOW_CHANNEL"  # names the descriptor that results go to, apart from standard output


class Sandbox(Protocol):
    """A place to run untrusted code in. Files lie in its working folder; paths are relative to that.

    One execution at a time. Use as an asynchronous context manager.
    """

    python: tuple[str, ...]  # how to start its Python interpreter, isolated from environment and site packages

    async def start(self) -> None:
        """Make it ready. Raises InfrastructureError when it cannot be."""
        ...

    async def write(self, path: str, data: bytes) -> None:
        """Put a file there for the following executions. Raises ValueError for a path that leaves the folder."""
        ...

    async def read(self, path: str) -> bytes:
        """Return a file written here, or left by the last execution that kept its files. Raises FileNotFoundError."""
        ...

    async def exec(
        self,
        argv: Sequence[str],
        stdin: bytes = b"",
        limits: Limits | None = None,
        channel: bool = False,
        keep_files: bool = False,
    ) -> Result:
        """Run a program to its end or to its limits.

        With `channel`, the variable CODEFLOW_CHANNEL names a descriptor whose bytes become `Result.channel`.
        With `keep_files`, the regular files that the program leaves in its working folder stay for `read` and later
        executions, if it ends by itself.
        """
        ...

    async def snapshot(self) -> Snapshot:
        """Return the files as they are now."""
        ...

    async def reset(self, snapshot: Snapshot | None = None) -> None:
        """Go back to a snapshot's files; without one, to an empty folder."""
        ...

    async def close(self) -> None:
        """Give everything back. Harmless when called twice."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
