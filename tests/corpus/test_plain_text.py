"""Bytes of files as text, or the reason why not."""

from __future__ import annotations

import pytest

from codeflow.corpus.plain_text import Refused, text_of


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Größe\r\n".encode(), "Größe\r\n"),
        (b"\xef\xbb\xbfmarked\n", "\ufeffmarked\n"),
        (b"\xff\xfe" + "Größe\n".encode("utf-16-le"), "Größe\n"),
        (b"\xfe\xff" + "Größe\n".encode("utf-16-be"), "Größe\n"),
    ],
)
def test_text(data: bytes, text: str) -> None:
    assert text_of(data) == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \r\n", "empty"),
        (b"a\0b", "binary"),
        (b"\xff\xfea", "invalid_utf8"),
        (b"\xff\xfe" + "a\0b".encode("utf-16-le"), "binary"),
        (b"version https://git-lfs.github.com/spec/v1\n", "lfs_pointer"),
        ("Größe".encode("latin-1"), "invalid_utf8"),
    ],
)
def test_reasons(data: bytes, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        text_of(data)
