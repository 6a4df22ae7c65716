"""The stage on texts whose label follows from a word: what it learns, claims, ships, and that it resumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codeflow.core.errors import UserError
from codeflow.core.manifest import Manifest, begin, read_manifest
from codeflow.core.records import read_shards, write_records
from codeflow.core.storage import sha256_text, write_text
from codeflow.core.types import Document, Origin
from codeflow.tokens.tokenizer import TokenizerConfig
from codeflow.tokens.tokenizer import train as train_tokenizer
from codeflow.train import classifier
from codeflow.train.classifier import HeldOutScores, run
from codeflow.train.classifier_config import (
    ClassifierConfig,
    FastTextConfig,
    LinearProxyConfig,
    TransformerProxyConfig,
)
from codeflow.train.config import OptimizerConfig
from codeflow.transform.classifier_artifact import load_classifier
from codeflow.transform.quality_labels import LabelledDocument
from codeflow.transform.quality_scores import ScoreConfig
from codeflow.transform.quality_scores import run as score

WORDS = ["alpha", "beta", "gamma", "delta", "total", "value", "index", "count"]
CONFIG = ClassifierConfig(
    kinds=("transformer", "linear"),
    n_folds=3,
    tested_folds=2,
    bootstrap_resamples=50,
    linear=LinearProxyConfig(bits=12, epochs=3, decays=(0.0,)),
    transformer=TransformerProxyConfig(
        hidden_size=16,
        n_layers=1,
        head_dim=8,
        max_tokens=32,
        epochs=3,
        batch_rows=8,
        precision="fp32",
        optimizer=OptimizerConfig(muon_learning_rate=0.02, adamw_learning_rate=0.02),
    ),
    n_threads=1,
)


def labelled(number: int, source: str = "history") -> LabelledDocument:
    generator = np.random.default_rng(number)
    label = number % 2
    lines = [f"{generator.choice(WORDS)} = {generator.choice(WORDS)}" for _ in range(6)]
    lines[int(generator.integers(6))] = f"{'checked' if label else 'unsafe'}({generator.choice(WORDS)})"
    text = "\n".join([*lines, f"# {number}"])
    origin = Origin("git", f"r{number // 2 % 6}", "", f"{number}.py", "", "")
    return LabelledDocument(Document(sha256_text(text), text, "Python", origin), source, "code", {"survival": label})


ITEMS = [labelled(number) for number in range(180)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    write_records(folder / "labels" / "labels-00000.parquet", ITEMS, LabelledDocument)
    texts = [item.document.text for item in ITEMS]
    write_text(folder / "tokenizer" / "tokenizer.json", train_tokenizer(texts, TokenizerConfig(vocab_size=400)))
    write_records(folder / "documents" / "documents-00000.parquet", [i.document for i in ITEMS[:50]], Document)
    long = Document("l", "value = total\n" * 200, "Python", Origin("git", "r", "", "l.py", "", ""))
    prose = Document("p", "Prose.", "Markdown", Origin("git", "r", "", "a.md", "", ""))
    write_records(folder / "documents" / "documents-00001.parquet", [prose, long], Document)
    return {name: folder / name for name in ("labels", "tokenizer", "documents")}


def made(output: Path, inputs: dict[str, Path], config: ClassifierConfig = CONFIG) -> Manifest:
    begin(output, "classifier", config, {}, "key")
    return run(config, {name: inputs[name] for name in ("labels", "tokenizer")}, output)


@pytest.fixture(scope="module")
def artifact(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("classifier") / "one"
    made(output, inputs)
    return output


def test_both_proxies_learn_the_word_and_the_untrained_rows_do_not(artifact: Path) -> None:
    table = read_manifest(artifact).metrics["scorers"]
    assert table["linear"]["spearman"] > 0.7
    assert table["transformer"]["spearman"] > 0.5
    assert abs(table["length"]["spearman"]) < 0.45
    low, high = table["linear"]["intervals"]["repositories"]
    assert low <= table["linear"]["spearman"] <= high
    report = (artifact / "report.md").read_text()
    assert "fastText was not trained: nothing is claimed against it." in report
    assert f"{table['linear']['spearman']:.3f}" in report


def test_each_document_is_scored_once_by_models_that_never_saw_its_repository(
    artifact: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown = list(read_shards(artifact, "scores", HeldOutScores))
    assert len({item.document_id for item in shown}) == len(shown)
    assert read_manifest(artifact).counts.dropped == {"fold_not_tested": len(ITEMS) - len(shown)}
    seen: list[tuple[set[str], set[str]]] = []
    original = classifier._trained

    def watched(kind, data, rows, tokenizer, config):
        seen.append(tuple({data.items[row].document.origin.repository for row in part} for part in rows))
        return original(kind, data, rows, tokenizer, config)

    monkeypatch.setattr(classifier, "_trained", watched)
    made(tmp_path / "out", inputs, CONFIG.model_copy(update={"kinds": ("linear",)}))
    by_fold = {fold: {item.repository for item in shown if item.fold == fold} for fold in (0, 1)}
    for fold in (0, 1):
        train, validation = seen[fold]
        assert not train & validation
        assert not (train | validation) & by_fold[fold]
    assert not seen[2][0] & seen[2][1]  # what is shipped


def test_interrupted_work_goes_on_and_equal_inputs_give_equal_artifacts(
    artifact: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original, calls = classifier._trained, []

    def failing(kind, *rest):
        calls.append(kind)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(kind, *rest)

    monkeypatch.setattr(classifier, "_trained", failing)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "out", inputs)
    manifest = made(tmp_path / "out", inputs)
    assert len(calls) == 2 + 5  # six trainings in all, the first not repeated
    assert manifest.fingerprint == read_manifest(artifact).fingerprint


@pytest.mark.parametrize("kind", ["linear", "transformer"])
def test_the_shipped_classifier_scores_a_corpus_by_shards(
    kind: str, artifact: Path, inputs: dict[str, Path], tmp_path: Path
) -> None:
    config = ScoreConfig(kind=kind, tag="survival", workers=1, batch_documents=7)
    begin(tmp_path / "out", "documents", config, {}, "key")
    manifest = score(config, {"documents": inputs["documents"], "classifier": artifact}, tmp_path / "out")
    scored = list(read_shards(tmp_path / "out", "documents", Document))
    assert manifest.counts.kept == len(scored) == 52
    assert manifest.counts.notes["scored"] == 51
    assert [document.id for document in scored[:50]] == [item.document.id for item in ITEMS[:50]]
    assert "survival" not in scored[50].tags  # prose is another classifier's domain
    direct = load_classifier(artifact, kind)([item.document for item in ITEMS[:50]])
    assert [document.tags["survival"] for document in scored[:50]] == pytest.approx(direct, abs=2e-6)
    assert 0.0 < manifest.metrics["read_share"] <= 1.0
    assert (manifest.metrics["read_share"] == 1.0) == (kind == "linear")
    assert manifest.metrics["classifier"]["source"] == "history"


def test_fasttext_is_the_baseline_of_the_claim(inputs: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("fasttext")
    fasttext = FastTextConfig(epochs=(10,), word_ngrams=(2,), dim=10, buckets=1000)
    config = CONFIG.model_copy(update={"kinds": ("linear", "fasttext"), "fasttext": fasttext})
    manifest = made(tmp_path / "out", inputs, config)
    assert manifest.metrics["scorers"]["fasttext"]["spearman"] > 0.3
    verdict = manifest.metrics["against_fasttext"]
    assert set(verdict) == {"linear", "length", "hand_made"}
    assert verdict["linear"]["beats_baseline"] in ("yes", "not shown")
    scores = load_classifier(tmp_path / "out", "fasttext")([ITEMS[0].document, ITEMS[1].document])
    assert scores[0] < scores[1]


def test_mixed_sources_and_missing_kinds_are_refused(inputs: dict[str, Path], artifact: Path, tmp_path: Path) -> None:
    write_records(tmp_path / "more" / "labels-00000.parquet", [labelled(999, "teacher m")], LabelledDocument)
    begin(tmp_path / "out", "classifier", CONFIG, {}, "key")
    wired = {"labels": inputs["labels"], "more": tmp_path / "more", "tokenizer": inputs["tokenizer"]}
    with pytest.raises(UserError, match="several sources"):
        run(CONFIG, wired, tmp_path / "out")
    with pytest.raises(UserError, match="did you mean"):
        load_classifier(artifact, "linaer")
