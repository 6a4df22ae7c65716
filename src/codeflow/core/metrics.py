"""Metrics as JSON lines: one object per training step or event, appended, cut back when a run resumes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codeflow.core.storage import write_bytes


class MetricsLog:
    """An append-only JSON-lines file whose rows carry a `step`."""

    def __init__(self, path: Path, resume_after_step: int = 0) -> None:
        """Open `path`; rows after `resume_after_step` (and a torn last line) are cut off."""
        kept = [row for row in read_metrics(path) if row["step"] <= resume_after_step] if path.exists() else []
        write_bytes(path, b"".join(_line(row) for row in kept))
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  lives as long as the log

    def write(self, step: int, **values: Any) -> None:
        """Append one row; the operating system has it when this returns."""
        self._file.write(_line({"step": step, **values}))

    def sync(self) -> None:
        """Return when all rows are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close the file."""
        self.sync()
        self._file.close()


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a metrics file; a torn last line (a kill during the write) is left out."""
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield json.loads(line)
