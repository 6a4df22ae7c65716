"""Rules for code line by line, and for single languages."""

from __future__ import annotations

import re
from typing import ClassVar

from codeflow.transform.rule import ASCII_LETTERS, Page, Rule

_IMPORTS = {
    "Python": ("\nimport ", "\nfrom "),
    "Java": ("\nimport ",),
    "Kotlin": ("\nimport ",),
    "Scala": ("\nimport ",),
    "JavaScript": ("\nimport ", "\nexport * from", "\nexport {"),
    "TypeScript": ("\nimport ", "\nexport * from", "\nexport {"),
    "TSX": ("\nimport ", "\nexport * from", "\nexport {"),
    "C#": ("\nusing ",),
    "Rust": ("\nuse ", "\npub use ", "\nmod ", "\npub mod "),
    "PHP": ("\nuse ", "\nrequire ", "\nrequire_once ", "\ninclude "),
    "Ruby": ("\nrequire ", "\nrequire_relative "),
    "C": ("\n#include ", "\n# include "),
    "C++": ("\n#include ", "\n# include ", "\nusing "),
}
_PLACEHOLDERS = ("TODO", "FIXME", "our code here")
_ASSERT = re.compile(r"^[ \t]*(?:self\.)?assert\w*\b|^[ \t]*(?:EXPECT|ASSERT)_\w+\(|^[ \t]*expect\(", re.MULTILINE)
_ASSERTIONS = {
    "C++": ("EXPECT_", "ASSERT_", "assert"),
    **dict.fromkeys(("JavaScript", "TypeScript", "TSX"), ("expect(", "assert")),
}
_ACCESSOR = re.compile(
    r"\b(?:public|protected)\s+(?:(?:static|final|virtual|override|function)\s+)*(?:[\w<>\[\],.?]+\s+)?"
    r"(?:get|set|is|Get|Set|Is)[A-Z]\w*\s*\("
)
_DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+\w+[ \t]+\S", re.MULTILINE)
_BUNDLE = ("__webpack_require__", "webpackBootstrap", "sourceMappingURL=data:", "parcelRequire=", "System.register([")
_INSERT = re.compile(r"^[ \t]*(?:INSERT INTO|REPLACE INTO|VALUES|\()", re.MULTILINE | re.IGNORECASE)
_TAG = re.compile(r"<(?:script|style)\b.*?</(?:script|style)>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_XML_CHARACTERS = 100
_KEYWORDS = re.compile(r"^[ \t]*(?:def|class|for|while|if|with|try|async|match|return|lambda)\b", re.MULTILINE)


class _CodeRule(Rule):
    """A rule that looks at code only."""

    domains: ClassVar[tuple[str, ...]] = ("code",)


class PlaceholderLines(_CodeRule):
    """Exercises and skeletons, yet to be written. OpenCoder bounds the lines with TODO, FIXME or "your code here".

    Its bound of 1 % would drop real files with one honest TODO in a hundred lines; ours is wider.
    """

    reason: ClassVar[str] = "placeholder_lines"
    max_share: float = 0.1

    def refuses(self, page: Page) -> str:
        """Count the words, per line."""
        share = page.line_share(sum(map(page.document.text.count, _PLACEHOLDERS)))
        return f"{share:.3f} placeholders a line" if share > self.max_share else ""


class AssertLines(_CodeRule):
    """Hardly anything but assertions: tables of expected values. OpenCoder drops beyond 40 % of the lines."""

    reason: ClassVar[str] = "assert_lines"
    max_share: float = 0.4
    min_lines: int = 10

    def refuses(self, page: Page) -> str:
        """Lines that begin with an assertion; the words are counted first, which is quick."""
        text, words = page.document.text, _ASSERTIONS.get(page.document.language, ("assert",))
        if page.n_lines < self.min_lines or sum(map(text.count, words)) <= self.max_share * page.n_lines:
            return ""
        share = page.line_share(len(_ASSERT.findall(text)))
        return f"{share:.3f} of the lines assert" if share > self.max_share else ""


class ImportLines(_CodeRule):
    """A file that only passes names on. OpenCoder drops Python beyond 30 % of the lines; other languages need more
    imports for the same work, so their bound is ours. Continued imports count by their first line."""

    reason: ClassVar[str] = "import_lines"
    languages: ClassVar[tuple[str, ...]] = tuple(_IMPORTS)
    max_share: float = 0.6
    max_python_share: float = 0.3
    min_imports: int = 5

    def refuses(self, page: Page) -> str:
        """Lines that begin with an import, at no indentation."""
        language, text = page.document.language, page.document.text
        openings = _IMPORTS[language]
        n = sum(map(text.count, openings)) + text.startswith(tuple(opening[1:] for opening in openings))
        bound = self.max_python_share if language == "Python" else self.max_share
        share = page.line_share(n)
        return f"{share:.3f} of the lines import" if n >= self.min_imports and share > bound else ""


class XmlHeader(_CodeRule):
    """XML under a code file's name. StarCoder drops files with an XML declaration in the first 100 characters."""

    reason: ClassVar[str] = "xml_header"

    def refuses(self, page: Page) -> str:
        """Look for the declaration."""
        return "an XML declaration" if "<?xml version=" in page.document.text[:_XML_CHARACTERS] else ""


class DataFileSize(Rule):
    """JSON and YAML: StarCoder keeps files of 50 to 5,000 characters, configuration rather than data."""

    reason: ClassVar[str] = "data_file_size"
    languages: ClassVar[tuple[str, ...]] = ("JSON", "YAML", "TOML")
    min_characters: int = 50
    max_characters: int = 5_000

    def refuses(self, page: Page) -> str:
        """Count characters."""
        n = len(page.document.text)
        return "" if self.min_characters <= n <= self.max_characters else f"{n} characters"


class DataFileLetters(Rule):
    """JSON and YAML: StarCoder keeps files with over 50 % letters, so no tables of numbers."""

    reason: ClassVar[str] = "data_file_letters"
    languages: ClassVar[tuple[str, ...]] = ("JSON", "YAML", "TOML")
    min_share: float = 0.5

    def refuses(self, page: Page) -> str:
        """ASCII letters among visible bytes."""
        share = page.share_of(ASCII_LETTERS)
        return f"letters are {share:.3f}" if share < self.min_share else ""


class HtmlText(Rule):
    """HTML that shows next to nothing. StarCoder asks for 100 visible characters and 20 % of the file."""

    reason: ClassVar[str] = "html_text"
    languages: ClassVar[tuple[str, ...]] = ("HTML",)
    min_characters: int = 100
    min_share: float = 0.2

    def refuses(self, page: Page) -> str:
        """Remove tags, scripts and styles, then count."""
        visible = " ".join(_TAG.sub(" ", page.document.text).split())
        share = len(visible) / max(1, len(page.document.text))
        enough = len(visible) >= self.min_characters and share >= self.min_share
        return "" if enough else f"{len(visible)} visible characters, {share:.3f}"


class NoKeywords(Rule):
    """Python without a single statement of control or definition: assignments, so data.

    CodeParrot drops most files without def, class, for or while; more keywords count here, and short scripts stay.
    """

    reason: ClassVar[str] = "no_keywords"
    languages: ClassVar[tuple[str, ...]] = ("Python",)
    min_lines: int = 50

    def refuses(self, page: Page) -> str:
        """Look for the first keyword at the start of a line."""
        if page.n_lines < self.min_lines or _KEYWORDS.search(page.document.text):
            return ""
        return f"{page.n_lines} lines without a keyword"


class Accessors(Rule):
    """Classes of getters and setters, which editors write. The rule and its bound are ours."""

    reason: ClassVar[str] = "accessors"
    languages: ClassVar[tuple[str, ...]] = ("Java", "C#", "PHP")
    max_share: float = 0.12  # of the lines; an accessor takes three to five, and a blank one
    min_count: int = 10

    def refuses(self, page: Page) -> str:
        """Count declarations like `public int getX(`, per line."""
        n = len(_ACCESSOR.findall(page.document.text))
        share = page.line_share(n)
        return f"{share:.3f} accessors a line" if n >= self.min_count and share > self.max_share else ""


class DefineLines(Rule):
    """Register maps and tables of constants: line after line of `#define NAME value`. The bound is ours."""

    reason: ClassVar[str] = "define_lines"
    languages: ClassVar[tuple[str, ...]] = ("C", "C++", "Cuda")
    max_share: float = 0.5
    min_lines: int = 30

    def refuses(self, page: Page) -> str:
        """Lines that define a name as something, among all lines."""
        if page.n_lines < self.min_lines or page.data.count(b"define") <= self.max_share * page.n_lines:
            return ""
        share = page.line_share(len(_DEFINE.findall(page.document.text)))
        return f"{share:.3f} of the lines define a constant" if share > self.max_share else ""


class Bundle(Rule):
    """JavaScript that a bundler put together from other files. The marks are ours."""

    reason: ClassVar[str] = "bundle"
    languages: ClassVar[tuple[str, ...]] = ("JavaScript", "TypeScript", "TSX")

    def refuses(self, page: Page) -> str:
        """Look for what bundlers leave."""
        text = page.document.text
        return next((f"holds '{mark}'" for mark in _BUNDLE if mark in text), "")


class InsertStatements(Rule):
    """A database dump: rows of data instead of queries. The rule and its bound are ours."""

    reason: ClassVar[str] = "insert_statements"
    languages: ClassVar[tuple[str, ...]] = ("SQL",)
    max_share: float = 0.6
    min_lines: int = 20

    def refuses(self, page: Page) -> str:
        """Lines that insert a row or list its values, among all lines."""
        if page.n_lines < self.min_lines or "insert" not in page.document.text.lower():
            return ""
        share = page.line_share(len(_INSERT.findall(page.document.text)))
        return f"{share:.3f} of the lines insert rows" if share > self.max_share else ""


class PhpWithoutCode(Rule):
    """PHP files that hold only HTML: the grammar sees no code in them. Ours."""

    reason: ClassVar[str] = "php_without_code"
    languages: ClassVar[tuple[str, ...]] = ("PHP",)

    def refuses(self, page: Page) -> str:
        """Look for an opening tag."""
        return "" if "<?" in page.document.text else "no opening tag"
