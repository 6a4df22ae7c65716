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
    run,
)
from codeflow.transform.semantic_rounds import DROPPED, FALLEN, FREE, KEPT, UNDECIDED, favoured, judged
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
    assert manifest.metrics == {"n_clusters": 1, "n_rounds": 1, "dim": 1024}


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


def walk(cosines: np.ndarray, compared: np.ndarray, threshold: float) -> list[int]:
    """Return who is dropped by one walk in keep order over the pairs that are compared."""
    kept: list[int] = []
    for place in range(len(cosines)):
        if not any(compared[place, k] and cosines[place, k] >= threshold - 1e-6 for k in kept):
            kept.append(place)
    return sorted(set(range(len(cosines))) - set(kept))


@given(st.integers(1, 60), st.integers(0, 1000), st.sampled_from([0.5, 0.9]), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_rounds_are_one_walk(n: int, seed: int, threshold: float, n_clusters: int) -> None:
    """Clusters that share documents, each judged on its own, agree on what one walk would drop."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(3, 8))[generator.integers(0, 3, n)]
    found = unit((centres + generator.normal(size=(n, 8)) * 0.3).astype(np.float32))
    inside = generator.random((n_clusters, n)) < 0.6
    inside[0, ~inside.any(axis=0)] = True
    states = np.full(n, UNDECIDED, np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codeflow.transform.semantic_rounds._ROWS", 7)
        patch.setattr("codeflow.transform.semantic_rounds._COLUMNS", 4)
        for _ in range(n):
            verdicts = np.zeros(n, np.uint8)
            for members in map(np.flatnonzero, inside):
                said = judged(found[members], states[members], threshold, alone=n_clusters == 1)
                open_ = states[members] == UNDECIDED
                verdicts[members[open_]] = np.maximum(verdicts[members[open_]], said[open_])
            states[verdicts == FREE], states[verdicts == FALLEN] = KEPT, DROPPED
        cosines = found @ found.T
        compared = (inside[:, :, None] & inside[:, None, :]).any(axis=0)
        assert np.flatnonzero(states == DROPPED).tolist() == walk(cosines, compared, threshold)
        assert (states != UNDECIDED).all()
        members = np.flatnonzero(inside[0])
        rows, places, values = favoured(found[members], states[members])
    for row, place, value in zip(members[rows], members[places], values, strict=True):
        before = [k for k in members if k < row and states[k] == KEPT]
        assert place in before
        assert value == pytest.approx(max(cosines[row, k] for k in before), abs=1e-5)


class Coded:
    """Vectors that the texts spell out, for tests that must know them."""

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array([[float(number) for number in text.split()] for text in texts], np.float32)


def coded(vectors: np.ndarray) -> list[Document]:
    """Return documents whose order in keep order is that of their vectors."""
    return [document(" ".join(map(str, v.tolist())), f"{at:05d}.py") for at, v in enumerate(vectors)]


def crowd(n: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    """Return vectors of length 1 that lie in loose heaps, half of them beside an earlier one."""
    generator = np.random.default_rng(seed)
    base = unit((generator.normal(size=(12, dim))[generator.integers(0, 12, n // 2)]).astype(np.float32))
    base = unit(base + generator.normal(size=base.shape).astype(np.float32) * 0.25)
    beside = unit(base + generator.normal(size=base.shape).astype(np.float32) * 0.09)
    return unit(generator.permutation(np.concatenate([base, beside])))


def dropped_in(folder: Path) -> set[int]:
    return {int(d.document.origin.path[:5]) for d in read_shards(folder, "dropped", DroppedDocument)}


def test_recall_against_all_pairs(tmp_path: Path) -> None:
    """Borders between clusters: compared in its nearest cluster alone a document loses neighbours, in three few."""
    vectors = crowd(1200)
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    left, right = np.nonzero(np.triu(cosines >= 0.9, 1))
    source = write_documents(tmp_path / "in", coded(vectors), per_shard=300)
    recalls: dict[int, float] = {}
    for n in (1, 3, 64):
        fields = {"encoder": f"{__name__}:Coded", "cluster_documents": 40, "nearest_clusters": n}
        manifest = make(run, SemanticDedupConfig(**fields), {"documents": source}, tmp_path / str(n))
        dropped = dropped_in(tmp_path / str(n))
        gone = np.isin(np.arange(len(vectors)), sorted(dropped))
        recalls[n] = 1 - float((~gone[left] & ~gone[right]).mean())
        number = {d.id: at for at, d in enumerate(coded(vectors))}
        for record in read_shards(tmp_path / str(n), "dropped", DroppedDocument):  # every pair is one
            identity, _, cosine = record.detail.split()
            own = int(record.document.origin.path[:5])
            assert number[identity] not in dropped
            assert number[identity] < own
            assert cosines[own, number[identity]] == pytest.approx(float(cosine), abs=1e-4)
            assert float(cosine) >= 0.9
    assert manifest.metrics["n_clusters"] == 30
    assert recalls[1] < recalls[3]
    assert recalls[3] >= 0.95
    assert recalls[64] == 1.0
    assert dropped == set(walk(cosines, np.ones_like(cosines, bool), 0.9))  # in all clusters it is the exact walk


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
