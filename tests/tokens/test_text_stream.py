"""Text out of tokens: whole characters, and stop strings wherever tokens are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.tokens.text_stream import TextStream


class _Bytes:
    """A tokenizer whose ids are bytes; id 256 is the end of text."""

    vocab_size = 257

    def decode_bytes(self, ids: list[int]) -> bytes:
        return b"".join(b"<end>" if i == 256 else bytes([i]) for i in ids)


def _stream(hidden: tuple[int, ...] = (256,), stops: tuple[str, ...] = ()) -> TextStream:
    return TextStream(_Bytes(), hidden, stops)  # type: ignore[arg-type]


@given(st.text(alphabet="ab☃\n", max_size=30), st.lists(st.text(alphabet="ab☃", min_size=1, max_size=3), max_size=3))
def test_the_text_ends_before_the_first_stop(text: str, stops: list[str]) -> None:
    stream, pieces = _stream(stops=tuple(stops)), []
    for byte in text.encode():
        pieces.append(stream.push(byte))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    # The stop that is complete first ends the text; of those complete with one character the one that begins first.
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert "".join(pieces) == (text[: min(ends)[1]] if ends else text)
    assert stream.stopped == bool(ends)
    assert all("\ufffd" not in piece for piece in pieces)


def test_text_is_not_held_back_longer_than_needed() -> None:
    stream = _stream(stops=("abc",))
    assert [stream.push(byte) for byte in b"xaabd"] == ["x", "", "a", "", "abd"]


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([0xE2, 0x98], "\ufffd"),  # a character that never ends
        ([0xE2, 0x61], "\ufffda"),
        ([0x61, 256], "a"),
        ([0x61, 999, 0x62], "a\ufffdb"),  # a row of the model without a word
    ],
)
def test_pieces_of_characters_and_ids_without_text(ids: list[int], text: str) -> None:
    stream = _stream()
    assert "".join([*(stream.push(token) for token in ids), stream.finish()]) == text
    assert not stream.stopped


def test_special_tokens_show_unless_hidden() -> None:
    assert _stream(hidden=()).push(256) == "<end>"
