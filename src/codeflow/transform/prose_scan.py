"""Compiled passes over prose, character by character, for what the operators of web pages count in every document.

Each takes about a nanosecond a character in place of several passes by regular expressions and Python loops. What a
character is (white space, letter, digit) is what `str` says; what a line or a word means is decided by the callers.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codeflow.transform.minhash import compiled

Codes = npt.NDArray[np.uint32]  # Unicode code points, one per character
UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]

_WHITE, _LETTER, _LETTER_OR_DIGIT, _DECIMAL, _UNSPACED = 1, 2, 4, 8, 16
_BLOCK = 256
_NEWLINE, _SPACE, _HYPHEN, _ASTERISK, _BACKTICK, _BULLET = 10, 32, 45, 42, 96, 0x2022
_OTHER_CASES = {0x130: "i", 0x131: "i", 0x17F: "s", 0x212A: "k"}  # what `re.IGNORECASE` takes for ASCII letters
_COPYRIGHT = 0xA9
_UNSPACED_RANGES = (  # Thai to Tibetan, Burmese, Khmer, kana, Han
    *((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF)),
    *((0x3400, 0x9FFF), (0xF900, 0xFAFF)),
)
_START, _FACTOR, _32 = np.uint64(0xCBF29CE484222325), np.uint64(0x9FB21C651E98DF25), np.uint64(32)
_classes = np.zeros(
    0x110000, np.uint8
)  # by code point; a block is filled when a text first holds one of its characters
_filled = np.zeros(0x110000 // _BLOCK, np.bool_)


def _fill(block: int) -> None:
    for code in range(block * _BLOCK, (block + 1) * _BLOCK):
        sign = chr(code)
        _classes[code] = (
            _WHITE * sign.isspace()
            | _LETTER * sign.isalpha()
            | _LETTER_OR_DIGIT * sign.isalnum()
            | _DECIMAL * sign.isdecimal()
            | _UNSPACED * any(first <= code <= last for first, last in _UNSPACED_RANGES)
        )
    _filled[block] = True


def code_points(text: str) -> Codes:
    """Return the characters of a text, (n,)."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    blocks = [0] if text.isascii() else np.flatnonzero(np.bincount(codes // _BLOCK)).tolist()
    for block in blocks:
        if not _filled[block]:
            _fill(block)
    return codes


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text, as `str.split` finds them, and what they are made of."""

    starts: Int64  # (words,), offsets of their first characters
    ends: Int64  # (words,), behind their last ones
    n_characters: int
    n_with_letter: int
    n_signs: int  # characters that are neither letters nor digits, control characters left out
    n_unspaced: int  # characters of scripts that write no spaces between words

    def __len__(self) -> int:
        return len(self.starts)


def words_of(codes: Codes) -> Words:
    """Find and measure words in one pass."""
    starts, ends = np.empty((2, len(codes) // 2 + 1), np.int64)
    n, *numbers = _words(codes, _classes, starts, ends)
    return Words(starts[:n], ends[:n], *map(int, numbers))


@compiled
def _words(codes, classes, starts, ends):  # pragma: no cover - compiled
    n, n_characters, n_with_letter, n_signs, n_unspaced = 0, 0, 0, 0, 0
    inside, has_letter = False, 0
    for i in range(codes.size):
        code = codes[i]
        kind = classes[code]
        n_unspaced += (kind & _UNSPACED) != 0
        if kind & _WHITE:
            if inside:
                ends[n] = i
                n_characters += i - starts[n]
                n_with_letter += has_letter
                n += 1
                inside = False
        else:
            if not inside:
                starts[n] = i
                inside, has_letter = True, 0
            has_letter |= (kind & _LETTER) != 0
            n_signs += code > _SPACE and (kind & _LETTER_OR_DIGIT) == 0
    if inside:
        ends[n] = codes.size
        n_characters += codes.size - starts[n]
        n_with_letter += has_letter
        n += 1
    return n, n_characters, n_with_letter, n_signs, n_unspaced


def numbered(codes: Codes, words: Words) -> tuple[UInt64, Int64]:
    """Return a number from 1 on for each word, equal for equal words, in the order in which they first come, (words,);
    and the places among the words where each comes first, (distinct words,)."""
    numbers, firsts = np.empty(len(words), np.uint64), np.empty(len(words), np.int64)
    n = _numbered(codes, words.starts, words.ends, numbers, firsts)
    return numbers, firsts[:n]


@compiled
def _numbered(codes, starts, ends, numbers, firsts):  # pragma: no cover - compiled
    size = 2
    while size < 2 * starts.size:
        size *= 2
    table, mask, n = np.full(size, -1, np.int64), np.uint64(size - 1), 0
    for word in range(starts.size):
        start, length = starts[word], ends[word] - starts[word]
        state = _START
        for i in range(start, start + length):
            state = (state ^ np.uint64(codes[i])) * _FACTOR
        at = ((state ^ (state >> _32)) * _FACTOR >> _32) & mask
        while True:
            known = table[at]
            if known < 0:
                table[at], firsts[n] = n, word
                n += 1
                numbers[word] = n
                break
            other = starts[firsts[known]]
            same = ends[firsts[known]] - other == length
            for i in range(length if same else 0):
                if codes[other + i] != codes[start + i]:
                    same = False
                    break
            if same:
                numbers[word] = known + 1
                break
            at = (at + np.uint64(1)) & mask
    return n


def most_frequent(hashes: UInt64) -> tuple[int, int]:
    """Return (how often, place where it first comes) of the most frequent hash, the smallest where several are.

    `hashes`: (n,), not empty.
    """
    n, first = _most_frequent(hashes)
    return int(n), int(first)


@compiled
def _most_frequent(hashes):  # pragma: no cover - compiled
    size = 2
    while size < 2 * hashes.size:
        size *= 2
    firsts, counts, mask = np.full(size, -1, np.int64), np.zeros(size, np.int64), np.uint64(size - 1)
    best, best_first = 0, 0
    for i in range(hashes.size):
        value = hashes[i]
        at = ((value ^ (value >> _32)) * _FACTOR >> _32) & mask
        while firsts[at] >= 0 and hashes[firsts[at]] != value:
            at = (at + np.uint64(1)) & mask
        if firsts[at] < 0:
            firsts[at] = i
        counts[at] += 1
        if counts[at] > best or (counts[at] == best and value < hashes[best_first]):
            best, best_first = counts[at], firsts[at]
    return best, best_first


def n_repeated_characters(hashes: UInt64, n: int, ends: Int64) -> int:
    """Return the characters of words that lie in n-grams that came before, each word once.

    `hashes`: (n-grams,), by the place of their first word; `ends`: (words + 1,), characters before each word.
    """
    return int(_n_repeated_characters(hashes, n, ends))


@compiled
def _n_repeated_characters(hashes, n, ends):  # pragma: no cover - compiled
    size = 2
    while size < 2 * hashes.size:
        size *= 2
    firsts, mask, total, covered = np.full(size, -1, np.int64), np.uint64(size - 1), 0, 0
    for i in range(hashes.size):
        value = hashes[i]
        at = ((value ^ (value >> _32)) * _FACTOR >> _32) & mask
        while firsts[at] >= 0 and hashes[firsts[at]] != value:
            at = (at + np.uint64(1)) & mask
        if firsts[at] < 0:
            firsts[at] = i
        else:
            total += ends[i + n] - ends[max(i, covered)]
            covered = i + n
    return total


def _folded() -> npt.NDArray[np.uint8]:
    """Return the ASCII character that a pattern without case takes a character for, itself or 0, by code point."""
    table = np.zeros(0x110000, np.uint8)
    table[:128] = [ord(chr(code).lower()) for code in range(128)]
    for code, sign in _OTHER_CASES.items():
        table[code] = ord(sign)
    return table


_FOLDED = _folded()


@functools.cache
def _beginnings(triples: str) -> npt.NDArray[np.bool_]:
    """Return which three folded characters are among `triples`, (128, 128, 128)."""
    table = np.zeros((128, 128, 128), np.bool_)
    for triple in triples.split():
        table[tuple(map(ord, triple))] = True
    return table


def lines_that_begin(codes: Codes, triples: str, max_characters: int) -> list[int]:
    """Return the numbers of lines that begin with a fence of code, a digit, © or one of `triples`.

    `triples`: three ASCII characters each, letters small, with spaces between. White space, hyphens, asterisks and
    bullets before them do not count, nor does case; a line with more than `max_characters`, white space around it left
    out, begins with nothing but a fence.
    """
    numbers = np.empty(len(codes) + 1, np.int64)
    return numbers[: _lines(codes, _classes, _FOLDED, _beginnings(triples), max_characters, numbers)].tolist()


@compiled
def _lines(codes, classes, folded, triples, max_characters, numbers):  # pragma: no cover - compiled
    n, line, start = 0, 0, 0
    for i in range(codes.size + 1):
        if i < codes.size and codes[i] != _NEWLINE:
            continue
        first, last = start, i
        while first < last and classes[codes[first]] & _WHITE:
            first += 1
        while last > first and classes[codes[last - 1]] & _WHITE:
            last -= 1
        fits = last - first <= max_characters
        while first < last and (
            codes[first] == _HYPHEN or codes[first] == _BULLET or codes[first] == _ASTERISK or codes[first] == _SPACE
        ):
            first += 1
        found = False
        if i - start >= 3:
            found = codes[start] == _BACKTICK and codes[start + 1] == _BACKTICK and codes[start + 2] == _BACKTICK
        if fits and first < last:
            if first + 2 < last:
                found |= triples[folded[codes[first]], folded[codes[first + 1]], folded[codes[first + 2]]]
            found |= codes[first] == _COPYRIGHT or (classes[codes[first]] & _DECIMAL) != 0
        if found:
            numbers[n] = line
            n += 1
        line, start = line + 1, i + 1
    return n


def visits(data: npt.NDArray[np.uint8], moves: npt.NDArray[Any], rows: Int64, features: Int64) -> tuple[Int64, Int64]:
    """Walk an automaton over bytes; return the features it meets, in the order they first come, and how often each.

    `moves`: next states, by row and byte, flat; `rows`: where a state's row begins; `features`: of a state, or -1.
    """
    found, counts = np.empty((2, len(data)), np.int64)
    n = _visits(data, moves, rows, features, found, counts)
    return found[:n], counts[:n]


@compiled
def _visits(data, moves, rows, features, found, counts):  # pragma: no cover - compiled
    size = 2
    while size < 2 * data.size:
        size *= 2
    table, mask = np.full(size, -1, np.int64), np.uint64(size - 1)
    state, n = np.int64(0), 0
    for i in range(data.size):
        state = np.int64(moves[rows[state] + data[i]])
        feature = features[state]
        if feature < 0:
            continue
        at = (np.uint64(feature) * _FACTOR >> _32) & mask
        while table[at] >= 0 and found[table[at]] != feature:
            at = (at + np.uint64(1)) & mask
        if table[at] < 0:
            table[at], found[n], counts[n] = n, feature, 0
            n += 1
        counts[table[at]] += 1
    return n
