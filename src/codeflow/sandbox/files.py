"""Files of a sandbox's working folder, kept by the parent between executions, each of which starts in a fresh one."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of a working folder at one moment, by relative path."""

    files: tuple[tuple[str, bytes], ...]


class CarriedFiles:
    """Reading, writing, going back, beginning and end; what the `Sandbox` methods of the same names do."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}

    async def write(self, path: str, data: bytes) -> None:
        self._files[inside(path)] = data

    async def read(self, path: str) -> bytes:
        try:
            return self._files[inside(path)]
        except KeyError:
            raise FileNotFoundError(f"{path}: not in the sandbox") from None

    async def snapshot(self) -> Snapshot:
        return Snapshot(tuple(self._files.items()))

    async def reset(self, snapshot: Snapshot | None = None) -> None:
        self._files = dict(snapshot.files) if snapshot else {}

    async def start(self) -> None:
        """Nothing to do, for back ends whose executions bring all that they need."""

    async def close(self) -> None:
        self._files = {}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def inside(path: str) -> str:
    """Return the normal form of a path in the working folder. Raises ValueError for one that leaves it."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\0" in path:
        raise ValueError(f"path={path!r}: must be relative and stay inside the sandbox's working folder")
    return str(pure)


def unpack(archive: bytes, limit_bytes: int) -> dict[str, bytes]:
    """Return the regular files of a tar archive that came from untrusted code; links and odd names are left out."""
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for member in tar:
                if not member.isreg() or member.size > limit_bytes:  # a sparse file says more than it holds
                    continue
                content = tar.extractfile(member)
                try:
                    files[inside(member.name.removeprefix("./"))] = content.read() if content else b""
                except ValueError:
                    continue
    except tarfile.TarError:
        return files
    return files
