"""The parser of `git log --raw -z`: any pieces, any bytes."""

from __future__ import annotations

import io
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.corpus.git_log import RawCommit, RawEntry, is_utf8, parse_log, readable
from codeflow.corpus.git_program import token_lists

SHAS = st.sampled_from(["a" * 40, "b" * 40, "c" * 64, "0" * 40])
MODES = st.sampled_from(["100644", "000000", "160000"])
TEXTS = st.sampled_from(["", " ", "\n:100644 100644 a b M", "ü\n", "\udcff", "x\n"]) | st.text(max_size=5).map(
    lambda text: text.replace("\0", "").encode("utf-8", "replace").decode()
)
PATHS = TEXTS.filter(bool)


@st.composite
def entries(draw: st.DrawFn) -> RawEntry:
    status, path = draw(st.sampled_from("AMDTRC")), draw(PATHS)
    old_path = draw(PATHS) if status in "RC" else path
    return status, draw(MODES), draw(MODES), draw(SHAS), draw(SHAS), old_path, path


COMMITS = st.builds(
    RawCommit, SHAS, st.lists(SHAS).map(tuple), st.integers(-(10**12), 10**12), TEXTS, st.lists(entries(), max_size=3)
)


def as_git_writes(commit: RawCommit) -> bytes:
    text = "\0".join((commit.sha, " ".join(commit.parents), str(commit.author_seconds), commit.message, "", ""))
    for number, (status, old_mode, mode, old_sha, sha, old_path, path) in enumerate(commit.entries):
        similarity, paths = ("087", f"{old_path}\0{path}") if status in "RC" else ("", path)
        first = "" if number else "\n"
        text += f"{first}:{old_mode} {mode} {old_sha} {sha} {status}{similarity}\0{paths}\0"
    return text.encode("utf-8", "surrogateescape")


class Pieces(io.BytesIO):
    """A pipe that gives a few bytes at a time."""

    n_bytes = 1

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(self.n_bytes)


@given(commits=st.lists(COMMITS, max_size=4), n_bytes=st.sampled_from([1, 2, 50, 10**6]))
def test_what_git_writes_is_read_back_in_pieces_of_any_size(commits: list[RawCommit], n_bytes: int) -> None:
    pipe = Pieces(b"".join(map(as_git_writes, commits)))
    pipe.n_bytes = n_bytes
    assert list(parse_log(token_lists(pipe))) == commits


def test_times_that_are_no_numbers_are_zero() -> None:
    for seconds in ("", "-", "x", "1.5", "²"):
        (commit,) = parse_log([["a" * 40, "", seconds, "message", ""]])
        assert commit.author_seconds == 0


@pytest.mark.parametrize("data", [b"", b"plain", "ü€\U0001f600".encode(), b"\xff", b"a\xed\xa0\x80b", b"\xc3"])
def test_texts_that_are_not_utf8_are_known_and_made_readable(data: bytes) -> None:
    text = cast(list[str], next(iter(token_lists(io.BytesIO(data + b"\0"))), [""]))[0]
    assert readable(text) == data.decode("utf-8", "replace")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        assert not is_utf8(text)
    else:
        assert is_utf8(text)
        assert text == data.decode()
