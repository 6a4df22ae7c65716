"""The small interface behind which trained quality classifiers stand, and how one is loaded from its artifact.

A classifier artifact (made by `train.classifier`) holds one folder per kind with a `scorer.json`: what was learnt from
which labels, the calibration, and what the kind needs to read its own files. This module imports no kind; a kind is
imported when an artifact asks for it, and only those of the table can be asked for.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from codeflow.core.config import Config, validate
from codeflow.core.errors import UserError, suggest
from codeflow.core.types import Document

if TYPE_CHECKING:
    from numpy.typing import NDArray

DESCRIPTION = "scorer.json"
KINDS = {  # kind -> the function (folder, parameters, n_threads) -> TextScorer
    "linear": "codeflow.transform.hashed_ngrams:load",
    "transformer": "codeflow.model.text_regressor:load",
    "fasttext": "codeflow.transform.fasttext_baseline:load",
}


class TextScorer(Protocol):
    """A trained classifier. Batches, because most are fast only on batches; results do not depend on the batch."""

    def logits(self, texts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return a logit for each text (N,), and how many bytes of it were read (N,)."""
        ...


class ScorerDescription(Config):
    """The content of `scorer.json`."""

    kind: str
    target: str  # of the labels, as "survival"
    source: str  # "history" or "teacher NAME"
    domain: str  # "code", "general" or "mathematics"
    slope: float = 1.0  # Platt's calibration: probability = sigmoid(slope * logit + offset)
    offset: float = 0.0
    parameters: dict[str, Any] = {}  # of the kind


class Classifier:
    """A loaded artifact: gives documents scores in 0..1. It satisfies `transform.quality.Scorer`."""

    def __init__(self, description: ScorerDescription, scorer: TextScorer) -> None:
        self.description, self._scorer = description, scorer
        self.read_bytes = self.scored_bytes = 0  # of all documents so far

    def __call__(self, documents: Sequence[Document]) -> list[float]:
        """Return one score per document, in order."""
        return self.probabilities([document.text for document in documents]).tolist()

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the calibrated scores (N,) of texts."""
        logits, n_read = self._scorer.logits(texts)
        self.read_bytes += int(n_read.sum())
        self.scored_bytes += sum(n_utf8_bytes(text) for text in texts)
        return calibrated(logits, self.description)


def calibrated(logits: NDArray[np.float64], description: ScorerDescription) -> NDArray[np.float64]:
    """Return probabilities (N,) of logits under a description's calibration."""
    return sigmoid(description.slope * logits + description.offset)


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def n_utf8_bytes(text: str) -> int:
    """Return the length of a text in UTF-8, lone surrogates as three bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def write_description(folder: Path, description: ScorerDescription) -> None:
    """Write `scorer.json`; the kind's files are there already."""
    from codeflow.core.storage import write_text

    assert math.isfinite(description.slope)
    assert math.isfinite(description.offset)
    write_text(folder / DESCRIPTION, description.model_dump_json(indent=2))


def load_classifier(artifact: Path, kind: str, n_threads: int | None = None) -> Classifier:
    """Load one kind of classifier from an artifact; None leaves the number of threads of the process as it is.

    Raises UserError when there is none of that kind.
    """
    folder = artifact / kind
    if kind not in KINDS or not (folder / DESCRIPTION).exists():
        there = [name for name in KINDS if (artifact / name / DESCRIPTION).exists()]
        raise UserError(f"no classifier '{kind}' in {artifact}{suggest(kind, there)}")
    description = validate(ScorerDescription, json.loads((folder / DESCRIPTION).read_text()), str(folder))
    module, _, function = KINDS[kind].partition(":")
    scorer = getattr(importlib.import_module(module), function)(folder, description.parameters, n_threads)
    return Classifier(description, scorer)
