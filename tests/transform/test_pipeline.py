"""The stage on a small artifact: counts, bytes, secrets in dropped documents; the chain on any text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.core.config import apply_overrides
from codeflow.core.manifest import Counts, begin, seal
from codeflow.core.records import read_shards, write_records
from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, DroppedDocument, Origin
from codeflow.transform import pipeline
from codeflow.transform.operator import Drop, with_tags, with_text
from codeflow.transform.pipeline import CleanConfig, Tally, apply, run, transform

GOOD = "".join(f"def area_{n}(width, height):\n    return width * height + offset_{n}\n\n\n" for n in "abcdefgh")


def make(text: str, name: str = "a.py", language: str = "Python") -> Document:
    return Document(sha256_text(text), text, language, Origin("project", "r", "", name, "", ""))


SHARDS = (
    [make(GOOD), make("x = 1\n"), make("# by jane@acme.com\r\n" + GOOD, "b.py"), make("def f(:\n" + GOOD, "c.py")],
    [make("# mail jane@acme.com\n"), make("", "e.py"), make(GOOD + "# Grüße\n", "f.py")],
    [],
)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    begin(folder, "documents", CleanConfig(), {}, "k")
    for number, shard in enumerate(SHARDS):
        write_records(folder / f"documents-{number:05d}.parquet", shard, Document)
    seal(folder, Counts())
    return folder


def stage(documents: Path, output: Path, config: CleanConfig | None = None) -> Path:
    config = config or CleanConfig()
    begin(output, "documents", config, {}, "k")
    run(config, {"documents": documents}, output)
    return output


def test_counts_notes_and_shards(documents: Path, tmp_path: Path) -> None:
    config = CleanConfig()
    begin(tmp_path / "out", "documents", config, {}, "k")
    manifest = run(config, {"documents": documents}, tmp_path / "out")
    assert manifest.counts.read == 7
    assert manifest.counts.kept == 3
    assert manifest.counts.dropped == {"filters/too_short": 3, "syntax_filters/syntax_errors": 1}
    assert manifest.counts.notes == {"repaired_end_of_file": 3, "repaired_newlines": 1, "secrets_email": 2}
    kept = list(read_shards(tmp_path / "out", "documents", Document))
    assert [document.origin.path for document in kept] == ["a.py", "b.py", "f.py"]
    assert all(document.id == sha256_text(document.text) for document in kept)
    assert kept[1].text.startswith("# by <EMAIL>\n")
    assert all(0 < document.tags["quality"] <= 1 for document in kept)
    dropped = list(read_shards(tmp_path / "out", "dropped", DroppedDocument))
    assert not any("@" in item.document.text for item in dropped)
    assert {item.document.origin.path for item in dropped} == {"a.py", "c.py", "e.py"}
    assert len(list((tmp_path / "out").glob("documents-*.parquet"))) == len(SHARDS)


def test_two_runs_give_the_same_bytes_for_any_number_of_workers(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stage(documents, tmp_path / "first")
    monkeypatch.setattr("codeflow.execute.local.default_workers", lambda: 1)
    second = stage(documents, tmp_path / "second")
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_operators_switch_off_by_override() -> None:
    config = apply_overrides(CleanConfig(), ["syntax.enabled=false", "filters.too_short.min_characters=5"])
    assert "syntax" not in [operator.name for operator in config.operators()]
    assert config.filters.too_short.min_characters == 5


def test_the_meter_sees_every_operator_and_changes_nothing() -> None:
    seen: list[str] = []
    operators = CleanConfig().operators()
    document, drop = apply(make(GOOD), operators, lambda name, _: seen.append(name))
    assert drop is None
    assert seen == [operator.name for operator in operators]
    assert (document, None) == apply(make(GOOD), operators)


def test_every_document_is_kept_or_dropped_once() -> None:
    tally, dropped = Tally(), []
    every = [document for shard in SHARDS for document in shard]
    kept = list(transform(every, CleanConfig().operators(), dropped.append, tally))
    counts = tally.counts()
    assert counts.read == counts.kept + sum(counts.dropped.values()) == len(every)
    assert (len(kept), len(dropped)) == (counts.kept, sum(counts.dropped.values()))


def test_ids_follow_texts() -> None:
    document = make("a\n")
    assert with_text(document, "a\n") is document
    assert with_text(document, "b\n").id == sha256_text("b\n")
    assert with_tags(document, {}) is document
    assert pipeline.Drop is Drop


@given(
    st.one_of(st.text(st.characters(exclude_categories=())), st.text("abc \n\r\t\0@.#\"'()[]{}:=1/*-\ufeff\ud800é")),
    st.sampled_from(["Python", "C", "Markdown", "JSON", "Unknown"]),
    st.integers(1, 60),
)
@settings(max_examples=150, deadline=None)
def test_any_text_is_kept_or_dropped_never_an_exception(text: str, language: str, times: int) -> None:
    document, drop = apply(make(text * times, "a", language), CleanConfig().operators())
    assert drop is None or (drop.operator and drop.reason and drop.detail)
    assert document.id == sha256_text(document.text)
    again, _ = apply(make(document.text, "a", language), CleanConfig().operators()[:2])
    assert again.text == document.text
