"""Rules for prose among code, after Gopher (MassiveText), C4 and FineWeb.

Documentation has lists, headings and code blocks, so some bounds are wider than published ones for web pages, and say
so. Web pages have an operator of their own: `web_text`.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import ClassVar

from codeflow.transform.rule import Page, Rule

_BULLETS = ("-", "*", "•", "‣", "·", "+ ", "– ")
_ELLIPSES = ("...", "…")
_TERMINAL = (".", "!", "?", ":", '"', "'", "”", "。", "！", "？", "；", ")", "`", ";", ",")
_WORD = re.compile(r"\w+")
_MAX_WORDS = 20_000  # runs of words are counted in the start of a text


class _ProseRule(Rule):
    """A rule that looks at prose only."""

    domains: ClassVar[tuple[str, ...]] = ("general",)


def _filled_lines(page: Page) -> list[str]:
    return [line for line in map(str.strip, page.lines) if line]


class LoremIpsum(_ProseRule):
    """A designer's placeholder text, which stands for no text at all. C4 drops pages that hold it."""

    reason: ClassVar[str] = "lorem_ipsum"

    def refuses(self, page: Page) -> str:
        """Look for the words."""
        text = page.document.text
        return "lorem ipsum" if "orem ipsum" in text else ""


class WordLength(_ProseRule):
    """Words too short or too long on average: codes, spaced letters, or words run together. Gopher: 3 to 10 letters.

    Wider here: tables of options and paths stand in documentation.
    """

    reason: ClassVar[str] = "word_length"
    min_mean: float = 2.5
    max_mean: float = 14.0

    def refuses(self, page: Page) -> str:
        """Visible characters per word; in scripts without blanks between words the rule has no say."""
        if not page.n_words or not page.document.text.isascii():
            return ""
        mean = page.n_visible / page.n_words
        return "" if self.min_mean <= mean <= self.max_mean else f"{mean:.1f} characters per word"


class BulletLines(_ProseRule):
    """Nothing but a list. Gopher drops pages with over 90 % of the lines beginning with a bullet."""

    reason: ClassVar[str] = "bullet_lines"
    max_share: float = 0.9
    min_lines: int = 10

    def refuses(self, page: Page) -> str:
        """Lines that begin with a bullet, among those that are not blank."""
        lines = _filled_lines(page)
        if len(lines) < self.min_lines:
            return ""
        share = sum(line.startswith(_BULLETS) for line in lines) / len(lines)
        return f"{share:.3f} of the lines begin with a bullet" if share > self.max_share else ""


class EllipsisLines(_ProseRule):
    """Teasers cut off by a page's layout. Gopher drops pages with over 30 % of the lines ending in an ellipsis."""

    reason: ClassVar[str] = "ellipsis_lines"
    max_share: float = 0.3

    def refuses(self, page: Page) -> str:
        """Lines that end in an ellipsis, among those that are not blank."""
        text = page.document.text
        if "..." not in text and "…" not in text:
            return ""
        lines = _filled_lines(page)
        share = sum(line.endswith(_ELLIPSES) for line in lines) / max(1, len(lines))
        return f"{share:.3f} of the lines end in an ellipsis" if share > self.max_share else ""


class SymbolWords(_ProseRule):
    """Hashes and ellipses instead of sentences. Gopher drops pages with over 0.1 of them a word.

    Headings begin with hashes in Markdown, so a line's first ones do not count.
    """

    reason: ClassVar[str] = "symbol_words"
    max_per_word: float = 0.1

    def refuses(self, page: Page) -> str:
        """Count both signs."""
        text = page.document.text
        n = text.count("#") - sum(len(line) - len(line.lstrip("#")) for line in page.lines if line[:1] == "#")
        n += text.count("...") + text.count("…")
        share = n / max(1, page.n_words)
        return f"{share:.3f} hashes or ellipses a word" if share > self.max_per_word else ""


class FewTerminals(_ProseRule):
    """No line is a sentence: menus, lists of names. FineWeb drops pages with under 12 % of the lines ending in a
    punctuation mark; lower here, since documentation wraps its lines, and marks of code count."""

    reason: ClassVar[str] = "few_terminals"
    min_share: float = 0.03
    min_lines: int = 10

    def refuses(self, page: Page) -> str:
        """Lines that end in a mark, among those that are not blank."""
        lines = _filled_lines(page)
        if len(lines) < self.min_lines:
            return ""
        share = sum(line.endswith(_TERMINAL) for line in lines) / len(lines)
        return f"{share:.3f} of the lines end in a mark" if share < self.min_share else ""


class RepeatedParagraphs(_ProseRule):
    """The same paragraphs again. Gopher drops pages with over 30 % duplicate paragraphs or 20 % of the characters.

    The bound on characters is wider here: reference pages repeat warnings and signatures.
    """

    reason: ClassVar[str] = "repeated_paragraphs"
    max_share: float = 0.3
    min_paragraphs: int = 5

    def refuses(self, page: Page) -> str:
        """Characters of paragraphs seen before, among those of all paragraphs."""
        paragraphs = [part for part in map(str.strip, page.document.text.split("\n\n")) if part]
        if len(paragraphs) < self.min_paragraphs:
            return ""
        share = 1 - sum(map(len, set(paragraphs))) / sum(map(len, paragraphs))
        return f"{share:.3f} of the paragraphs' characters repeat" if share > self.max_share else ""


class RepeatedWordRuns(_ProseRule):
    """One phrase fills the page. Gopher drops pages whose most frequent run of 2, 3 or 4 words covers over 20, 18 or
    16 % of the characters; of these the run of four is judged, the one that tables of documentation do not reach."""

    reason: ClassVar[str] = "repeated_word_runs"
    n_words: int = 4
    max_share: float = 0.16
    min_count: int = 3

    def refuses(self, page: Page) -> str:
        """Characters of the most frequent run, all its occurrences, among those of all words."""
        words = _WORD.findall(page.document.text)[:_MAX_WORDS]
        runs = Counter(zip(*(words[at:] for at in range(self.n_words)), strict=False))
        if not runs:
            return ""
        run, n = max(runs.items(), key=lambda item: (item[1] * sum(map(len, item[0])), item[0]))
        if n < self.min_count:
            return ""
        share = n * sum(map(len, run)) / sum(map(len, words))
        return f"'{' '.join(run)}' {n} times, {share:.3f} of the words" if share > self.max_share else ""
