"""The compiled kernel against plain Python, and the banding arithmetic."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codeflow.transform import minhash

MASK = (1 << 64) - 1
TOKEN = re.compile(rb"[0-9A-Za-z_\x80-\xff]+|[^0-9A-Za-z_\x80-\xff \t\n\r\f\v\x00]+")
TEXTS = st.one_of(st.binary(max_size=300), st.text("ab_ (){}=\n\té", max_size=300).map(str.encode))


def plain_shingles(text: bytes, n_tokens: int) -> list[int]:
    """The shingle hashes with Python integers, from the definition and not from the kernel's loops."""
    tokens = []
    for token in TOKEN.findall(text):
        state = 0xCBF29CE484222325
        for byte in token:
            state = ((state ^ byte) * 0x9FB21C651E98DF25) & MASK
        tokens.append(((state ^ (state >> 32)) * 0xD6E8FEB86659FD93) & MASK)
    width = min(n_tokens, len(tokens))
    shingles = []
    for start in range(len(tokens) - width + 1 if tokens else 0):
        x = 0
        for token in tokens[start : start + width]:
            x = (x * 0xA0761D6478BD642F + token) & MASK
        x = ((x ^ (x >> 32)) * 0xE7037ED1A0B428DB) & MASK
        x = ((x ^ (x >> 29)) * 0xD6E8FEB86659FD93) & MASK
        shingles.append(x ^ (x >> 32))
    return shingles


def plain_signature(text: bytes, functions: minhash.Permutations, n_tokens: int) -> list[int]:
    points = [x >> 32 for x in plain_shingles(text, n_tokens)]
    pairs = list(zip(functions.factors.tolist(), functions.terms.tolist(), strict=True))[: functions.n]
    return [min(((a * x + b) % 2**32 for x in points), default=2**32 - 1) for a, b in pairs]


def batch(texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    return np.frombuffer(b"".join(texts), np.uint8), np.cumsum([0, *(len(t) for t in texts)])


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, max_size=5), st.integers(1, 7))
@example([b"", b" \n", b"a b", b"a b c d e", b"x" * 400], 5)
def test_kernel_equals_plain_python(texts: list[bytes], n_tokens: int) -> None:
    functions = minhash.permutations(40)  # not a multiple of the padding
    got = minhash.signatures(*batch(texts), functions, n_tokens)
    assert got.tolist() == [plain_signature(text, functions, n_tokens) for text in texts]
    for text in texts:
        assert minhash.shingle_hashes(text, n_tokens).tolist() == plain_shingles(text, n_tokens)
    hashes, offsets = minhash.shingle_batch(*batch(texts), n_tokens)
    assert [hashes[a:b].tolist() for a, b in itertools.pairwise(offsets)] == [
        plain_shingles(text, n_tokens) for text in texts
    ]


@pytest.mark.parametrize("n", [2043, 2047, 2048, 2049, 2052, 2053, 2056, 4096, 4099])
@pytest.mark.parametrize("tail", [b"", b" ", b" last"])
def test_blocks_join_without_a_seam(n: int, tail: bytes) -> None:
    text = b" ".join(b"t%d" % (i * i % 997) for i in range(n)) + tail
    functions = minhash.permutations(32)
    assert minhash.shingle_hashes(text, 5).tolist() == plain_shingles(text, 5)
    assert minhash.signatures(*batch([text]), functions, 5)[0].tolist() == plain_signature(text, functions, 5)


def test_layout_does_not_count_but_every_token_does() -> None:
    text = b"def f(x):\n    return x + 1\n"
    for alike in (b"def  f(x):\r\n return x + 1", b"def f( x ):\treturn x+1"):
        assert minhash.shingle_hashes(alike, 2).tolist() == minhash.shingle_hashes(text, 2).tolist()
    for other in (b"def f(x):\n    return x + 2\n", b"Def f(x):\n    return x + 1\n", b"def f( (x) ): return x + 1"):
        assert minhash.shingle_hashes(other, 2).tolist() != minhash.shingle_hashes(text, 2).tolist()


def test_share_of_equal_rows_estimates_the_jaccard_index() -> None:
    generator = np.random.default_rng(5)
    functions = minhash.permutations(512)
    for shared in (100, 500, 900):
        words = [b"w%d" % i for i in generator.permutation(100_000)[: 2000 - shared]]
        left, right = b" ".join(words[:1000]), b" ".join(words[1000 - shared :])
        exact = minhash.jaccard(minhash.shingle_set(left, 1), minhash.shingle_set(right, 1))
        assert exact == shared / (2000 - shared)
        a, b = minhash.signatures(*batch([left, right]), functions, 1)
        deviation = (exact * (1 - exact) / functions.n) ** 0.5
        assert abs((a == b).mean() - exact) < 4 * deviation


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_jaccard(left: set[int], right: set[int]) -> None:
    a, b = (np.array(sorted(s), np.uint64) for s in (left, right))
    assert minhash.jaccard(a, b) == (len(left & right) / len(left | right) if left | right else 0.0)


@given(st.lists(st.integers(0, 20)))
def test_distinct(values: list[int]) -> None:
    assert minhash.distinct(np.array(values, np.uint64)).tolist() == sorted(set(values))


@given(st.floats(0.3, 1.0), st.floats(0.5, 0.999))
def test_banding_reaches_its_recall_with_nothing_to_spare(threshold: float, recall: float) -> None:
    n_bands, n_rows = minhash.bands_for(threshold, 128, recall)
    assert n_bands * n_rows <= 128
    assert 1 - (1 - threshold**n_rows) ** n_bands >= recall
    assert n_bands == 1 or 1 - (1 - threshold**n_rows) ** (n_bands - 1) < recall
    assert n_rows == 128 or 1 - (1 - threshold ** (n_rows + 1)) ** (128 // (n_rows + 1)) < recall


def test_banding_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="use more"):
        minhash.bands_for(0.1, 4, 0.99)


def test_band_keys_are_equal_where_the_rows_are() -> None:
    signed = np.arange(24, dtype=np.uint32).reshape(2, 12) % 12
    signed[1, 5] = 99
    keys = minhash.band_keys(signed, 4, 3)
    assert (keys[:, 0] == keys[:, 1]).tolist() == [True, False, True, True]


@pytest.mark.slow
def test_works_where_no_cache_can_be_written() -> None:
    code = "from codeflow.transform import minhash; print(minhash.shingle_hashes(b'a b c', 2).size)"
    environment = {**os.environ, "NUMBA_CACHE_DIR": "/dev/null/nowhere"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2"
