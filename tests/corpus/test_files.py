"""The stage `files`: folders, notebooks and tables as documents, counted, the same bytes each time."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("nbformat")

from codeflow.core.config import validate
from codeflow.core.errors import UserError
from codeflow.core.manifest import Manifest, begin
from codeflow.core.records import read_shards
from codeflow.core.types import Document
from codeflow.corpus import files
from codeflow.corpus.files import FilesConfig, run, world
from codeflow.execute import local

_CELL = {"cell_type": "code", "source": "x = 1", "metadata": {}, "outputs": []}
_NOTEBOOK = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [_CELL]}
_FILES = {
    "src/a.py": b"# SPDX-License-Identifier: MIT\nx = 1\n",
    "src/b.go": b"package b\n",
    "README.md": b"# Words\n",
    "notes.ipynb": json.dumps(_NOTEBOOK).encode(),
    "broken.ipynb": b"{",
    "vendor/c.js": b"f();\n",
    ".git/config": b"[core]\n",
    "data.csv": b"a,b\n",
    "picture.png": b"\x89PNG\0",
    "empty.py": b"\n",
    "latin.py": "# ü\n".encode("latin-1"),
    "large.py": b"x = 1\n" * 500,
    "strange.xyz": b"words\n",
    "rows.jsonl": b'{"text": "Words."}\n{"content": "y = 2\\n", "path": "y.py", "license": "ISC"}\nbroken\n',
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(local, "default_workers", lambda: 1)
    project = tmp_path / "project"
    for path, content in _FILES.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_bytes(content)
    (project / "link.py").symlink_to("src/a.py")
    pq.write_table(pa.table({"content": ["z = 3\n", None], "path": ["z.py", "q.py"]}), project / "rows.parquet")
    return project


def read(output: Path, place: str, **fields: object) -> tuple[Manifest, list[Document]]:
    config = validate(FilesConfig, {"files": [place], "max_file_bytes": 2000, **fields})
    begin(output, "documents", config, {}, "k")
    return run(config, {}, output), list(read_shards(output, "documents", Document))


def test_documents_and_reasons(folder: Path, tmp_path: Path) -> None:
    manifest, documents = read(tmp_path / "out", str(folder), licence="Apache-2.0")
    found = {document.origin.path: document for document in documents}
    assert {path: (d.language, d.origin.licence, d.origin.source) for path, d in found.items()} == {
        "README.md": ("Markdown", "Apache-2.0", "files"),
        "notes.ipynb": ("Python", "Apache-2.0", "files"),
        "src/a.py": ("Python", "MIT", "files"),
        "src/b.go": ("Go", "Apache-2.0", "files"),
        "vendor/c.js": ("JavaScript", "Apache-2.0", "files"),
        "": ("Text", "", "table"),
        "y.py": ("Python", "ISC", "table"),
        "z.py": ("Python", "", "table"),
    }
    assert found["notes.ipynb"].text == "# %%\nx = 1\n"
    assert found["vendor/c.js"].tags == {"vendored": 1}
    assert found["src/a.py"].origin.repository == "project"
    assert found["src/a.py"].origin.fetched_at.endswith("Z")
    assert manifest.counts.dropped == {
        "binary": 1,
        "domain_data": 1,
        "empty": 1,
        "invalid_utf8": 1,
        "json_line_damaged": 1,
        "language_unknown": 1,
        "notebook_damaged": 1,
        "row_without_text": 1,
        "symlink": 1,
        "too_large": 1,
        "version_control": 1,
    }
    assert manifest.counts.read == manifest.counts.kept + sum(manifest.counts.dropped.values())
    assert not any(str(tmp_path) in repr(document) for document in documents)


def test_other_places_and_settings(folder: Path, tmp_path: Path) -> None:
    with fsspec.open("memory://bucket/code/a.py", "wb") as file:
        file.write(b"a = 1\n")  # type: ignore[union-attr]
    _, documents = read(tmp_path / "memory", "memory://bucket/code")
    assert [(d.origin.repository, d.origin.path, d.text) for d in documents] == [("code", "a.py", "a = 1\n")]
    _, documents = read(tmp_path / "named", f"{folder}/src/*.py", repository="mine", domains=["code"])
    assert [(d.origin.repository, d.origin.path) for d in documents] == [("mine", "a.py")]
    _, documents = read(tmp_path / "markdown", f"{folder}/*.ipynb", notebooks="markdown")
    assert [(d.language, d.text) for d in documents] == [("Markdown", "```python\nx = 1\n```\n")]


def test_same_bytes_for_any_number_of_workers(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_SHARD_BYTES", 40)
    first, _ = read(tmp_path / "one", str(folder))
    assert len([name for name in first.files if name.startswith("documents")]) > 4
    monkeypatch.setattr(local, "default_workers", lambda: 2)
    assert read(tmp_path / "two", str(folder))[0] == first


def test_the_world_and_what_is_wrong_with_it(folder: Path, tmp_path: Path) -> None:
    before = world(FilesConfig(files=(str(folder),)))
    (folder / "src/a.py").write_text("x = 22222\n")
    assert world(FilesConfig(files=(str(folder),))) != before
    with pytest.raises(UserError, match="no file is named"):
        run(FilesConfig(), {}, tmp_path / "out")
    (folder / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"rows.parquet is not a readable Parquet file"):
        read(tmp_path / "damaged", str(folder))
