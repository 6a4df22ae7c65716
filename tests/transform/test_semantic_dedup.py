"""Neighbours by embedding: planted paraphrases, the keep rule, determinism, bounded parts, bad encoders."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.core.errors import UserError
from codeflow.core.records import read_shards
from codeflow.core.types import Document, DroppedDocument
from codeflow.execute.local import LocalPool
from codeflow.transform import dedup, vectors
from codeflow.transform.dedup import DedupConfig
from codeflow.transform.embedding import BUILT_IN, unit
from codeflow.transform.semantic_dedup import (
    SemanticCluster,
    SemanticDedupConfig,
    neighbours,
    run,
)
from tests.transform.corpora import contents, document, make, write_documents

pytest.importorskip("faiss")


def program(seed: int) -> str:
    """A made-up program of its own words."""
    generator = random.Random(seed)
    names = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(12)]
    return "".join(f"def {name}(a):\n    return {generator.choice(names)}(a)\n\n" for name in names)


def paraphrase(seed: int) -> str:
    """The same functions in another order and another layout: equal words, few equal runs of tokens."""
    generator = random.Random(seed + 1)
    functions = program(seed).strip().split("\n\n")
    generator.shuffle(functions)
    return "\n".join(re.sub(r"(\w+)\(a\)", r"(\1) ((a))", f.replace("\n    ", " ")) for f in functions) + "\n"


def corpus(n: int = 40, planted: int = 12) -> list[Document]:
    documents = [document(program(seed), f"plain_{seed:03d}.py", quality=0.5) for seed in range(n)]
    return documents + [
        document(paraphrase(seed), f"again_{seed:03d}.py", quality=0.1 + 0.8 * (seed % 2)) for seed in range(planted)
    ]


CONFIG = SemanticDedupConfig(encoder=BUILT_IN, threshold=0.9)


def test_planted_paraphrases(tmp_path: Path) -> None:
    documents = corpus()
    source = write_documents(tmp_path / "in", documents, per_shard=13)
    near = make(dedup.run, DedupConfig(), {"documents": source}, tmp_path / "near")
    assert near.counts.kept == len(documents)  # the other deduplications see nothing
    manifest = make(run, CONFIG, {"documents": source}, tmp_path / "out")
    dropped = {d.document.origin.path: d for d in read_shards(tmp_path / "out", "dropped", DroppedDocument)}
    kept = {d.id: d for d in read_shards(tmp_path / "out", "documents", Document)}
    assert set(dropped) == {f"{'plain' if seed % 2 else 'again'}_{seed:03d}.py" for seed in range(12)}  # worse quality
    assert manifest.counts.dropped == {"semantic_duplicate": 12}
    for path, record in dropped.items():
        identity, word, cosine = record.detail.split()
        assert (record.operator, record.reason, word) == ("semantic_dedup", "semantic_duplicate", "cosine")
        assert kept[identity].origin.path[-6:] == path[-6:]  # its own paraphrase
        assert 0.9 <= float(cosine) <= 1
    clusters = list(read_shards(tmp_path / "out", "clusters", SemanticCluster))
    assert sorted(path for c in clusters for path in c.paths) == sorted(f"shop/{path}" for path in dropped)
    assert manifest.metrics == {"n_clusters": 1, "dim": 1024}


@pytest.mark.parametrize("cluster_documents", [3, 1000])
def test_same_bytes(tmp_path: Path, cluster_documents: int) -> None:
    """An earlier, stopped run does not show."""
    config = CONFIG.model_copy(update={"cluster_documents": cluster_documents, "partition_documents": 7})
    source = write_documents(tmp_path / "in", corpus(20, 8), per_shard=9)
    manifest = make(run, config, {"documents": source}, tmp_path / "one")
    assert manifest.metrics["n_clusters"] == -(-28 // cluster_documents)
    begun = tmp_path / "three"
    calls = 0
    original = vectors.write_vectors

    def dying(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise UserError("stopped")
        original(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "write_vectors", dying)
        with pytest.raises(UserError, match="stopped"):
            make(run, config, {"documents": source}, begun)
    make(run, config, {"documents": source}, begun)
    assert calls == 3  # the two finished shards were not embedded again
    assert contents(begun) == contents(tmp_path / "one")


@pytest.mark.slow
def test_processes_do_not_show(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"cluster_documents": 3})
    source = write_documents(tmp_path / "in", corpus(20, 8), per_shard=9)
    for workers in (1, 2):
        make(run, config, {"documents": source}, tmp_path / str(workers), pool=LocalPool(workers))
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_keep_rule(tmp_path: Path) -> None:
    documents = [
        document(program(1), "b.py", fetched_at="2021-01-01T00:00:00Z", quality=0.9),
        document(paraphrase(1), "a.py", fetched_at="2020-01-01T00:00:00Z", quality=0.1),
    ]
    source = write_documents(tmp_path / "in", documents)
    for order, expected in ((("quality",), "a.py"), (("age",), "b.py"), (("path",), "b.py")):
        config = CONFIG.model_copy(update={"keep": dedup.KeepConfig(order=order)})
        make(run, config, {"documents": source}, tmp_path / order[0])
        dropped = [d.document.origin.path for d in read_shards(tmp_path / order[0], "dropped", DroppedDocument)]
        assert dropped == [expected]


@given(st.integers(1, 60), st.integers(0, 1000), st.sampled_from([0.5, 0.9]))
@settings(max_examples=40, deadline=None)
def test_neighbours(n: int, seed: int, threshold: float) -> None:
    """Every dropped one has its most similar kept predecessor at the threshold; no two kept ones are alike."""
    generator = np.random.default_rng(seed)
    found = unit(
        (generator.normal(size=(3, 8))[generator.integers(0, 3, n)] + generator.normal(size=(n, 8)) * 0.3).astype(
            np.float32
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codeflow.transform.semantic_dedup._BLOCK", 7)
        patch.setattr("codeflow.transform.semantic_dedup._COLUMNS", 4)
        dropped = neighbours(found, threshold)
    cosines = found @ found.T
    kept = [i for i in range(n) if i not in dropped]
    for place, (neighbour, cosine) in dropped.items():
        before = [k for k in kept if k < place]
        assert neighbour in before
        assert cosine == pytest.approx(max(cosines[place, k] for k in before), abs=1e-5)
        assert cosine >= threshold - 1e-5
    assert all(cosines[a, b] < threshold + 1e-5 for a in kept for b in kept if a < b)


def test_equal_vectors_at_threshold_one_and_nothing_to_say(tmp_path: Path) -> None:
    same = program(3)
    documents = [document(same, "a.py"), document(same + "\n", "b.py"), document("", "c.py"), document("1 + 2", "d.py")]
    source = write_documents(tmp_path / "in", documents)
    make(run, CONFIG.model_copy(update={"threshold": 1.0}), {"documents": source}, tmp_path / "out")
    dropped = [d.document.origin.path for d in read_shards(tmp_path / "out", "dropped", DroppedDocument)]
    assert dropped == ["b.py"]  # texts without words are like nothing, and stay


def test_empty_corpus(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "in", [])
    assert make(run, CONFIG, {"documents": source}, tmp_path / "out").counts.read == 0


class WrongShape:
    def encode(self, texts: list[str]) -> np.ndarray:
        return np.zeros(len(texts))


class NotANumber:
    def encode(self, texts: list[str]) -> np.ndarray:
        return np.full((len(texts), 2), np.nan)


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ("nowhere:Encoder", "cannot be loaded"),
        ("no colon", "needs encode"),
        ("tests.transform.test_semantic_dedup:WrongShape", r"must return finite numbers \(n, d\)"),
        ("tests.transform.test_semantic_dedup:NotANumber", "values that are not finite"),
    ],
)
def test_bad_encoders(tmp_path: Path, encoder: str, words: str) -> None:
    source = write_documents(tmp_path / "in", corpus(2, 0))
    with pytest.raises(UserError, match=words):
        make(run, SemanticDedupConfig(encoder=encoder), {"documents": source}, tmp_path / "out")
