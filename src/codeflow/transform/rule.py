"""What a filter rule is, and the page it looks at: a document with the views that many rules share.

About fifty rules look at every document, so what they count is counted once, by the byte and in one compiled pass: a
histogram of bytes, words and lines, how many of those hold a letter, and the longest. Most rules are then a comparison.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from codeflow.core.config import Config
from codeflow.core.languages import BY_NAME
from codeflow.core.types import Document

if TYPE_CHECKING:
    from codeflow.transform.byte_scan import Survey

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


@dataclass(frozen=True)
class Page:
    """A document with the views that several rules share, each made at most once."""

    document: Document

    @functools.cached_property
    def data(self) -> bytes:
        """The text's bytes."""
        return self.document.text.encode("utf-8", "replace")

    @functools.cached_property
    def survey(self) -> Survey:
        """What one pass over the bytes counts."""
        from codeflow.transform.byte_scan import survey

        return survey(self.data, VISIBLE, LETTERS)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """How often each byte occurs, (256,)."""
        return self.survey.counts

    @functools.cached_property
    def n_visible(self) -> int:
        """Bytes that are not white space."""
        return self.count(VISIBLE)

    @functools.cached_property
    def lines(self) -> list[str]:
        """The lines, without the empty one behind the last newline."""
        lines = self.document.text.split("\n")
        return lines[:-1] if lines[-1] == "" else lines

    @property
    def longest_line(self) -> int:
        """Characters of the longest line."""
        return self.survey.longest_line

    @functools.cached_property
    def n_line_characters(self) -> int:
        """Characters of all lines, without the newlines."""
        return len(self.document.text) - self.document.text.count("\n")

    @functools.cached_property
    def n_lines(self) -> int:
        """The number of lines, without the empty one behind the last newline."""
        text = self.document.text
        return text.count("\n") + (text != "" and not text.endswith("\n"))

    @property
    def n_lines_without_letter(self) -> int:
        """Lines that are not blank and hold no letter."""
        return self.survey.n_lines_visible - self.survey.n_lines_with_letter

    @property
    def n_words(self) -> int:
        """Runs of visible bytes."""
        return self.survey.n_words

    @property
    def n_words_with_letter(self) -> int:
        """Words that hold a letter of any script."""
        return self.survey.n_words_with_letter

    def words_from(self, n_bytes: int) -> list[str]:
        """Return the words of at least `n_bytes` bytes."""
        if self.survey.longest_word < n_bytes:
            return []
        lines = [line for line in self.data.split(b"\n") if len(line) >= n_bytes]  # few, and quick to find
        words = (word for line in lines for word in line.split() if len(word) >= n_bytes)
        return [word.decode("utf-8", "replace") for word in words]

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

    def applies_to(self, language: str, domain: str) -> bool:
        """Return whether the rule has a say on a language of a domain."""
        return language in self.languages if self.languages else domain in self.domains

    @classmethod
    def thresholds(cls) -> dict[str, Any]:
        """Return the fields that are thresholds, with their defaults."""
        return {name: field.default for name, field in cls.model_fields.items() if name != "enabled"}
