"""Equal documents: digests, groups and the keep rule."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.core.records import read_shards
from codeflow.core.types import Document, DroppedDocument
from codeflow.transform.dedup import DedupConfig, ExactConfig, KeepConfig, run
from codeflow.transform.fingerprints import digest
from tests.transform.corpora import document, make, write_documents


def dedup(
    tmp_path: Path, documents: list[Document], config: DedupConfig, per_shard: int = 2
) -> tuple[list[str], list[DroppedDocument]]:
    source = write_documents(tmp_path / "in", documents, per_shard)
    manifest = make(run, config, {"documents": source}, tmp_path / "out")
    kept = [d.origin.path for d in read_shards(tmp_path / "out", "documents", Document)]
    dropped = list(read_shards(tmp_path / "out", "dropped", DroppedDocument))
    assert manifest.counts.read == len(documents) == len(kept) + sum(manifest.counts.dropped.values())
    assert sum(manifest.counts.dropped.values()) == len(dropped)
    return kept, dropped


def only_exact(**fields: object) -> DedupConfig:
    return DedupConfig.model_validate({"near": None, **fields})


KEEP_CASES = [
    ("the best quality stays", ("quality", "age", "path"), "b.py"),
    ("the oldest stays", ("age", "quality", "path"), "c.py"),
    ("the first path stays", ("path",), "a.py"),
    ("without criteria the first in the corpus stays", (), "d.py"),
]


@pytest.mark.parametrize(("name", "order", "expected"), KEEP_CASES)
def test_keep_rule(tmp_path: Path, name: str, order: tuple[str, ...], expected: str) -> None:
    text = "x = 1\n"
    documents = [
        document(text, "d.py", fetched_at=""),
        document(text, "b.py", fetched_at="2022-01-01T00:00:00Z", quality=0.9),
        document(text, "c.py", fetched_at="2019-01-01T00:00:00Z", quality=0.1),
        document(text, "a.py", fetched_at="2021-01-01T00:00:00Z"),
        document("y = 2\n", "other.py"),
    ]
    config = only_exact(keep=KeepConfig.model_validate({"order": order}))
    kept, dropped = dedup(tmp_path, documents, config)
    assert sorted(kept) == sorted([expected, "other.py"])
    assert {d.detail for d in dropped} == {documents[0].id}
    assert {(d.operator, d.reason) for d in dropped} == {("exact_dedup", "exact_duplicate")}


def test_white_space_is_told_apart_from_bytes(tmp_path: Path) -> None:
    documents = [
        document("a = 1\nb = 2\n", "one.py", quality=2.0),
        document("a = 1\r\n\n\tb=2", "two.py"),
        document("a = 1\nb = 2\n", "three.py"),
        document("A = 1\nb = 2\n", "four.py"),  # letter case counts
    ]
    kept, dropped = dedup(tmp_path, documents, only_exact())
    assert kept == ["one.py", "four.py"]
    assert {d.document.origin.path: d.reason for d in dropped} == {
        "two.py": "white_space_duplicate",
        "three.py": "exact_duplicate",
    }
    assert {d.detail for d in dropped} == {documents[0].id}
    assert all(d.document in documents for d in dropped)


def test_bytes_only(tmp_path: Path) -> None:
    documents = [document("a = 1", "one.py"), document("a=1", "two.py"), document("a=1", "three.py")]
    kept, _ = dedup(tmp_path, documents, only_exact(exact=ExactConfig(ignore_white_space=False)))
    assert kept == ["one.py", "three.py"]


def test_partitions_do_not_change_the_outcome(tmp_path: Path) -> None:
    documents = [document(f"v = {i % 13}\n", f"{i}.py") for i in range(40)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = dedup(tmp_path / "a", documents, only_exact(), 15)
    parted = dedup(tmp_path / "b", documents, only_exact(partition_documents=7), 15)
    assert whole == parted
    assert len(whole[0]) == 13


@given(st.text(max_size=40), st.sampled_from([" ", "\n", "\t", "\r\n", ""]))
def test_digest_without_white_space(text: str, space: str) -> None:
    spread = space.join(text).encode()
    assert digest(spread, True) == digest(text.encode(), True)
    assert (digest(spread, False) == digest(text.encode(), False)) == (spread == text.encode())
