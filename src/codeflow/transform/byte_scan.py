"""Compiled passes over a text's bytes, for what operators count in every document.

Each is one loop (1 to 3 ms a megabyte) in place of several passes by numpy or regular expressions. They count and point
at places; what a place means is decided by their callers, on the text itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codeflow.transform.minhash import compiled

_NEWLINE, _DOT, _COLON, _TWO = 10, 46, 58, 50
_DIGIT, _HEXADECIMAL = 1, 2
_FACTOR, _START, _32 = np.uint64(0x9FB21C651E98DF25), np.uint64(0xCBF29CE484222325), np.uint64(32)


def _number_classes() -> npt.NDArray[np.uint8]:
    classes = np.zeros(256, np.uint8)
    classes[list(b"0123456789")] = _DIGIT
    classes[list(b"abcdefABCDEF")] = _HEXADECIMAL
    return classes


_NUMBER_CLASSES = _number_classes()


@dataclass(frozen=True, slots=True)
class Survey:
    """What `survey` counts in UTF-8 bytes. Words are runs of visible bytes; lines end with a newline byte."""

    counts: npt.NDArray[np.int64]  # how often each byte occurs, (256,)
    n_words: int
    n_words_with_letter: int
    longest_word: int  # bytes
    n_lines_with_letter: int
    n_lines_visible: int  # lines that are not blank
    longest_line: int  # characters


def survey(data: bytes, visible: npt.NDArray[np.bool_], letters: npt.NDArray[np.bool_]) -> Survey:
    """Count words, lines and bytes in one pass. `visible` and `letters`: (256,), by byte; letters are visible."""
    counts, numbers = np.zeros((2, 256), np.int64), np.zeros(6, np.int64)
    _survey(np.frombuffer(data, np.uint8), visible, letters, counts, numbers)
    return Survey(counts.sum(axis=0), *numbers.tolist())


@compiled
def _survey(data, visibles, letters, counts, numbers):  # pragma: no cover - compiled
    """Without branches on the text; two tables of counts, since a byte often follows itself."""
    zero, one = np.int64(0), np.int64(1)
    words, lettered, lines_lettered, lines_visible = zero, zero, zero, zero
    before, word_has, line_has, line_seen = zero, zero, zero, zero
    word, longest_word, line, longest_line = zero, zero, zero, zero
    for i in range(data.size):
        byte = data[i]
        counts[i & 1, byte] += 1
        visible, letter = np.int64(visibles[byte]), np.int64(letters[byte])
        inside = np.int64(byte != _NEWLINE)
        words += visible & (before ^ one)
        before = visible
        lettered += letter & (word_has ^ one)
        word_has = (word_has | letter) & visible
        lines_lettered += letter & (line_has ^ one)
        line_has = (line_has | letter) & inside
        lines_visible += visible & (line_seen ^ one)
        line_seen = (line_seen | visible) & inside
        word = (word + one) * visible
        longest_word = max(longest_word, word)
        line = (line + np.int64((byte & 0xC0) != 0x80)) * inside
        longest_line = max(longest_line, line)
    numbers[0], numbers[1], numbers[2] = words, lettered, longest_word
    numbers[3], numbers[4], numbers[5] = lines_lettered, lines_visible, longest_line


def line_bytes(data: bytes, min_bytes: int) -> tuple[int, int, int]:
    """Return (lines, their bytes, bytes of the distinct ones) of lines with `min_bytes` bytes beside spaces and tabs.

    Lines are told apart by 64-bit hashes, so the last number may come out too small, never too large.
    """
    room = len(data) // max(1, min_bytes) + 2
    table = np.zeros(1 << (2 * room - 1).bit_length(), np.uint64)
    n, total, distinct = _line_bytes(np.frombuffer(data, np.uint8), min_bytes, table)
    return int(n), int(total), int(distinct)


@compiled
def _line_bytes(data, min_bytes, table):  # pragma: no cover - compiled
    n, total, distinct, length, state = 0, 0, 0, 0, _START
    mask = np.uint64(table.size - 1)
    for i in range(data.size + 1):
        byte = data[i] if i < data.size else np.uint8(_NEWLINE)
        if byte == _NEWLINE:
            if length >= min_bytes:
                n += 1
                total += length
                state = (state ^ (state >> _32)) * _FACTOR
                state = (state ^ (state >> _32)) | np.uint64(1)  # 0 is an empty place
                at = (state >> np.uint64(1)) & mask
                while table[at] != 0 and table[at] != state:
                    at = (at + np.uint64(1)) & mask
                if table[at] == 0:
                    table[at] = state
                    distinct += length
            length, state = 0, _START
        elif byte != 32 and byte != 9:
            state = (state ^ np.uint64(byte)) * _FACTOR
            length += 1
    return n, total, distinct


@dataclass(frozen=True, slots=True)
class Marks:
    """Offsets in ascending order."""

    pairs: list[int]  # of the first byte of a pair that was asked for
    dotted: list[int]  # of a digit that a dot and another digit follow
    groups: list[int]  # of a `2` that three hexadecimal digits and a colon follow


def marks(data: bytes, pairs: npt.NDArray[np.bool_]) -> Marks:
    """Find the places where a secret may be. `pairs`: (65536,), by two bytes, the first one times 256."""
    places = np.empty(2 * len(data) + 2, np.int64)
    n = _marks(np.frombuffer(data, np.uint8), pairs, _NUMBER_CLASSES, places)
    kinds, at = places[:n] & 3, places[:n] >> 2
    return Marks(*(at[kinds == kind].tolist() for kind in range(3)))


@compiled
def _marks(data, pairs, classes, places):  # pragma: no cover - compiled
    n, before = 0, np.int64(0)
    for i in range(data.size):
        byte = np.int64(data[i])
        if pairs[(before << 8) | byte] and i:
            places[n] = (i - 1) << 2
            n += 1
        if byte == _DOT:
            if 0 < i < data.size - 1 and classes[before] == _DIGIT and classes[data[i + 1]] == _DIGIT:
                places[n] = ((i - 1) << 2) | 1
                n += 1
        elif (
            byte == _COLON
            and i >= 4
            and data[i - 4] == _TWO
            and (classes[data[i - 3]] and classes[data[i - 2]] and classes[before])
        ):
            places[n] = ((i - 4) << 2) | 2
            n += 1
        before = byte
    return n


def n_controls(data: bytes) -> int:
    """Return the number of ASCII control characters, those of white space left out."""
    return int(_controls(np.frombuffer(data, np.uint8)))


@compiled
def _controls(data: Any) -> Any:  # pragma: no cover - compiled
    n = 0
    for i in range(data.size):
        byte = data[i]
        n += np.int64((byte < 9) | ((byte > 13) & (byte < 32)) | (byte == 127))
    return n
