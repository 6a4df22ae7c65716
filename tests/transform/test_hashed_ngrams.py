from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.core.errors import UserError
from codeflow.transform.hashed_ngrams import LinearScorer, NgramHasher, load

_WORDS = re.compile(rb"[A-Za-z0-9_\x80-\xff]+|\n[ \t\r\x0b\x0c]*|[^\s]")


def plain_features(text: str, bits: int) -> dict[int, float]:
    """Return the features by the definition, word by word."""
    counts: Counter[int] = Counter()
    hashes: list[int] = []
    for word in _WORDS.findall(text.encode("utf-8", "surrogatepass")):
        value = 2166136261
        for byte in word:
            value = ((value ^ byte) * 16777619) % 2**32
        hashes.append(value)
    for n, one in enumerate(hashes):
        gram = one * 2654435761 % 2**32
        counts[(gram >> 7) % 2**bits] += 1
        for back, factor in ((1, 2246822519), (2, 3266489917)):
            if n >= back:
                gram = (gram ^ hashes[n - back] * factor) % 2**32
                counts[(gram >> 7) % 2**bits] += 1
    values = {place: float(np.log1p(n)) for place, n in counts.items()}
    length = sum(value**2 for value in values.values()) ** 0.5
    return {place: value / length for place, value in values.items()}


@given(st.text(st.sampled_from("ab_1 \n\t(é\x1f.😀\ud800"), max_size=60))
@settings(max_examples=150, deadline=None)
def test_features_are_those_of_the_definition(text: str) -> None:
    places, values = NgramHasher(12, 10_000).features(text)
    expected = plain_features(text, 12)
    assert dict(zip(places.tolist(), values.tolist(), strict=True)) == pytest.approx(expected, abs=1e-6)


def scorer(bits: int = 10, max_bytes: int = 1000) -> LinearScorer:
    weights = np.random.default_rng(0).normal(size=2**bits).astype(np.float32)
    return LinearScorer(weights, 0.25, NgramHasher(bits, max_bytes))


def test_logits_are_products_with_the_features_whatever_the_batch() -> None:
    linear, texts = scorer(), ["def f(x):\n    return x\n", "", "x " * 300, "é = 1\n"]
    logits, sizes = linear.logits(texts)
    for text, logit in zip(texts, logits, strict=True):
        expected = (
            sum(linear.weights[place] * value for place, value in plain_features(text, 10).items()) if text else 0
        )
        assert logit == pytest.approx(expected + 0.25, abs=1e-4)
        assert linear.logits([text])[0][0] == logit
    assert sizes.tolist() == [len(text.encode()) for text in texts]
    assert linear.logits([])[0].shape == (0,)


def test_only_the_first_bytes_are_read() -> None:
    linear = scorer(max_bytes=5)
    first, second = linear.logits(["abcd efgh", "abcd exyz"])[0]
    assert first == second
    assert linear.logits(["éééé"])[1].tolist() == [5]


def test_weights_survive_the_disk_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    linear = scorer()
    parameters = linear.save(tmp_path)
    assert load(tmp_path, parameters).logits(["a b c"])[0] == linear.logits(["a b c"])[0]
    with pytest.raises(UserError, match="train again"):
        load(tmp_path, {**parameters, "bits": 11})
