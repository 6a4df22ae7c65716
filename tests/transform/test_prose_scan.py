"""Compiled passes over characters against what Python's strings say."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.transform.prose_scan import (
    code_points,
    lines_that_begin,
    most_frequent,
    n_repeated_characters,
    numbered,
    visits,
    words_of,
)

TEXTS = st.one_of(
    st.text(st.sampled_from("aZ9_.# \t\n\r\x00\x0b\x1c\x85\u2028\u3000é語ไ²١ªİſ\U0001f600"), max_size=80),
    st.text(max_size=80),
    st.text(st.sampled_from("ab "), max_size=120),
)
HASHES = st.lists(st.integers(0, 6).map(lambda n: n * 0x9E3779B97F4A7C15 % 2**64), min_size=1, max_size=60)


@given(TEXTS)
def test_words_are_those_of_split(text: str) -> None:
    found, words = words_of(code_points(text)), text.split()
    assert [text[a:b] for a, b in zip(found.starts.tolist(), found.ends.tolist(), strict=True)] == words
    assert len(found) == len(words)
    assert found.n_characters == sum(map(len, words))
    assert found.n_with_letter == sum(any(map(str.isalpha, word)) for word in words)
    assert found.n_signs == sum(not sign.isalnum() for sign in "".join(words) if sign > " ")
    assert found.n_unspaced == sum("\u0e00" <= sign <= "\u0fff" or "\u3400" <= sign <= "\u9fff" for sign in text) + sum(
        "\u1000" <= sign <= "\u109f" or "\u1780" <= sign <= "\u17ff" or "\u3040" <= sign <= "\u30ff" for sign in text
    ) + sum("\uf900" <= sign <= "\ufaff" for sign in text)


def test_lone_surrogates_are_characters() -> None:
    assert len(words_of(code_points("a \ud800\udc00 b"))) == 3


@given(TEXTS)
def test_numbers_tell_words_apart(text: str) -> None:
    codes, words = code_points(text), text.split()
    numbers, firsts = numbered(codes, words_of(codes))
    known: dict[str, int] = {}
    assert numbers.tolist() == [known.setdefault(word, len(known) + 1) for word in words]
    assert firsts.tolist() == [words.index(word) for word in known]


@given(HASHES)
def test_the_most_frequent_hash(values: list[int]) -> None:
    counts = Counter(values)
    best = min(value for value in counts if counts[value] == max(counts.values()))
    assert most_frequent(np.array(values, np.uint64)) == (counts[best], values.index(best))


@given(HASHES, st.integers(1, 6))
def test_repeated_characters_count_once(values: list[int], n: int) -> None:
    lengths = [3 + i % 5 for i in range(len(values) + n - 1)]
    covered = {place for i, value in enumerate(values) if value in values[:i] for place in range(i, i + n)}
    ends = np.concatenate([[0], np.cumsum(lengths)])
    assert n_repeated_characters(np.array(values, np.uint64), n, ends) == sum(lengths[place] for place in covered)


@pytest.mark.parametrize(
    ("line", "begins"),
    [
        ("Share", True),
        ("  - * • sHARE it", True),
        ("sh", False),
        ("\u017fhare", True),
        ("S\u212aip", True),
        ("7", True),
        ("\u0661 comments", True),
        ("©", True),
        ("(c) 2024", True),
        ("```", True),
        (" ```", False),
        ("``", False),
        ("the share", False),
        ("share" + " and more" * 12, False),
        ("share" + " " * 200, True),
        ("- - -", False),
        ("", False),
    ],
)
def test_lines_that_begin(line: str, begins: bool) -> None:
    text = f"one\n{line}\n\n{line}"
    assert lines_that_begin(code_points(text), "sha ski (c)", 100) == ([1, 3] if begins else [])


@given(st.binary(max_size=60), st.integers(0, 2**32))
def test_visits_count_as_a_plain_walk_does(data: bytes, seed: int) -> None:
    generator = np.random.default_rng(seed)
    moves, rows = generator.integers(0, 9, 3 * 256).astype(np.uint32), generator.integers(0, 3, 9) * 256
    features = generator.integers(-1, 4, 9)
    state, expected = 0, Counter[int]()
    for byte in data:
        state = moves[rows[state] + byte]
        if features[state] >= 0:
            expected[int(features[state])] += 1
    found, counts = visits(np.frombuffer(data, np.uint8), moves, rows, features)
    assert list(zip(found.tolist(), counts.tolist(), strict=True)) == list(expected.items())
