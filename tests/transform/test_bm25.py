"""BM25 against the formula written out."""

from __future__ import annotations

import math

import pytest

from codeflow.transform.bm25 import Bm25, terms

_TEXTS = ["def load(path): return read(path)", "class Path: pass", "load load load", "x", "Wide = load + path"]


def _score(texts: list[str], query: str, piece: int) -> float:
    words = [terms(text) for text in texts]
    mean = sum(map(len, words)) / len(words)
    total = 0.0
    for term in set(terms(query)):
        holders = sum(term in piece_words for piece_words in words)
        f = words[piece].count(term)
        if holders:
            idf = math.log(1 + (len(texts) - holders + 0.5) / (holders + 0.5))
            total += idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * len(words[piece]) / mean))
    return total


@pytest.mark.parametrize("query", ["load(path)", "load", "Path", "absent words", "", "load load path Wide def"])
def test_scores_are_those_of_the_formula(query: str) -> None:
    scores = Bm25(_TEXTS).scores(query)
    assert scores.tolist() == pytest.approx([_score(_TEXTS, query, i) for i in range(len(_TEXTS))])


def test_rarest_terms_count() -> None:
    index = Bm25(_TEXTS)
    assert index.scores("load path Wide", max_terms=1).tolist() == index.scores("Wide").tolist()


def test_nothing_to_index() -> None:
    assert Bm25([]).scores("load").tolist() == []
    assert Bm25(["", "1 + 2"]).scores("load").tolist() == [0.0, 0.0]
