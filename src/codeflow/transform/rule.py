"""What a filter rule is, and the page it looks at: a document with the views that many rules share.

About fifty rules look at every document, so what they count is counted once and by the byte: a histogram of bytes, the
starts of words and of lines, and which of those hold a letter. That is a few milliseconds a megabyte, and most rules
are then one comparison.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from codeflow.core.config import Config
from codeflow.core.languages import BY_NAME
from codeflow.core.types import Document

Mask = npt.NDArray[np.bool_]  # (256,), by byte


def _mask(members: bytes) -> Mask:
    mask = np.zeros(256, bool)
    mask[list(members)] = True
    return mask


WHITE_SPACE = _mask(b" \t\n\r\f\v")
VISIBLE = ~WHITE_SPACE
DIGITS = _mask(b"0123456789")
ASCII_LETTERS = _mask(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
OTHER_SCRIPTS = _mask(bytes(range(128, 256)))
LETTERS = ASCII_LETTERS | OTHER_SCRIPTS
ALPHANUMERICS = LETTERS | DIGITS
_NEWLINE = 10


@dataclass(frozen=True)
class Page:
    """A document with the views that several rules share, each made at most once."""

    document: Document

    @functools.cached_property
    def data(self) -> bytes:
        """The text's bytes."""
        return self.document.text.encode("utf-8", "replace")

    @functools.cached_property
    def array(self) -> npt.NDArray[np.uint8]:
        """The text's bytes as an array (n,)."""
        return np.frombuffer(self.data, np.uint8)

    @functools.cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """How often each byte occurs, (256,)."""
        return np.bincount(self.array, minlength=256)

    @functools.cached_property
    def n_visible(self) -> int:
        """Bytes that are not white space."""
        return self.count(VISIBLE)

    @functools.cached_property
    def lines(self) -> list[str]:
        """The lines, without the empty one behind the last newline."""
        lines = self.document.text.split("\n")
        return lines[:-1] if lines[-1] == "" else lines

    @functools.cached_property
    def line_lengths(self) -> npt.NDArray[np.int64]:
        """Characters per line."""
        if not self.document.text.isascii():
            return np.fromiter(map(len, self.lines), np.int64, len(self.lines))
        return np.diff(self.line_starts, append=len(self.data) + (not self.data.endswith(b"\n"))) - 1

    @functools.cached_property
    def line_starts(self) -> npt.NDArray[np.int64]:
        """Where in the bytes each line starts."""
        starts = np.concatenate([[0], np.flatnonzero(self.array == _NEWLINE) + 1])
        return starts[:-1] if starts[-1] == len(self.data) else starts

    @functools.cached_property
    def n_lines(self) -> int:
        """The number of lines, without the empty one behind the last newline."""
        text = self.document.text
        return text.count("\n") + (text != "" and not text.endswith("\n"))

    @functools.cached_property
    def _letters(self) -> npt.NDArray[np.bool_]:
        return LETTERS[self.array]

    @functools.cached_property
    def n_lines_without_letter(self) -> int:
        """Lines that are not blank and hold no letter."""
        if not self.n_lines:
            return 0
        with_letter = np.maximum.reduceat(self._letters, self.line_starts)
        blank = ~np.maximum.reduceat(VISIBLE[self.array], self.line_starts)
        return int(self.n_lines - with_letter.sum() - blank.sum())

    @functools.cached_property
    def word_borders(self) -> npt.NDArray[np.int64]:
        """Starts and ends (n_words, 2) of the runs of visible bytes."""
        padded = np.zeros(len(self.data) + 2, bool)
        np.take(VISIBLE, self.array, out=padded[1:-1])
        return np.flatnonzero(padded[1:] != padded[:-1]).reshape(-1, 2)

    @property
    def n_words(self) -> int:
        """Runs of visible bytes."""
        return len(self.word_borders)

    @functools.cached_property
    def n_words_with_letter(self) -> int:
        """Words that hold a letter of any script."""
        return int(np.maximum.reduceat(self._letters, self.word_borders[:, 0]).sum()) if self.n_words else 0

    def words_from(self, n_bytes: int) -> list[str]:
        """Return the words of at least `n_bytes` bytes."""
        borders = self.word_borders
        long = borders[borders[:, 1] - borders[:, 0] >= n_bytes]
        return [self.data[start:end].decode("utf-8", "replace") for start, end in long.tolist()]

    @functools.cached_property
    def domain(self) -> str:
        """code, general (prose) or data."""
        language = BY_NAME.get(self.document.language)
        return language.domain if language else "data"

    @functools.cached_property
    def name(self) -> str:
        """The file's name."""
        return self.document.origin.path.rpartition("/")[2]

    def tag(self, name: str, default: float = 0.0) -> float:
        """A measurement that an earlier operator or the source left."""
        return self.document.tags.get(name, default)

    def count(self, members: Mask) -> int:
        """Return how many bytes are among `members`."""
        return int(self.counts[members].sum())

    def share_of(self, members: Mask) -> float:
        """The share of the visible bytes that are among `members`; 0 for an empty text."""
        return self.count(members) / self.n_visible if self.n_visible else 0.0

    def line_share(self, n: int) -> float:
        """Return `n` as a share of the lines; 0 without lines."""
        return n / self.n_lines if self.n_lines else 0.0


class Rule(Config):
    """One reason to drop. `refuses` returns what it saw, or "" when the document may stay."""

    reason: ClassVar[str]
    domains: ClassVar[tuple[str, ...]] = ("code", "general", "data")
    languages: ClassVar[tuple[str, ...]] = ()  # all of the domains when empty
    enabled: bool = True

    @abstractmethod
    def refuses(self, page: Page) -> str:
        """Say what is wrong with the page, or ""."""

    def applies_to(self, page: Page) -> bool:
        """Return whether the rule has a say on the page's language."""
        if self.languages:
            return page.document.language in self.languages
        return page.domain in self.domains

    @classmethod
    def thresholds(cls) -> dict[str, Any]:
        """Return the fields that are thresholds, with their defaults."""
        return {name: field.default for name, field in cls.model_fields.items() if name != "enabled"}
