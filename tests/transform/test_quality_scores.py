"""Scoring a corpus with shipped proxies: what is tagged, what is recorded, and that a kill changes no byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codeflow.core.errors import UserError
from codeflow.core.manifest import Manifest, begin
from codeflow.core.records import read_shards, write_records
from codeflow.core.storage import sha256_text, write_text
from codeflow.core.types import Document, Origin
from codeflow.model.config import ModelConfig
from codeflow.model.text_regressor import TextRegressor, TransformerScorer
from codeflow.tokens.tokenizer import TOKENIZER_FILE, Tokenizer, TokenizerConfig, train
from codeflow.transform import quality_scores
from codeflow.transform.classifier_artifact import ScorerDescription, load_classifier, write_description
from codeflow.transform.hashed_ngrams import LinearScorer, NgramHasher
from codeflow.transform.quality_scores import ScoreConfig, run

KINDS = ("linear", "transformer")
GENERATOR = np.random.default_rng(7)
HOSTILE = ("", "\x00", "\ud800 lone", "é" * 40, "x" * 20_000, "\n" * 5_000)


def document(text: str, language: str = "Python") -> Document:
    origin = Origin("git", "r", "", "a", "", "")
    return Document(sha256_text(text), text, language, origin, {"quality": 2.0, "lines": 1.0})


def code(number: int) -> Document:
    n_lines = int(GENERATOR.integers(1, 60))
    return document("".join(f"v{GENERATOR.integers(50)} = f{number}({n})\n" for n in range(n_lines)))


SHARDS = [
    [*(code(n) for n in range(40)), document("Prose about it.", "Markdown")],
    [document(text) for text in HOSTILE if "\ud800" not in text],  # Parquet holds Unicode only
    [code(n) for n in range(40, 60)],
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Documents in three shards, and an artifact with an untrained classifier of each kind."""
    folder = tmp_path_factory.mktemp("inputs")
    for number, shard in enumerate(SHARDS):
        write_records(folder / "documents" / f"documents-{number:05d}.parquet", shard, Document)
    artifact = folder / "classifier"
    weights = GENERATOR.normal(size=2**10).astype(np.float32)
    tokenizer = train([one.text for one in SHARDS[0]], TokenizerConfig(vocab_size=300))
    network = TextRegressor(
        ModelConfig(
            vocab_size=Tokenizer(tokenizer).vocab_size,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=64,
            tie_word_embeddings=True,
        )
    )
    network.head.weight.data.normal_(std=0.5)
    write_text(artifact / "transformer" / TOKENIZER_FILE, tokenizer)
    scorers = {
        "linear": LinearScorer(weights, 0.1, NgramHasher(10, 1_000_000)),
        "transformer": TransformerScorer(network, Tokenizer(tokenizer), "fp32"),
    }
    for kind, scorer in scorers.items():
        shared = {"kind": kind, "target": "survival", "source": "history", "domain": "code"}
        parameters = scorer.save(artifact / kind)
        write_description(artifact / kind, ScorerDescription(**shared, slope=2.0, offset=-0.5, parameters=parameters))
    return {"documents": folder / "documents", "classifier": artifact}


def scored(output: Path, inputs: dict[str, Path], **fields) -> Manifest:
    config = ScoreConfig(**{"workers": 1, "batch_documents": 16, **fields})
    begin(output, "documents", config, {}, "key")
    return run(config, inputs, output)


@pytest.mark.parametrize("kind", KINDS)
def test_documents_keep_order_text_and_other_tags(kind: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    manifest = scored(tmp_path / "out", inputs, kind=kind)
    found = list(read_shards(tmp_path / "out", "documents", Document))
    given = [one for shard in SHARDS for one in shard]
    assert [(one.id, one.text, one.tags["lines"]) for one in found] == [(d.id, d.text, 1.0) for d in given]
    expected = load_classifier(inputs["classifier"], kind)([one for one in given if one.language == "Python"])
    assert [d.tags["quality"] for d in found if d.language == "Python"] == pytest.approx(expected, abs=2e-6)
    assert next(d for d in found if d.language == "Markdown").tags["quality"] == 2.0  # another classifier's domain
    assert len(set(expected)) > 40
    n_bytes = sum(len(one.text.encode()) for one in given if one.language == "Python")
    notes = manifest.counts.notes
    assert (notes["scored"], notes["scored_bytes"]) == (len(given) - 1, n_bytes)
    assert manifest.metrics["read_share"] == pytest.approx(notes["read_bytes"] / n_bytes, abs=1e-6)
    assert (notes["read_bytes"] == n_bytes) == (kind == "linear")


@pytest.mark.parametrize("kind", KINDS)
def test_killed_work_goes_on_and_gives_the_same_bytes(
    kind: str, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scored(tmp_path / "whole", inputs, kind=kind)
    original, done = quality_scores.with_tags, []

    def killed(one: Document, tags: dict[str, float]) -> Document:
        done.append(one.id)
        if len(done) == 43:  # in the second shard
            raise KeyboardInterrupt
        return original(one, tags)

    monkeypatch.setattr(quality_scores, "with_tags", killed)
    with pytest.raises(KeyboardInterrupt):
        scored(tmp_path / "out", inputs, kind=kind)
    assert [path.name for path in (tmp_path / "out").glob("documents-*")] == ["documents-00000.parquet"]
    again = scored(tmp_path / "out", inputs, kind=kind)
    n_first = sum(one.language == "Python" for one in SHARDS[0])
    assert len(done) == 43 + sum(map(len, SHARDS[1:]))  # the first shard is not scored again
    assert n_first == 40
    assert again.files == whole.files
    assert again.fingerprint == whole.fingerprint


def test_processes_change_no_byte(inputs: dict[str, Path], tmp_path: Path) -> None:
    one, two = (scored(tmp_path / str(n), inputs, kind="linear", workers=n) for n in (1, 2))
    assert one.files == two.files


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_has_a_score_that_its_neighbours_do_not_change(kind: str, inputs: dict[str, Path]) -> None:
    classifier = load_classifier(inputs["classifier"], kind)
    documents = [document(text) for text in HOSTILE] + SHARDS[0][:10]
    together = classifier(documents)
    assert all(0.0 <= value <= 1.0 for value in together)
    assert together == pytest.approx([classifier([one])[0] for one in documents], abs=1e-5)
    assert classifier([]) == []


def test_a_kind_that_is_not_there_is_named(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no classifier 'fasttext'"):
        scored(tmp_path / "out", inputs, kind="fasttext")
