"""Quality scores of documents, behind one small interface.

Today's only scorer, `documentation_and_structure`, is a **hand-made measurement**: a weighted mean of shares that were
counted in the text. Nobody judged these documents, no model learned anything from judgements, and a high value does
not prove a good document. It exists so that annealing (Code-Flow §1: "high-quality code") has something to sort by,
until a trained artifact, annotated and validated against a baseline, takes its place behind the same interface.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import ClassVar, Protocol

from codeflow.core.config import Config
from codeflow.core.languages import domain_of
from codeflow.core.types import Document
from codeflow.transform.operator import Drop, Operator, with_tags

_DIGITS = string.digits.encode()
_NAME_BYTES = string.ascii_letters.encode() + _DIGITS + b"_"
_NAMES_ONLY = bytes(byte if byte in _NAME_BYTES else 32 for byte in range(256))
_SAMPLE_CHARACTERS = 16_000  # identifiers are judged on the start of a file
_SENTENCE_END = re.compile(r"[.!?:][\"')\]]*(?:\s|$)")


class Scorer(Protocol):
    """Gives every document of a batch a score in 0..1. Batches, because a model behind it is fast only on batches."""

    def __call__(self, documents: Sequence[Document]) -> list[float]:
        """Return one score per document, in order."""
        ...


class Weights(Config):
    """How much each measured part counts; they need not add up to 1."""

    documentation: float = 3.0
    comments: float = 1.0
    syntax: float = 2.0
    function_size: float = 2.0
    identifiers: float = 2.0
    structure: float = 1.0


class DocumentationAndStructure(Config):
    """The hand-made measurement (see the module): a weighted mean of parts, each 0..1, all from tags and the text.

    Code: documentation (share of documented functions and classes; beyond Python comments, where they say more),
    comments (0.15 of the bytes is full marks, beyond 0.5 falls), syntax (1 without errors, 0 at 5 % of bytes), function
    size (full up to a mean of 30 lines, 0 at 150; 0.5 without functions), identifiers (share of distinct names with
    three characters or more), structure (node entropy, full from 4.5 bits).
    Prose: the mean of three ramps, over sentence ends per word, mean word length, and words per line.
    """

    weights: Weights = Weights()

    def __call__(self, documents: Sequence[Document]) -> list[float]:
        """Return the weighted mean of the parts, rounded to 6 digits."""
        return [round(self._score(document), 6) for document in documents]

    def _score(self, document: Document) -> float:
        if domain_of(document.language) != "code":
            return _prose(document.text)
        parts = code_parts(document)
        weights = self.weights.model_dump()
        total = sum(weights[name] for name in parts)
        return sum(weights[name] * value for name, value in parts.items()) / total if total else 0.0


def code_parts(document: Document) -> dict[str, float]:
    """Return the parts of a code document's score, 0..1 each; parts without a measurement are left out."""
    tags = document.tags
    parts = {"identifiers": _identifiers(document.text)}
    if "comment_share" not in tags:
        return parts
    comments = tags["comment_share"]
    parts["comments"] = _ramp(comments, 0.0, 0.15) * _ramp(comments, 0.9, 0.5)
    explained = tags.get("documented_share", 0.0)
    if "docstring_share" not in tags:
        explained = max(explained, parts["comments"])
    parts["documentation"] = explained if tags["n_functions"] + tags["n_classes"] else _ramp(comments, 0.0, 0.1)
    parts["syntax"] = _ramp(tags["syntax_error_ratio"], 0.05, 0.0)
    parts["function_size"] = _ramp(tags["mean_function_lines"], 150.0, 30.0) if "mean_function_lines" in tags else 0.5
    parts["structure"] = _ramp(tags["syntax_node_entropy"], 2.0, 4.5)
    return parts


def _ramp(value: float, zero: float, one: float) -> float:
    """Return 0 at `zero`, 1 at `one`, linear between, clipped beyond."""
    return min(1.0, max(0.0, (value - zero) / (one - zero)))


def _identifiers(text: str) -> float:
    """Return the share of distinct ASCII names `[A-Za-z_][A-Za-z0-9_]*` with three characters or more."""
    runs = set(text[:_SAMPLE_CHARACTERS].encode("ascii", "replace").translate(_NAMES_ONLY).split())
    names = {run.lstrip(_DIGITS) for run in runs} - {b""}
    return sum(len(name) >= 3 for name in names) / len(names) if names else 0.0


def _prose(text: str) -> float:
    lines = [line for line in map(str.strip, text[:_SAMPLE_CHARACTERS].split("\n")) if line]
    words = text[:_SAMPLE_CHARACTERS].split()
    if not lines or not words:
        return 0.0
    sentences = _ramp(len(_SENTENCE_END.findall(text[:_SAMPLE_CHARACTERS])) / len(words), 0.0, 0.06)
    length = sum(map(len, words)) / len(words)
    words_score = min(_ramp(length, 2.0, 4.0), _ramp(length, 12.0, 7.0))
    fullness = _ramp(len(words) / len(lines), 1.0, 7.0)
    return (sentences + words_score + fullness) / 3


class ScoreQuality(Operator):
    """Tag documents with `quality`, 0..1. Never drops."""

    name: ClassVar[str] = "quality"
    documentation_and_structure: DocumentationAndStructure = DocumentationAndStructure()

    def scorer(self) -> Scorer:
        """Return the scorer that the stage uses."""
        return self.documentation_and_structure

    def __call__(self, document: Document) -> Document | Drop:
        """Return the document with its score."""
        return with_tags(document, {"quality": self.scorer()([document])[0]})
