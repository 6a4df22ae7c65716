"""Rows of integers in files, parted by ranges of their first column: how corpus-wide steps exchange what none can hold.

A part is a file of 64-bit integers, appended to while rows come and read in chunks. Whoever works on a part may hold an
array over its range of numbers (`width` of them), and never anything over the whole corpus.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
_CHUNK_ROWS = 262_144


@dataclass(frozen=True)
class Spill:
    """Rows (R, n_columns) in `folder`; part p holds those whose first column is in [p * width, (p + 1) * width)."""

    folder: Path
    n_columns: int
    width: int

    def create(self) -> Spill:
        """Return self, empty; what an interrupted run left is removed."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return self

    def add(self, rows: Int64) -> None:
        """Append rows to their parts, in the order given."""
        assert rows.shape[1] == self.n_columns
        parts = rows[:, 0] // self.width
        for part in np.unique(parts).tolist():
            with open(self._path(part), "ab") as file:
                file.write(np.ascontiguousarray(rows[parts == part], np.int64).data)

    def parts(self) -> list[int]:
        """Return the numbers of the parts that hold rows, ascending."""
        return sorted(int(path.stem) for path in self.folder.glob("*.rows"))

    def chunks(self, part: int) -> Iterator[Int64]:
        """Yield the rows of a part in the order they came, a bounded number at a time."""
        if not self._path(part).exists():
            return
        with open(self._path(part), "rb") as file:
            while True:
                chunk = np.fromfile(file, np.int64, _CHUNK_ROWS * self.n_columns)
                if chunk.size == 0:
                    return
                yield chunk.reshape(-1, self.n_columns)

    def read(self, part: int) -> Int64:
        """Return all rows of a part."""
        return np.concatenate([np.empty((0, self.n_columns), np.int64), *self.chunks(part)])

    def _path(self, part: int) -> Path:
        return self.folder / f"{part:06d}.rows"


def distinct_rows(rows: Int64) -> Int64:
    """Return the rows (R, 2) sorted, each once."""
    ordered = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    first = np.ones(len(ordered), bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return ordered[first]
