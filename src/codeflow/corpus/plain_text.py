"""Bytes of a file -> its text, or why there is none."""

from __future__ import annotations

import codecs

from codeflow.corpus.git_files import LFS_PREFIX


class Refused(Exception):
    """Something that is no document; the argument is the reason it is counted under."""


def utf16_text(data: bytes) -> str | None:
    """Return the text of UTF-16 with a byte order mark, as editors on Windows write it; None where it is none."""
    if data[:2] not in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return None
    try:
        text = data.decode("utf-16")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def text_of(data: bytes) -> str:
    """Return a file's text: UTF-8, or UTF-16 with a mark. Refuses empty and binary files, pointers to large files, and
    other encodings."""
    if not data.strip():
        raise Refused("empty")
    if (text := utf16_text(data)) is not None:
        return text
    if b"\0" in data:
        raise Refused("binary")
    if data.startswith(LFS_PREFIX):
        raise Refused("lfs_pointer")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("invalid_utf8") from None
