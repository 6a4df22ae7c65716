"""Operators for text of web pages: noise lines out, repetition, boilerplate, symbols, lists.

The rules are the published ones of C4 (Raffel et al. 2020), Gopher's MassiveText (Rae et al. 2021, appendix A) and
FineWeb (Penedo et al. 2024), as fields with their numbers; where a number is ours, the field says so. They judge prose:
code between fences and formulas between dollars are left out of every measurement, and documents that are not prose
(code blocks) pass untouched.

Not covered: C4's rule against curly brackets and its rule that lines end in punctuation (both lose pages with code),
lists of bad words, rules that need a reference corpus.
"""

from __future__ import annotations

import functools
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from codeflow.core.languages import domain_of
from codeflow.core.types import Document
from codeflow.transform.operator import Drop, Operator, with_tags, with_text

if TYPE_CHECKING:
    from codeflow.transform.prose_scan import Words

_OPENING = re.compile(r"(`{3,})[^`\n]*\n")
_BLANKS = re.compile(r"[ \t]*$", re.MULTILINE)
_FORMULA = re.compile(r"\$\$[^$]{1,2000}\$\$|\$[^$\n]{1,300}\$")
_BULLETS = ("-", "•", "●", "*", "‣", "◦", "▪", "■", "▶", "·")  # Gopher's • and -; the others are ours
_ENDS = (".", "!", "?", '"', "'", "”", "’", "»", ":", ";", ")", "…", "。", "！", "？", "」", "』", "،", "؟", "।")
_STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}  # Gopher's
_POLICY = re.compile(
    r"terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies|\bjavascript\b.*\b(?:enabled?|"
    r"disabled?|requires?|turn on|browser)\b|\b(?:enable|requires?|turn on) javascript\b",
    re.IGNORECASE,
)  # C4's phrases; "javascript" alone would take lines out of pages about it
_NOISE = re.compile(
    r"(?:share|tweet|pin it|print|e-?mail|reply|read more|continue reading|log ?in|sign ?(?:in|up|out)|register|"
    r"subscribe|"
    r"advertisements?|skip to (?:main )?content|back to top|previous|next|prev|menu|search|loading\.*|close|home|"
    r"leave a (?:comment|reply)|follow us|show more|view all|click here|table of contents|edit this page|"
    r"copy(?: link)?|"
    r"(?:posted|published|updated|last modified)(?: on| by)?:? .{0,40}|\d+ (?:comments?|views?|likes?|shares?)|"
    r"(?:copyright|©|\(c\)).{0,80}|.{0,60}all rights reserved\.?)[ .:!»›→|]*",
    re.IGNORECASE,
)
_NOISE_CHARACTERS = 100  # a longer line says more than its noise
_BEGINNINGS = (  # of what `_NOISE` matches, digits and © left out
    "sha twe pin pri ema e-m rep rea con log sig reg sub adv ski bac pre nex men sea loa clo hom lea fol sho vie cli "
    "tab edi cop pos pub upd las (c)"
)
_LEADING = "-•* "  # before noise
_POLICY_WORDS = ("terms of use", "privacy policy", "cookie", "javascript")  # one is in all that `_POLICY` matches
_LATE_NOISE = "all rights reserved"  # and this in what `_NOISE` matches with anything before it
_FENCE = re.compile(r"`{3,}")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Prose:
    """A page's text without code and formulas, with the views that the rules share."""

    text: str

    @functools.cached_property
    def lines(self) -> list[str]:
        """Lines with something on them, stripped."""
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @functools.cached_property
    def paragraphs(self) -> list[str]:
        """Paragraphs, stripped."""
        return [part for part in map(str.strip, self.text.split("\n\n")) if part]

    @functools.cached_property
    def codes(self) -> npt.NDArray[np.uint32]:
        """The text's characters, (n,)."""
        from codeflow.transform.prose_scan import code_points

        return code_points(self.text)

    @functools.cached_property
    def words(self) -> Words:
        """The text split at white space, and measured."""
        from codeflow.transform.prose_scan import words_of

        return words_of(self.codes)

    @property
    def is_unspaced(self) -> bool:
        """Whether the text is mostly in a script that writes no spaces between words (Chinese, Japanese, Thai)."""
        return self.words.n_unspaced > 0.3 * len(self.text)

    @functools.cached_property
    def numbers(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """Numbers of the words, equal for equal ones, and the places where each distinct one first comes."""
        from codeflow.transform.prose_scan import numbered

        return numbered(self.codes, self.words)

    def distinct_words(self, max_characters: int) -> Iterator[str]:
        """Yield the distinct words that are no longer."""
        firsts = self.numbers[1]
        starts, ends = self.words.starts[firsts], self.words.ends[firsts]
        short = ends - starts <= max_characters
        for start, end in zip(starts[short].tolist(), ends[short].tolist(), strict=True):
            yield self.text[start:end]


@functools.lru_cache(maxsize=2)  # the operators follow each other on one document
def prose_of(text: str) -> Prose:
    """Return the prose of a page."""
    if "```" in text:
        text = _without_code(text)
    return Prose(_FORMULA.sub(" x ", text) if "$" in text else text)


def _without_code(text: str) -> str:
    """Leave out blocks between fences: a line of three backticks or more, and the next line of as many and blanks."""
    text = f"\n{text}"
    kept: list[str] = []
    copied, place = 0, text.find("\n```")
    endless: set[str] = set()  # fences that are not closed from here on
    while place >= 0:
        end = -1
        opening = _OPENING.match(text, place + 1)
        if opening and opening[1] not in endless:
            end = _closing(text, opening.end(), opening[1])
            if end >= 0:
                kept.append(text[copied : place + 1])
                copied = end
            else:
                endless.add(opening[1])
        place = text.find("\n```", max(end, place + 1))
    return "".join([*kept, text[copied:]])[1:]


def _closing(text: str, place: int, fence: str) -> int:
    """Return where the next closing line ends, its newline left out, or -1. A line begins at `place`."""
    line = text.find(f"\n{fence}", place - 1)
    while line >= 0:
        if blanks := _BLANKS.match(text, line + 1 + len(fence)):
            return blanks.end()
        line = text.find(f"\n{fence}", line + 1)
    return -1


class _WebOperator(Operator):
    """What the operators below share: prose is judged, everything else passes."""

    def __call__(self, document: Document) -> Document | Drop:
        """Return the document, or the first reason against it with what was seen."""
        if domain_of(document.language) != "general":
            return document
        for reason, value, bound in self.measured(prose_of(document.text), document):
            if value > bound:
                return Drop(reason, f"{value:.3f} above {bound:g}")
        return document

    @abstractmethod
    def measured(self, prose: Prose, document: Document) -> Iterator[tuple[str, float, float]]:
        """Yield (reason, value, largest value allowed)."""


class WebLines(Operator):
    """Take noise out line by line: policies and cookies (C4), buttons, counters, copyright lines (ours).

    Lines in code stay. A page that loses most of its text is boilerplate. The tag "noise_lines" counts them.
    """

    name: ClassVar[str] = "web_lines"
    noted: ClassVar[tuple[str, ...]] = ("noise_lines",)
    max_removed_share: float = 0.5  # of the characters; ours
    drop_lorem_ipsum: bool = True  # C4: placeholder text

    def __call__(self, document: Document) -> Document | Drop:
        """Return the document without noise lines, or the reason to drop it."""
        if domain_of(document.language) != "general":
            return document
        if self.drop_lorem_ipsum and "lorem ipsum" in document.text.lower():
            return Drop("lorem_ipsum")
        lines = document.text.split("\n")
        noise = _noise_lines(document.text, lines)
        if not noise:
            return document
        n_characters = sum(len(lines[number]) for number in noise)
        if n_characters > self.max_removed_share * len(document.text):
            return Drop("boilerplate", f"{n_characters} of {len(document.text)} characters")
        text = "\n".join(line for number, line in enumerate(lines) if number not in noise)
        if "```" not in document.text:
            text = re.sub(r"\n{3,}", "\n\n", text).strip("\n")
        return with_tags(with_text(document, text), {"noise_lines": float(len(noise))})


def _noise_lines(text: str, lines: list[str]) -> set[int]:
    """Return the numbers of the lines that are noise, code left out. Only lines with a sign of it are looked at."""
    from codeflow.transform.prose_scan import code_points, lines_that_begin

    fence, noise = "", set()
    beginning = lines_that_begin(code_points(text), _BEGINNINGS, _NOISE_CHARACTERS)
    with_words = set(_with_words(text))
    for number in sorted({*beginning, *with_words}):
        line = lines[number]
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[0]
        elif mark and mark[0] == fence and line.rstrip() == fence:
            fence = ""
        elif not fence and _is_noise(line.strip(), number in with_words):
            noise.add(number)
    return noise


def _with_words(text: str) -> Iterator[int]:
    """Yield the numbers of the lines in which a word of policies stands, in any case."""
    lowered = text.lower()
    if not text.isascii() and (len(lowered) != len(text) or "ı" in lowered or "ſ" in lowered):
        yield from range(text.count("\n") + 1)  # letters that patterns take for others: any line may hold a word
        return
    for word in (*_POLICY_WORDS, _LATE_NOISE):
        number, counted, place = 0, 0, lowered.find(word)
        while place >= 0:
            number += lowered.count("\n", counted, place)
            yield number
            counted = place
            line_end = lowered.find("\n", place)
            place = lowered.find(word, line_end) if line_end >= 0 else -1


def _is_noise(line: str, has_words: bool = True) -> bool:
    """Say whether a stripped line is noise. `has_words`: it may hold one of `_POLICY_WORDS`."""
    if not line or len(line) > _NOISE_CHARACTERS:
        return has_words and bool(line) and len(line) < 3 * _NOISE_CHARACTERS and bool(_POLICY.search(line))
    return bool(_NOISE.fullmatch(line.lstrip(_LEADING)) or (has_words and _POLICY.search(line)))


class WebRepetition(_WebOperator):
    """Gopher's bounds on repetition: text that says the same again teaches to repeat, and is mostly machine-made."""

    name: ClassVar[str] = "web_repetition"
    max_duplicate_lines: float = 0.30
    max_duplicate_paragraphs: float = 0.30
    max_duplicate_line_characters: float = 0.20
    max_duplicate_paragraph_characters: float = 0.20
    max_top_n_gram: tuple[float, ...] = (0.20, 0.18, 0.16)  # characters in the most frequent 2-, 3- and 4-gram
    max_duplicate_n_grams: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)  # in repeated 5- to 10-grams

    def measured(self, prose: Prose, document: Document) -> Iterator[tuple[str, float, float]]:
        """Yield shares of lines, paragraphs and n-grams that repeat."""
        n_characters = max(1, len(prose.text))
        share, characters = _duplicates(prose.lines, n_characters)
        yield "duplicate_lines", share, self.max_duplicate_lines
        yield "duplicate_line_characters", characters, self.max_duplicate_line_characters
        share, characters = _duplicates(prose.paragraphs, n_characters)
        yield "duplicate_paragraphs", share, self.max_duplicate_paragraphs
        yield "duplicate_paragraph_characters", characters, self.max_duplicate_paragraph_characters
        if prose.is_unspaced:  # its words cannot be told apart by spaces
            return
        grams = _Grams(prose, n_characters)
        for n, bound in enumerate(self.max_top_n_gram, 2):
            yield f"top_{n}_gram", grams.top(n), bound
        for n, bound in enumerate(self.max_duplicate_n_grams, 5):
            yield f"duplicate_{n}_grams", grams.duplicated(n), bound


def _duplicates(parts: list[str], n_characters: int) -> tuple[float, float]:
    """Return the share of parts that were there before, and their characters' share of `n_characters`."""
    n_repeated = len(parts) - len(set(parts))
    if not n_repeated:
        return 0.0, 0.0
    repeated = sum((n - 1) * len(part) for part, n in Counter(parts).items())
    return n_repeated / len(parts), repeated / n_characters


class _Grams:
    """Shares of a text's characters in frequent and in repeated word n-grams, by 64-bit hashes of the n-grams."""

    def __init__(self, prose: Prose, n_characters: int) -> None:
        words = prose.words
        self._ids = prose.numbers[0] * _MULTIPLIER
        self._ends = np.concatenate([[0], np.cumsum(words.ends - words.starts)])
        self._n_characters = n_characters
        self._n, self._hashes = 1, self._ids

    def _of(self, n: int) -> np.ndarray:
        """Return one hash per n-gram; n must not fall from call to call."""
        while self._n < n:
            longer = self._hashes[:-1] if len(self._hashes) else self._hashes
            self._hashes = longer * _MULTIPLIER + self._ids[self._n :]
            self._n += 1
        return self._hashes

    def top(self, n: int) -> float:
        """Return the share of characters in the most frequent n-gram, 0 where none comes twice."""
        from codeflow.transform.prose_scan import most_frequent

        hashes = self._of(n)
        if not len(hashes):
            return 0.0
        count, start = most_frequent(hashes)
        if count < 2:
            return 0.0
        n_characters = int(self._ends[start + n] - self._ends[start]) + n - 1
        return n_characters * count / self._n_characters

    def duplicated(self, n: int) -> float:
        """Return the share of characters of words in n-grams that were there before, each word once."""
        from codeflow.transform.prose_scan import n_repeated_characters

        hashes = self._of(n)
        if not len(hashes):
            return 0.0
        return n_repeated_characters(hashes, n, self._ends) / self._n_characters


class WebQuality(_WebOperator):
    """Gopher's bounds on what prose looks like, FineWeb's on lines, and a bound of ours on signs."""

    name: ClassVar[str] = "web_quality"
    min_words: int = 50  # Gopher; code in the page counts, so that a short explanation of code stays
    max_words: int = 100_000  # Gopher
    min_mean_word_characters: float = 3.0  # Gopher
    max_mean_word_characters: float = 10.0  # Gopher
    max_symbols_per_word: float = 0.1  # Gopher: `#` and ellipses
    max_bullet_lines: float = 0.9  # Gopher
    max_ellipsis_lines: float = 0.3  # Gopher
    min_alphabetic_words: float = 0.8  # Gopher: words with a letter
    min_stop_words: int = 2  # Gopher, English only
    min_punctuated_lines: float = 0.12  # FineWeb: lines that end in punctuation
    max_short_lines: float = 0.67  # FineWeb: lines of at most `short_line_characters`
    short_line_characters: int = 30  # FineWeb
    max_sign_share: float = 0.35  # of visible characters that are no letters or digits; ours
    min_prose_words: int = 20  # pages with less prose (all code) are judged by their number of words only; ours

    def measured(self, prose: Prose, document: Document) -> Iterator[tuple[str, float, float]]:
        """Yield what prose is bounded in; lower bounds are yielded as what is missing."""
        words = prose.words
        if prose.is_unspaced:
            n_words = len(document.text) // 2
        else:  # of the code, too
            n_words = len(words if prose.text == document.text else Prose(document.text).words)
        yield "few_words", self.min_words - n_words, 0
        yield "many_words", n_words, self.max_words
        if len(words) < self.min_prose_words and not prose.is_unspaced:
            return
        lines = [line for line in prose.lines if "\t\t" not in line]  # rows of tables are no sentences
        n_lines = max(1, len(lines))
        yield "symbols", (prose.text.count("#") + _n_ellipses(prose.text)) / max(1, n_words), self.max_symbols_per_word
        yield "bullet_lines", sum(line.startswith(_BULLETS) for line in lines) / n_lines, self.max_bullet_lines
        ellipses = sum(line.endswith(("...", "…")) for line in lines) / n_lines
        yield "ellipsis_lines", ellipses, self.max_ellipsis_lines
        punctuated = sum(line.endswith(_ENDS) for line in lines) / n_lines
        yield "unpunctuated_lines", 1 - punctuated if lines else 0.0, 1 - self.min_punctuated_lines
        short = sum(len(line) <= self.short_line_characters for line in lines) / n_lines
        if not prose.is_unspaced:
            yield "short_lines", short, self.max_short_lines
            yield from self._of_words(prose, document)
        yield "signs", words.n_signs / max(1, words.n_characters), self.max_sign_share

    def _of_words(self, prose: Prose, document: Document) -> Iterator[tuple[str, float, float]]:
        words, n_words = prose.words, max(1, len(prose.words))
        mean = words.n_characters / n_words
        yield "short_words", self.min_mean_word_characters - mean, 0
        yield "long_words", mean, self.max_mean_word_characters
        yield "few_alphabetic_words", 1 - words.n_with_letter / n_words, 1 - self.min_alphabetic_words
        told = [tag for tag in document.tags if tag.startswith("natural_language_")]
        if not told or told == ["natural_language_en"]:
            short = prose.distinct_words(max(map(len, _STOP_WORDS)))
            n_stop_words = len(_STOP_WORDS.intersection(map(str.lower, short)))
            yield "few_stop_words", self.min_stop_words - n_stop_words, 0


def _n_ellipses(text: str) -> int:
    return text.count("...") + text.count("…")
