"""A repository that an agent works in: files to read and write, commands to run, and what has changed.

The parent holds the changes; each command runs in a sandbox of its own, without network, on a fresh copy with the
changes in place, and what differs afterwards are the changes from then on. So nothing runs between commands, and a
command that hangs or breaks the copy loses its own work only. Paths are looked up in a table, never on the host's disk:
a link leads nowhere.
"""

from __future__ import annotations

import json
import marshal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from codeflow.sandbox.files import inside, unpack
from codeflow.sandbox.local import open_sandbox
from codeflow.sandbox.policy import MIB
from codeflow.sandbox.result import Status
from codeflow.solve.repository.runs import BASE, DRIVER, PACKAGES, ROOTS, Changes, Place, backend, limits_of

_MOST_CHANGED_BYTES = 32 * MIB
_SPARE_SECONDS = 10.0  # for the copy and for finding the changes
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Ran:
    """A command's exit code (None: it did not end in time, or not by itself) and what it printed, cut in the middle.

    `fault` is "infrastructure" when the sandbox failed; then nothing has changed.
    """

    exit_code: int | None
    output: str
    seconds: float
    fault: str = ""


class Workspace:
    """One attempt's own copy of a repository."""

    def __init__(self, place: Place, changes: Changes | None = None) -> None:
        self.place = place
        self._changes: dict[str, bytes | None] = dict(changes or {})
        files = place.tree.files
        found = (path for path in files.rglob("*") if not path.is_symlink() and path.is_file())
        self._origin = {path.relative_to(files).as_posix(): path for path in found}

    @property
    def changes(self) -> dict[str, bytes | None]:
        """What differs from the repository: contents by path, None for files that are gone."""
        return dict(self._changes)

    @property
    def paths(self) -> list[str]:
        """All files, sorted."""
        there = {*self._origin, *self._changes}
        return sorted(path for path in there if self._changes.get(path, b"") is not None)

    def read(self, path: str) -> bytes:
        """Return a file's content. Raises FileNotFoundError, and ValueError for a path that leaves the folder."""
        name = inside(path)
        if name in self._changes:
            content = self._changes[name]
            if content is None:
                raise FileNotFoundError(name)
            return content
        if name not in self._origin:
            raise FileNotFoundError(name)
        return self._origin[name].read_bytes()

    def write(self, path: str, content: bytes) -> None:
        """Set a file's content. Raises ValueError for a path that leaves the folder, or goes through a file."""
        name = inside(path)
        there = set(self.paths)
        through = next((str(parent) for parent in PurePosixPath(name).parents if str(parent) in there), None)
        if through or any(other.startswith(f"{name}/") for other in there):
            raise ValueError(f"path={path!r}: {through or name} is " + ("a file" if through else "a folder"))
        if name in self._origin and self._origin[name].read_bytes() == content:
            self._changes.pop(name, None)
        else:
            self._changes[name] = content

    async def run(self, argv: Sequence[str], seconds: float, output_bytes: int = 100_000) -> Ran:
        """Run a program in the folder and take over what it changes.

        Beyond 32 MiB of changed files nothing is taken over, and the output says so.
        """
        job = {
            "base": BASE,
            "deleted": [path for path, content in self._changes.items() if content is None],
            "argv": list(argv),
            "seconds": seconds,
            "output_bytes": output_bytes,
            "environment": {"PYTHONPATH": ":".join((*ROOTS, PACKAGES)), "GIT_CEILING_DIRECTORIES": "/"},
        }
        limits = replace(limits_of(seconds + _SPARE_SECONDS), output_bytes=_MOST_CHANGED_BYTES + 4 * output_bytes)
        attempt = 1
        while True:
            async with open_sandbox(self.place.policy(), backend()) as sandbox:
                for path, content in self._changes.items():
                    if content is not None:
                        await sandbox.write(path, content)
                line = [*sandbox.python, "-c", DRIVER]
                result = await sandbox.exec(line, stdin=marshal.dumps(job, 4), limits=limits, channel=True)
            if result.status is not Status.INFRASTRUCTURE:
                break
            if attempt == _ATTEMPTS:
                return Ran(None, "", result.wall_seconds, "infrastructure")
            attempt += 1
        head, _, archive = result.channel.partition(b"\n")
        try:
            code, output, gone = json.loads(head)
            names = [inside(str(path)) for path in gone]
        except (ValueError, TypeError):
            code, output, names = None, f"[the command did not end well: {result.status}]", None
        if names is None or result.status is Status.OUTPUT:
            lost = "\n[too much has changed, or the sandbox's limits were reached: files are as before]"
            return Ran(None, f"{output}{lost}", result.wall_seconds)
        self._take_over(unpack(archive, _MOST_CHANGED_BYTES), names)
        return Ran(code if isinstance(code, int) else None, str(output), result.wall_seconds)

    def _take_over(self, changed: dict[str, bytes], gone: Sequence[str]) -> None:
        self._changes = {path: content for path, content in changed.items() if ".git" not in PurePosixPath(path).parts}
        self._changes |= {path: None for path in gone if path in self._origin}
