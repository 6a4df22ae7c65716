"""Small artifacts of documents and prompts for the tests of this room."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codeflow.core.config import Config
from codeflow.core.manifest import Counts, Manifest, begin, seal
from codeflow.core.records import write_records
from codeflow.core.types import Document, Origin, Prompt


def document(
    text: str, path: str = "a.py", *, fetched_at: str = "2020-01-01T00:00:00Z", language: str = "Python", **tags: float
) -> Document:
    """Return a document of the repository `shop` with the right id."""
    identity = hashlib.sha256(text.encode()).hexdigest()
    return Document(identity, text, language, Origin("package", "shop", "1", path, "", fetched_at), tags)


def write_documents(folder: Path, documents: Sequence[Document], per_shard: int = 100) -> Path:
    """Write a documents artifact."""
    begin(folder, "documents", Config(), {}, "test")
    for index, start in enumerate(range(0, max(len(documents), 1), per_shard)):
        write_records(folder / f"documents-{index:05d}.parquet", documents[start : start + per_shard], Document)
    seal(folder, Counts(read=len(documents), kept=len(documents)))
    return folder


def write_prompts(folder: Path, prompts: Sequence[Prompt]) -> Path:
    """Write a prompts artifact."""
    begin(folder, "prompts", Config(), {}, "test")
    write_records(folder / "prompts-00000.parquet", prompts, Prompt)
    seal(folder, Counts(read=len(prompts), kept=len(prompts)))
    return folder


def make(run: Any, config: Config, inputs: Mapping[str, Path], output: Path, **options: Any) -> Manifest:
    """Run a stage into a fresh or an unfinished `output`."""
    begin(output, "documents", config, {}, "test")
    return run(config, inputs, output, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a finished artifact."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
