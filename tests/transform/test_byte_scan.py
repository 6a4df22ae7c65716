import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from codeflow.transform.byte_scan import line_bytes, marks, n_controls, survey
from codeflow.transform.rule import LETTERS, VISIBLE

TEXTS = st.one_of(
    st.text(st.sampled_from("aZ_09 .\t\n\r\x00\x0c\x7fé語"), max_size=120),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=120),
)
LINES = st.lists(st.sampled_from(["", "a", "a b", "ab", " a\tb", "return None", "return  None", "é" * 9]), max_size=40)


@given(TEXTS)
def test_a_survey_counts_what_python_counts(text: str) -> None:
    data = text.encode()
    found = survey(data, VISIBLE, LETTERS)
    lines, words = data.split(b"\n"), data.split()
    letters = set(np.flatnonzero(LETTERS).tolist())
    assert found.counts.tolist() == np.bincount(np.frombuffer(data, np.uint8), minlength=256).tolist()
    assert found.n_words == len(words)
    assert found.n_words_with_letter == sum(bool(letters & set(word)) for word in words)
    assert found.longest_word == max(map(len, words), default=0)
    assert found.n_lines_with_letter == sum(bool(letters & set(line)) for line in lines)
    assert found.n_lines_visible == sum(bool(line.split()) for line in lines)
    assert found.longest_line == max(map(len, text.split("\n")))


@given(LINES, st.integers(0, 12))
def test_line_bytes_are_those_of_the_lines_without_blanks(lines: list[str], min_bytes: int) -> None:
    data = "\n".join(lines).encode()
    kept = [line for line in data.translate(None, b" \t").split(b"\n") if len(line) >= min_bytes]
    assert line_bytes(data, min_bytes) == (len(kept), sum(map(len, kept)), sum(map(len, set(kept))))


def test_many_lines_are_told_apart() -> None:
    lines = [b"line number %d" % number for number in range(50_000)]
    data = b"\n".join(lines + lines[:10])
    bare = [line.replace(b" ", b"") for line in lines]
    expected = sum(map(len, bare)) + sum(map(len, bare[:10])), sum(map(len, bare))
    assert line_bytes(data, 1)[1:] == expected


@given(st.text(st.sampled_from("2aF.0:19 xgh_"), max_size=60))
def test_marks_are_where_a_look_ahead_finds_them(text: str) -> None:
    pairs = np.zeros(1 << 16, bool)
    pairs[[int.from_bytes(pair, "big") for pair in (b"h_", b"xx")]] = True
    found = marks(text.encode(), pairs)
    expected = [
        [match.start() for match in re.finditer(f"(?={pattern})", text)]
        for pattern in ("h_|xx", r"[0-9]\.[0-9]", "2[0-9a-fA-F]{3}:")
    ]
    assert [found.pairs, found.dotted, found.groups] == expected


@given(st.binary(max_size=80))
def test_controls_are_counted(data: bytes) -> None:
    controls = bytes([*range(9), *range(14, 32), 127])
    assert n_controls(data) == len(data) - len(data.translate(None, controls))
