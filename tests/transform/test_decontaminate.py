"""Copies of benchmark prompts: verbatim, reformatted, edited; and what must not count as one."""

from __future__ import annotations

import gzip
import json
import os
import random
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.core.records import read_records, read_shards
from codeflow.core.types import Document, DroppedDocument, Prompt
from codeflow.transform import contamination, minhash
from codeflow.transform.decontaminate import DecontaminateConfig, SemanticConfig, run
from codeflow.transform.embedding import BUILT_IN
from codeflow.transform.semantic_contamination import passages
from tests.transform.corpora import contents, document, make, write_documents, write_prompts

TEXT = '''def running_median(values, window):
    """Return the median of each stretch of `window` neighbouring values, sliding by one from left to right.
    Raise ValueError when the window is even or longer than the list of values.
    >>> running_median([5, 1, 4, 2, 3], 3)
    [4, 2, 3]
    """
'''
SOLUTION = """    if window % 2 == 0 or window > len(values):
        raise ValueError(f"window {window} must be odd and at most {len(values)}")
    middle = window // 2
    stretches = (sorted(values[start : start + window]) for start in range(len(values) - window + 1))
    return [stretch[middle] for stretch in stretches]
"""
PROMPT = Prompt("mine/1", "mine", TEXT, SOLUTION)
LOOPS = Prompt(
    "mine/2", "mine", "def f(n):\n", "    for i in range(n):\n        for j in range(n):\n            print(i)\n"
)
FILLER = "\n".join(f"def helper_{i}(argument_{i}):\n    return argument_{i} * {i}\n" for i in range(60))

CASES = [
    ("verbatim text", FILLER + TEXT + FILLER, "ngram", "text"),
    ("verbatim solution", FILLER + SOLUTION.replace("    ", "  ") + FILLER, "ngram", "solution"),
    ("upper case and other punctuation", FILLER + TEXT.upper().replace("`", "'").replace(".", ";"), "ngram", "text"),
    ("both, alone in a file", TEXT + SOLUTION, "ngram", "text"),
    ("nested loops that everybody writes", FILLER + LOOPS.solution, "", ""),
    ("something else", FILLER, "", ""),
    ("empty", "", "", ""),
]


def check(text: str, config: DecontaminateConfig | None = None) -> list[contamination.Match]:
    config = config or DecontaminateConfig()
    index = contamination.build_index((PROMPT, LOOPS), config)
    data = np.frombuffer(text.encode(), np.uint8)
    return contamination.find_matches(data, np.array([0, data.size]), index, config)


@pytest.mark.parametrize(("name", "text", "method", "part"), CASES)
def test_cases(name: str, text: str, method: str, part: str) -> None:
    matches = check(text)
    assert {m.prompt.id for m in matches} == ({"mine/1"} if method else set())
    if method:
        assert (matches[0].method, matches[0].part) == (method, part)
        assert matches[0].matched.decode() in text
        assert len(matches[0].matched.split()) >= 8


def test_fuzzy_finds_what_has_no_ngram_left() -> None:
    text = (
        FILLER
        + TEXT.replace("stretch of", "run of")
        .replace("sliding by", "moving by")
        .replace("longer than", "larger than")
        .replace("neighbouring", "adjacent")
        .replace("ValueError when", "ValueError if")
        + FILLER
    )
    matches = check(text, DecontaminateConfig(text_ngram_words=12))
    assert [(m.method, m.part, m.prompt.id) for m in matches] == [("fuzzy", "text", "mine/1")]
    assert 0.8 <= matches[0].score < 1.0
    assert matches[0].matched.decode().startswith("def running_median")
    assert not check(text, DecontaminateConfig(text_ngram_words=12, fuzzy_similarity=0.99))


def test_minhash_finds_a_whole_file() -> None:
    config = DecontaminateConfig(text_ngram_words=99, solution_ngram_words=99, fuzzy_min_words=500)
    matches = check(TEXT.replace("left", "start") + SOLUTION, config)
    assert [(m.method, m.part) for m in matches] == [("minhash", "both")]
    assert 0.45 <= matches[0].score < 1.0


REWORDED = """def sliding_medians(numbers, size):
    # Slide over the numbers from left to right; for each stretch of neighbouring numbers of that size give the median.
    # An even size, or a size longer than the numbers, is a ValueError.
    if len(numbers) < size or not size % 2:
        raise ValueError
    return [median(numbers[left:left + size]) for left in range(1 + len(numbers) - size)]
"""


def test_semantic_finds_other_words() -> None:
    """Word hashing stands in for a trained encoder: the same words in another order, without a run in common."""
    text = FILLER + REWORDED + FILLER
    assert check(text) == []  # off by default, and no other level sees it
    semantic = SemanticConfig(encoder=BUILT_IN, threshold=0.45, passage_characters=700)
    matches = check(text, DecontaminateConfig(semantic=semantic))
    assert [(m.method, m.prompt.id) for m in matches] == [("semantic", "mine/1")]
    assert 0.45 <= matches[0].score < 1
    assert b"sliding_medians" in matches[0].matched
    assert check(FILLER, DecontaminateConfig(semantic=semantic)) == []
    # What an earlier level has found is reported once.
    verbatim = check(FILLER + TEXT + FILLER, DecontaminateConfig(semantic=semantic))
    assert [(m.method, m.part) for m in verbatim if m.part == "text"] == [("ngram", "text")]


@given(st.text("ab\né", max_size=400), st.integers(80, 120), st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_passages_cover_the_document(text: str, n_bytes: int, before: int) -> None:
    data = np.frombuffer(b"x" * before + text.encode() + b"yy", np.uint8)
    stop = before + len(text.encode())
    spans = list(passages(data, before, stop, n_bytes))
    assert {at for start, end in spans for at in range(start, end)} == set(range(before, stop))
    assert all(0 < end - start <= n_bytes for start, end in spans)
    assert len(spans) <= max(1, stop - before)


def test_ngrams_shared_by_many_prompts_are_boilerplate() -> None:
    opening = "Read the integers from standard input and print the answer on one line please"
    prompts = tuple(
        Prompt(f"p/{i}", "b", f"{opening}. Topic {' '.join(f'word{i}x{j}' for j in range(12))}", "") for i in range(6)
    )
    config = DecontaminateConfig()
    index = contamination.build_index(prompts, config)
    data = np.frombuffer(f"# {opening}\n".encode(), np.uint8)
    assert not contamination.find_matches(data, np.array([0, data.size]), index, config)
    few = contamination.build_index(prompts[:5], config)
    assert len(contamination.find_matches(data, np.array([0, data.size]), few, config)) == 5


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.lists(st.integers(0, 3), max_size=9))
def test_closest_passage_against_all_passages(pattern: list[int], text: list[int]) -> None:
    def distance(a: list[int], b: list[int]) -> int:
        row = list(range(len(b) + 1))
        for i, x in enumerate(a, 1):
            last, row[0] = row[0], i
            for j, y in enumerate(b, 1):
                last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
        return row[-1]

    edits, first, last = contamination.closest_passage(np.array(pattern, np.uint64), np.array(text, np.uint64))
    passages = [text[i:j] for i in range(len(text) + 1) for j in range(i, len(text) + 1)]
    assert edits == min(distance(pattern, passage) for passage in passages)
    assert distance(pattern, text[first:last]) == edits


@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_words_are_the_tokens_of_the_kernel(text: str) -> None:
    lowered = text.encode().lower()
    hashes = minhash.shingle_hashes(lowered, 1, minhash.WORD_CLASSES)
    assert len(hashes) == len(contamination.words_of(lowered))


def corpus() -> list[Document]:
    clean = [document(f"# file {i}\n{FILLER}", f"clean_{i}.py") for i in range(6)]
    return [*clean[:3], document(FILLER + TEXT, "leak.py"), *clean[3:], document(SOLUTION, "answer.py")]


def test_run(tmp_path: Path) -> None:
    documents = corpus()
    inputs = {
        "documents": write_documents(tmp_path / "in", documents, per_shard=3),
        "prompts": write_prompts(tmp_path / "prompts", [PROMPT, LOOPS]),
    }
    manifest = make(run, DecontaminateConfig(), inputs, tmp_path / "out")
    dropped = list(read_shards(tmp_path / "out", "dropped", DroppedDocument))
    kept = list(read_shards(tmp_path / "out", "documents", Document))
    assert [d.document.origin.path for d in dropped] == ["leak.py", "answer.py"]
    assert [d.detail for d in dropped] == ["mine mine/1 (text)", "mine mine/1 (solution)"]
    assert kept == [d for d in documents if d.origin.path.startswith("clean")]
    assert manifest.counts.dropped == {"contaminated_ngram": 2}
    hits = list(read_records(tmp_path / "out" / "hits-00000.parquet", contamination.Hit))
    assert [(h.path, h.prompt, h.method, h.reference) for h in hits] == [
        ("leak.py", "mine/1", "ngram", TEXT),
        ("answer.py", "mine/1", "ngram", SOLUTION),
    ]
    again = make(run, DecontaminateConfig(), inputs, tmp_path / "again")
    assert again.fingerprint == manifest.fingerprint
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_without_prompts_everything_stays_and_it_is_said(tmp_path: Path) -> None:
    inputs = {
        "documents": write_documents(tmp_path / "in", corpus()),
        "prompts": write_prompts(tmp_path / "prompts", []),
    }
    manifest = make(run, DecontaminateConfig(), inputs, tmp_path / "out")
    assert manifest.counts.kept == manifest.counts.read == 8
    assert "no prompts" in manifest.metrics["remarks"][0]


def _human_eval() -> Path | None:
    places = [os.environ.get("CODEFLOW_BENCHMARKS", ""), "../shared/data"]
    found = [Path(p) / "humaneval" / "HumanEval.jsonl.gz" for p in places if p]
    return next((path for path in found if path.exists()), None)


@pytest.mark.skipif(_human_eval() is None, reason="HumanEval is in neither CODEFLOW_BENCHMARKS nor ../shared/data")
def test_real_prompts_against_the_standard_library() -> None:
    """Almost nothing of the standard library is called contaminated, and planted problems are found."""
    path = _human_eval()
    assert path
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    prompts = tuple(Prompt(r["task_id"], "HumanEval", r["prompt"], r["canonical_solution"]) for r in rows)
    library = Path(sysconfig.get_paths()["stdlib"])
    texts = [p.read_bytes() for p in sorted(library.glob("*.py"))]
    generator = random.Random(1)
    hosts = [generator.choice(texts) for _ in prompts]
    leaked = [host + b"\n\n" + p.text.encode() + p.solution.encode() for host, p in zip(hosts, prompts, strict=True)]
    config = DecontaminateConfig()
    index = contamination.build_index(prompts, config)

    def rows_hit(batch: list[bytes]) -> list[contamination.Match]:
        offsets = np.cumsum([0, *(len(t) for t in batch)])
        return contamination.find_matches(np.frombuffer(b"".join(batch), np.uint8), offsets, index, config)

    assert len({m.row for m in rows_hit(texts)}) <= 0.01 * len(texts)
    found = {m.row for m in rows_hit(leaked) if m.prompt.id == prompts[m.row].id}
    assert len(found) >= 0.98 * len(prompts)
