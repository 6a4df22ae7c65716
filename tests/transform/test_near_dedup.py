"""Nearly equal documents: candidates, and their recall on planted pairs."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from codeflow.transform import minhash, near_dedup
from codeflow.transform.dedup import NearConfig


def components(pairs: list[tuple[int, ...]]) -> set[frozenset[int]]:
    found: list[set[int]] = []
    for pair in pairs:
        touched = [c for c in found if not c.isdisjoint(pair)]
        found = [c for c in found if c not in touched] + [set(pair).union(*touched)]
    return {frozenset(c) for c in found}


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 45), st.randoms())
def test_bucket_pairs(keys: list[int], reach: int, shuffler: random.Random) -> None:
    numbers = list(range(100, 100 + len(keys)))
    order = list(range(len(keys)))
    shuffler.shuffle(order)
    pairs, n_crowded = near_dedup.bucket_pairs(
        np.array([keys[i] for i in order], np.uint64), np.array([numbers[i] for i in order], np.int64), reach
    )
    every = [(a + 100, b + 100) for a, b in combinations(range(len(keys)), 2) if keys[a] == keys[b]]
    got = [tuple(pair) for pair in pairs.tolist()]
    assert got == sorted(set(got))
    assert set(got) <= set(every)
    sizes = [keys.count(key) for key in set(keys)]
    assert n_crowded == sum(size > reach + 1 for size in sizes)
    if not n_crowded:
        assert got == sorted(every)
    assert components(got) == components(every)
    assert len(got) <= len(keys) * (reach + 1)


def planted(seed: int, n_pairs: int) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Pairs of texts of which the second is an edited copy; the edits aim at Jaccard indices from 0.5 to 1."""
    generator = random.Random(seed)
    words = [f"name_{i}" for i in range(3000)]
    texts: list[bytes] = []
    for _ in range(n_pairs):
        tokens = [generator.choice(words) for _ in range(generator.randint(60, 1200))]
        edited = list(tokens)
        for at in generator.sample(range(len(tokens)), int(len(tokens) * generator.uniform(0.0, 0.07))):
            edited[at] = "changed_" + edited[at]
        texts += [" ".join(tokens).encode(), " ".join(edited).encode()]
    return texts, [(2 * i, 2 * i + 1) for i in range(n_pairs)]


def test_recall_of_candidates_on_planted_pairs() -> None:
    near = NearConfig()
    n_bands, n_rows = near_dedup.banding(near)
    texts, pairs = planted(7, 1500)
    data, offsets = np.frombuffer(b"".join(texts), np.uint8), np.cumsum([0, *(len(t) for t in texts)])
    signed = minhash.signatures(data, offsets, minhash.permutations(n_bands * n_rows), near.n_tokens)
    keys = minhash.band_keys(signed, n_bands, n_rows)
    numbers = np.arange(len(texts))
    found = {tuple(p) for band in keys for p in near_dedup.bucket_pairs(band, numbers, near.bucket_reach)[0].tolist()}
    sets = [minhash.shingle_set(text, near.n_tokens) for text in texts]
    alike = [pair for pair in pairs if minhash.jaccard(sets[pair[0]], sets[pair[1]]) >= near.threshold]
    border = [p for p in alike if minhash.jaccard(sets[p[0]], sets[p[1]]) < 0.85]
    assert len(alike) > 300
    assert len(border) > 50
    assert sum(pair in found for pair in alike) / len(alike) >= 0.98
    assert sum(pair in found for pair in border) / len(border) >= 0.95
    assert len(found) < 3 * len(pairs)  # and the bands are selective: unlike texts seldom meet


@pytest.mark.parametrize("fields", [{"threshold": 0.05, "n_permutations": 8}, {"threshold": 1.5}, {"n_tokens": 0}])
def test_impossible_settings(fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        NearConfig.model_validate(fields)
