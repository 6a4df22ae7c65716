"""Bytes of a file -> its text, or why there is none."""

from __future__ import annotations

from codeflow.corpus.git_files import LFS_PREFIX


class Refused(Exception):
    """Something that is no document; the argument is the reason it is counted under."""


def text_of(data: bytes) -> str:
    """Return a file's text. Refuses empty and binary files, pointers to large files and what is not UTF-8."""
    if not data.strip():
        raise Refused("empty")
    if b"\0" in data:
        raise Refused("binary")
    if data.startswith(LFS_PREFIX):
        raise Refused("lfs_pointer")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("invalid_utf8") from None
