"""The replay buffer: the best documents of every language, by quality, within a budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from codeflow.core.config import validate
from codeflow.core.errors import UserError
from codeflow.core.manifest import Manifest, begin
from codeflow.core.records import read_shards, write_records
from codeflow.core.types import Document, Origin, Sample
from codeflow.train.replay import ReplayConfig, run


def _documents(folder: Path, n_files: int) -> dict[str, Document]:
    """Twenty Python documents, ten in prose, one that is not rated; every other one twice as long."""
    documents = []
    for number in range(30):
        language = "Python" if number < 20 else "Text"
        text = f"x_{number:02d} = 1\n" * (1 + number % 2)
        tags = {"quality": (number * 7 % 20) / 20 if number < 20 else 0.1 + number / 1000}
        documents.append(Document(f"{number:02d}", text, language, Origin("git", "r", "1", "p", "MIT", ""), tags))
    documents.append(Document("30", "y = 2\n", "Python", Origin("git", "r", "1", "p", "MIT", ""), {}))
    for number in range(n_files):
        write_records(folder / f"documents-{number:05d}.parquet", documents[number::n_files], Document)
    return {document.id: document for document in documents}


def _replay(folder: Path, documents: Path, **fields: object) -> tuple[Manifest, list[Sample]]:
    config = validate(ReplayConfig, fields)
    begin(folder, "samples", config, {}, "k")
    manifest = run(config, {"documents": documents}, folder)
    return manifest, sorted(read_shards(folder, "replay", Sample), key=lambda sample: sample.id)


def test_the_best_of_every_language_are_taken(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    documents = _documents(tmp_path / "documents", 2)
    manifest, samples = _replay(tmp_path / "out", tmp_path / "documents", share=0.3)
    taken = [documents[sample.id.removeprefix("replay/")] for sample in samples]
    for language in ("Python", "Text"):
        every = [d for d in documents.values() if d.language == language and d.tags]
        mine = [d for d in taken if d.language == language]
        worst = min(d.tags["quality"] for d in mine)
        assert {d.id for d in mine} == {d.id for d in every if d.tags["quality"] >= worst}
        assert sum(len(d.text) for d in mine) <= 0.3 * sum(len(d.text) for d in every)
        assert manifest.metrics["least_quality"][language] == worst
        assert manifest.metrics["documents"][language] == len(mine)
    assert manifest.counts.dropped["not_rated"] == 1
    assert manifest.counts.read == manifest.counts.kept + sum(manifest.counts.dropped.values()) == 31
    assert {sample.phase for sample in samples} == {"replay"}
    (tmp_path / "other").mkdir()
    _documents(tmp_path / "other", 5)
    assert _replay(tmp_path / "again", tmp_path / "other", share=0.3)[1] == samples


def test_a_budget_shrinks_the_share_and_one_document_is_always_taken(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    documents = _documents(tmp_path / "documents", 1)
    manifest, samples = _replay(tmp_path / "out", tmp_path / "documents", share=1.0, max_characters=40)
    assert manifest.metrics["characters"] <= 60
    assert {documents[s.id.removeprefix("replay/")].language for s in samples} == {"Python", "Text"}


def test_nothing_is_rated(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    _documents(tmp_path / "documents", 1)
    with pytest.raises(UserError, match="no document has the tag 'beauty'"):
        _replay(tmp_path / "out", tmp_path / "documents", quality_tag="beauty")
