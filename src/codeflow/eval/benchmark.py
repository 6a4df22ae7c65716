"""Where benchmark files are looked for: none is part of this project, a field or the environment names their folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from codeflow.core.errors import UserError
from codeflow.core.storage import sha256_file

BENCHMARKS_VARIABLE = "CODEFLOW_BENCHMARKS"


@dataclass(frozen=True, slots=True)
class BenchmarkFile:
    """An official benchmark file: its place under the benchmarks folder, where to get it, its licence."""

    name: str
    relative_path: str
    source: str
    licence: str

    def find(self, folder: Path | None) -> Path | None:
        """Return the file's path, or None where there is no folder or no such file in it."""
        path = folder / self.relative_path if folder else None
        return path if path and path.is_file() else None

    def absence(self, folder: Path | None) -> str:
        """Return one line that says what is missing and how to get it."""
        place = f"{folder}/{self.relative_path} is not there" if folder else f"{BENCHMARKS_VARIABLE} is not set"
        return f"{self.name}: {place}; get it from {self.source} ({self.licence}) as {self.relative_path}"


HUMANEVAL = BenchmarkFile("humaneval", "humaneval/HumanEval.jsonl.gz", "github.com/openai/human-eval", "MIT")
CRUXEVAL = BenchmarkFile("cruxeval", "cruxeval/cruxeval.jsonl", "github.com/facebookresearch/cruxeval", "MIT")


def benchmarks_folder(field: str | None) -> Path | None:
    """Return the folder of benchmark files: the field, else `CODEFLOW_BENCHMARKS`, else None.

    Raises UserError when the folder that was named does not exist.
    """
    named = field or os.environ.get(BENCHMARKS_VARIABLE) or ""
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        origin = "field benchmarks" if field else BENCHMARKS_VARIABLE
        raise UserError(f"{origin}={named}: no such folder; name one that holds benchmark files, or none")
    return folder


def fingerprint(files: tuple[BenchmarkFile, ...], folder: Path | None) -> str:
    """Return a text that changes whenever one of the files appears, vanishes or changes."""
    found = [(file.name, file.find(folder)) for file in files]
    return " ".join(f"{name}:{sha256_file(path) if path else 'absent'}" for name, path in found)
