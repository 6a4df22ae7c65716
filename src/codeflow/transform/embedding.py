"""Similarity by vectors: any encoder of texts can rank the pieces of a repository, named in the configuration.

An encoder is what `module:name` builds when it is called without arguments; it has `encode(texts) -> (n, d) float32`.
The built-in `HashedWords` needs no model and no download: it hashes the words that identifiers are made of, so
`openFile` and `file_open` resemble each other, which they do not for BM25 over whole identifiers. A trained encoder
takes its place by name, as `MINILM` does, whose weights come with a package.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from codeflow.core.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUILT_IN = "codeflow.transform.embedding:HashedWords"
MINILM = "codeflow.model.sentence_encoder:MiniLM"  # trained; the extra `semantic`
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


class Encoder(Protocol):
    """What turns texts into vectors."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, (n, d)."""
        ...


class HashedWords:
    """Signed feature hashing of lower-case words (Weinberger et al., 2009), damped counts: (n, 1024)."""

    dim = 1024

    def __init__(self) -> None:
        self._places: dict[str, tuple[int, float]] = {}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, (n, d)."""
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word, n in Counter(word.lower() for word in _WORD.findall(text) if len(word) > 1).items():
                place, sign = self._place(word)
                row[place] += sign * (1 + math.log(n))
        return vectors

    def _place(self, word: str) -> tuple[int, float]:
        if word not in self._places:
            number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
            self._places[word] = (number % self.dim, 1.0 if number >> 63 else -1.0)
        return self._places[word]


def load_encoder(name: str) -> Encoder:
    """Build the encoder that `module:name` names. Raises UserError when there is none."""
    module, colon, attribute = name.partition(":")
    try:
        encoder = getattr(importlib.import_module(module), attribute)() if colon else None
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"encoder '{name}' cannot be loaded ({error}); give module:name of an installed package"
        ) from None
    if encoder is None or not callable(getattr(encoder, "encode", None)):
        raise UserError(f"encoder '{name}' is none: it needs encode(texts); give it as module:name, as {BUILT_IN}")
    return encoder


class EmbeddingIndex:
    """Texts as vectors less their mean, so that what all of them share does not count; scored by the cosine."""

    def __init__(self, texts: Sequence[str], encoder: Encoder) -> None:
        """Index `texts`; scores come in their order."""
        self._encoder = encoder
        vectors = np.asarray(encoder.encode(texts), np.float32)
        self._mean = vectors.mean(axis=0) if len(texts) else np.zeros(0, np.float32)
        self._vectors = unit(vectors - self._mean) if len(texts) else vectors

    def scores(self, query: str) -> NDArray[np.float64]:
        """Return the cosine of every text (n,) with `query`."""
        if not len(self._vectors):
            return np.zeros(0)
        vector = unit(np.asarray(self._encoder.encode([query]), np.float32) - self._mean)[0]
        return (self._vectors @ vector).astype(np.float64)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors (n, d) scaled to length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)
