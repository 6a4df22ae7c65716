"""Similarity by vectors: the built-in encoder, and encoders named in the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from codeflow.core.errors import UserError
from codeflow.transform.embedding import BUILT_IN, EmbeddingIndex, HashedWords, load_encoder


class Lengths:
    """An encoder of this test: a text is as long as it is."""

    def encode(self, texts: Sequence[str]) -> Any:
        return np.array([[len(text), 1.0] for text in texts], np.float32)


def test_words_inside_identifiers_count() -> None:
    texts = ["def file_open(path): ...", "class InvoiceTotal: ...", "while True: sleep()"]
    scores = EmbeddingIndex(texts, HashedWords()).scores("openFile(path)")
    assert scores.argmax() == 0
    assert scores.shape == (3,)
    assert np.abs(scores).max() <= 1 + 1e-6
    assert EmbeddingIndex([], HashedWords()).scores("x").shape == (0,)


def test_equal_texts_are_nearest() -> None:
    texts = [f"alpha_{n} beta gamma delta{n}" + " omega" * n for n in range(8)]
    index = EmbeddingIndex(texts, HashedWords())
    for n, text in enumerate(texts):
        assert index.scores(text)[n] == pytest.approx(1.0, abs=1e-5)


def test_encoders_are_loaded_by_name() -> None:
    assert isinstance(load_encoder(BUILT_IN), HashedWords)
    assert isinstance(load_encoder(f"{__name__}:Lengths"), Lengths)
    for name in ("json:loads_nothing", "no_such_package:X", "no_colon", "collections:Counter"):
        with pytest.raises(UserError, match="module:name"):
            load_encoder(name)
