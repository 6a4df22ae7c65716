"""Held-out documents."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from codeflow.core.records import read_shards
from codeflow.core.types import Document
from codeflow.transform.split import SplitConfig, limits_of, place_of, run
from tests.transform.corpora import contents, document, make, write_documents


def corpus(n_python: int, n_go: int) -> list[Document]:
    python = [document(f"x = {i}\n", f"{i}.py") for i in range(n_python)]
    return python + [document(f"var x = {i}\n", f"{i}.go", language="Go") for i in range(n_go)]


def split(tmp_path: Path, documents: list[Document], config: SplitConfig) -> tuple[list[Document], list[Document]]:
    source = write_documents(tmp_path / "in", documents, per_shard=200)
    manifest = make(run, config, {"documents": source}, tmp_path / "out")
    sides = tuple(list(read_shards(tmp_path / "out", name, Document)) for name in ("documents", "heldout"))
    assert manifest.counts.read == manifest.counts.kept == len(documents)
    assert manifest.counts.notes["heldout"] == len(sides[1])
    return sides


def test_sides(tmp_path: Path) -> None:
    documents = corpus(600, 30)
    train, heldout = split(tmp_path, documents, SplitConfig(heldout_fraction=0.1, min_documents=5))
    assert sorted(d.id for d in train + heldout) == sorted(d.id for d in documents)
    held = {d.id for d in heldout}
    assert [d for d in documents if d.id not in held] == train  # in the corpus's order
    by_language = {name: sum(d.language == name for d in heldout) for name in ("Python", "Go")}
    assert 40 <= by_language["Python"] <= 80
    assert by_language["Go"] >= 5


def test_a_rare_language_keeps_half(tmp_path: Path) -> None:
    documents = [*corpus(0, 3), document("SELECT 1;", "q.sql", language="SQL")]
    train, heldout = split(tmp_path, documents, SplitConfig(heldout_fraction=0.0, min_documents=4))
    assert [d.language for d in heldout] == ["Go"]
    assert len(train) == 3


def test_a_grown_corpus_keeps_its_sides(tmp_path: Path) -> None:
    config = SplitConfig(heldout_fraction=0.1, min_documents=0)
    sides = []
    for n in (100, 200):
        (tmp_path / str(n)).mkdir()
        sides.append({d.id for d in split(tmp_path / str(n), corpus(n, 0), config)[1]})
    assert sides[0] <= sides[1]
    assert 0 < len(sides[0]) < len(sides[1])


def test_same_bytes_again_and_other_seed(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "in", corpus(80, 20), per_shard=30)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make(run, SplitConfig(seed=seed), {"documents": source}, tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a")["heldout-00000.parquet"] != contents(tmp_path / "c")["heldout-00000.parquet"]


@given(st.text(max_size=20), st.integers(0, 3))
def test_places_lie_in_the_unit_interval(identity: str, seed: int) -> None:
    assert 0.0 <= place_of(identity, seed) < 1.0
    assert place_of(identity, seed) == place_of(identity, seed)


@given(st.lists(st.floats(0, 0.999), max_size=30), st.floats(0, 0.5), st.integers(0, 6))
def test_limits_hold_out_enough_but_never_too_much(places: list[float], fraction: float, n_least: int) -> None:
    config = SplitConfig(heldout_fraction=fraction, min_documents=n_least)
    lowest = sorted(places)[:n_least]
    limit = limits_of({"Go": lowest}, {"Go": len(places)}, config)["Go"]
    chosen = [p for p in places if p < limit]
    assert len(chosen) >= min(n_least, len(places) // 2)
    assert limit >= fraction or len(places) < 2
