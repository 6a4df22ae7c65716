"""The stage `classifier`: train quality proxies on labels, and compare them with a fastText baseline (Code-Flow §2).

    run(config, {labels..., tokenizer}, output) -> one folder per kind with its scorer.json; scores-*.parquet, report.md

Repositories are dealt into folds; no repository is ever on two sides. Fold k is scored by models that were trained
without it and tuned on fold k + 1, so that every document is held out once. What the artifact ships is trained on all
folds but the first, which tunes it. Beside the kinds stand two rows that learn nothing from the text: the length (a
long file has more places to fix) and, for code, the hand-made measurement.

The claim "beats fastText" is made where the paired difference of Spearman's correlation lies above 0 in both 95 %
bootstrap intervals: over repositories, and over files. Bytes per second are not reproducible: `.timing.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.progress import say
from codeflow.core.storage import write_bytes, write_text
from codeflow.tokens.tokenizer import TOKENIZER_FILE, Tokenizer
from codeflow.train.classifier_config import ClassifierConfig, Kind
from codeflow.train.classifier_report import report_text, result
from codeflow.train.classifier_scores import platt, spearman
from codeflow.transform.classifier_artifact import (
    ScorerDescription,
    calibrated,
    n_utf8_bytes,
    write_description,
)
from codeflow.transform.quality_labels import LabelledDocument, folds_by_repository, read_labels, side_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMING = ".timing.json"


@dataclass(frozen=True, slots=True)
class HeldOutScores:
    """A document's label and what each scorer, trained without its repository, said of it."""

    document_id: str
    repository: str
    path: str
    fold: int
    label: float
    scores: dict[str, float]


@dataclass(frozen=True)
class _Labelled:
    """The documents in columns. Legend: N documents."""

    items: Sequence[LabelledDocument]
    texts: list[str]
    labels: NDArray[np.float64]  # (N,)
    folds: NDArray[np.int64]  # (N,)

    def part(self, rows: NDArray[np.int64]) -> tuple[list[str], NDArray[np.float64]]:
        """Return texts and labels of rows."""
        return [self.texts[row] for row in rows.tolist()], self.labels[rows]


def run(config: ClassifierConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Train and compare. Inputs: `tokenizer`, and one or more labels artifacts under names of their own.

    Counts: documents read, kept those that were held out once. Metrics: per scorer Spearman, AUC, F1 at thresholds,
    calibration; per kind the difference to fastText. Raises UserError for mixed sources or too few repositories.
    """
    import torch

    from codeflow.core.records import write_records

    if config.n_threads:
        torch.set_num_threads(config.n_threads)
    tokenizer = inputs["tokenizer"]
    folders = [folder for name, folder in sorted(inputs.items()) if name != "tokenizer"]
    items, source = read_labels(folders, config.domain, config.target)
    data = _columns(items, config)
    trained = {kind: _held_out(kind, data, tokenizer, config, output) for kind in config.kinds}
    tested = np.flatnonzero(data.folds < config.tested_folds)
    scores = {kind: found.scores[tested] for kind, found in trained.items()} | _untrained(data, tested, config)
    shown = [
        HeldOutScores(
            item.document.id,
            item.document.origin.repository,
            item.document.origin.path,
            int(data.folds[row]),
            float(data.labels[row]),
            {name: float(values[place]) for name, values in scores.items()},
        )
        for place, row in enumerate(tested.tolist())
        for item in (items[row],)
    ]
    write_records(output / "scores-00000.parquet", shown, HeldOutScores)
    for kind in config.kinds:
        _ship(kind, data, tokenizer, config, source, output / kind)
    metrics = result(shown, config, source)
    metrics["tuned"] = {kind: found.tuned for kind, found in trained.items()}
    timing = {kind: found.bytes_per_second for kind, found in trained.items()}
    write_text(output / "report.md", report_text(metrics))
    write_text(output / TIMING, json.dumps(timing))
    say("\n".join(f"  {line}" for line in report_text(metrics, timing).splitlines()))
    n_left = len(items) - len(tested)
    counts = Counts(read=len(items), kept=len(tested), dropped={"fold_not_tested": n_left} if n_left else {})
    return seal(output, counts, metrics)


def _columns(items: Sequence[LabelledDocument], config: ClassifierConfig) -> _Labelled:
    repositories = [item.document.origin.repository for item in items]
    folds = folds_by_repository(repositories, config.n_folds, config.seed)
    return _Labelled(
        items,
        [item.document.text for item in items],
        np.array([item.targets[config.target] for item in items]),
        np.array([folds[name] for name in repositories], np.int64),
    )


@dataclass
class _HeldOut:
    """What the models of one kind said of the documents that they were not trained on."""

    scores: NDArray[np.float64]  # (N,), calibrated
    tuned: list[dict[str, float]]  # per fold
    bytes_per_second: float


def _held_out(kind: Kind, data: _Labelled, tokenizer: Path, config: ClassifierConfig, output: Path) -> _HeldOut:
    """Train a model per tested fold and score the fold. A finished fold is kept until the artifact is sealed."""
    scores, tuned, n_bytes, seconds = np.zeros(len(data.labels)), [], 0, 0.0
    for fold in range(config.tested_folds):
        kept = output / "progress" / f"{kind}-{fold}.json"
        sides = np.array([side_of(int(one), fold, config.n_folds) for one in data.folds])
        rows = np.flatnonzero(sides == "test")
        if not kept.exists():
            say(f"  classifier: {kind}, fold {fold + 1} of {config.tested_folds}")
            train, validation = (np.flatnonzero(sides == side) for side in ("train", "validation"))
            scorer, found, platt_pair = _trained(kind, data, (train, validation), tokenizer, config)
            texts = data.part(rows)[0]
            started = time.process_time()
            logits, _ = scorer.logits(texts)
            spent = time.process_time() - started
            probabilities = calibrated(logits, _described(kind, platt_pair))
            content = {"scores": probabilities.tolist(), "tuned": found, "seconds": spent}
            write_text(kept, json.dumps(content))
        done = json.loads(kept.read_text())
        scores[rows] = done["scores"]
        tuned.append(done["tuned"])
        seconds += done["seconds"]
        n_bytes += sum(n_utf8_bytes(data.texts[row]) for row in rows)
    return _HeldOut(scores, tuned, n_bytes / max(seconds, 1e-9))


def _trained(
    kind: Kind,
    data: _Labelled,
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    tokenizer: Path,
    config: ClassifierConfig,
) -> tuple[Any, dict[str, float], tuple[float, float]]:
    """Train on the first rows, tune and calibrate on the second; return scorer, what was tuned, slope and offset."""
    (texts, labels), validation = data.part(rows[0]), data.part(rows[1])
    if kind == "transformer":
        from codeflow.train.transformer_proxy import train_transformer

        loaded = Tokenizer.load(tokenizer)
        scorer, found = train_transformer(texts, labels, validation, loaded, config.transformer, config.seed)
    elif kind == "linear":
        from codeflow.train.linear_proxy import train_linear

        scorer, found = train_linear(texts, labels, validation, config.linear, config.seed)
    else:
        from codeflow.train.fasttext_baseline import train_fasttext

        scorer, found = train_fasttext(texts, labels, validation, config.fasttext, config.seed)
    return scorer, found, platt(scorer.logits(validation[0])[0], validation[1])


def _ship(kind: Kind, data: _Labelled, tokenizer: Path, config: ClassifierConfig, source: str, folder: Path) -> None:
    """Train on all folds but the first and write the artifact's folder of this kind."""
    if (folder / "scorer.json").exists():  # of an interrupted run
        return
    rows = (np.flatnonzero(data.folds != 0), np.flatnonzero(data.folds == 0))
    say(f"  classifier: {kind}, to be shipped")
    scorer, _, platt_pair = _trained(kind, data, rows, tokenizer, config)
    parameters = scorer.save(folder)
    if kind == "transformer":
        write_bytes(folder / TOKENIZER_FILE, (tokenizer / TOKENIZER_FILE).read_bytes())
    described = _described(kind, platt_pair, (config.target, source, config.domain))
    write_description(folder, described.model_copy(update={"parameters": parameters}))


def _described(
    kind: Kind, platt_pair: tuple[float, float], learnt: tuple[str, str, str] = ("", "", "")
) -> ScorerDescription:
    target, source, domain = learnt
    slope, offset = platt_pair
    return ScorerDescription(kind=kind, target=target, source=source, domain=domain, slope=slope, offset=offset)


def _untrained(data: _Labelled, rows: NDArray[np.int64], config: ClassifierConfig) -> dict[str, NDArray[np.float64]]:
    """Return the scores of what learns nothing from the text, as probabilities of no claim: ranks in 0..1.

    The length counts as the folds' other documents tell it to: upwards where longer ones have the higher labels.
    """
    sizes = np.log([max(1, n_utf8_bytes(text)) for text in data.texts])
    length = np.zeros(len(sizes))
    for fold in range(config.tested_folds):
        others = data.folds != fold
        sign = 1.0 if spearman(sizes[others], data.labels[others]) >= 0 else -1.0
        length[data.folds == fold] = 0.5 + 0.5 * np.tanh(sign * (sizes - sizes.mean()))[data.folds == fold]
    found = {"length": length[rows]}
    if config.domain == "code":
        from codeflow.transform.quality import DocumentationAndStructure
        from codeflow.transform.syntax import MeasureSyntax

        measure = MeasureSyntax(python_ast=False)
        documents = [measure(data.items[row].document) for row in rows.tolist()]
        found["hand_made"] = np.array(DocumentationAndStructure()(documents))  # type: ignore[arg-type]
    return found
