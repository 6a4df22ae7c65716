"""Rules that read what `syntax` measured. A document without a measurement stays."""

from __future__ import annotations

from typing import ClassVar

from codeflow.transform.rule import Page, Rule


class SyntaxErrors(Rule):
    """Code that does not parse teaches wrong syntax. OpenCoder drops Python that `ast` refuses.

    Other grammars are forgiving and incomplete (preprocessors, dialects), so their bound on the share of erroneous
    bytes is ours and wide. Python 2 goes with the first.
    """

    reason: ClassVar[str] = "syntax_errors"
    max_error_ratio: float = 0.2
    require_python_ast: bool = True

    def refuses(self, page: Page) -> str:
        """Read the tags that `syntax` left."""
        if self.require_python_ast and page.tag("ast_ok", 1.0) == 0.0:
            return "ast.parse refuses it"
        ratio = page.tag("syntax_error_ratio")
        return f"error ratio {ratio:.3f}" if ratio > self.max_error_ratio else ""


class DeepNesting(Rule):
    """Trees far deeper than people write: generated expressions, stress tests of parsers. The bound is ours."""

    reason: ClassVar[str] = "deep_nesting"
    max_depth: int = 150

    def refuses(self, page: Page) -> str:
        """Read the tree's depth."""
        depth = page.tag("syntax_max_depth")
        return f"depth {depth:.0f}" if depth > self.max_depth else ""


class ShallowTree(Rule):
    """A larger file whose tree has hardly any depth: no code, whatever its name says. The bound is ours."""

    reason: ClassVar[str] = "shallow_tree"
    min_depth: int = 4
    min_lines: int = 20

    def refuses(self, page: Page) -> str:
        """Read the tree's depth."""
        depth = page.tag("syntax_max_depth", self.min_depth)
        return f"depth {depth:.0f}" if depth < self.min_depth and page.n_lines >= self.min_lines else ""


class FlatCode(Rule):
    """A large file of few kinds of nodes: a table of literals, seen by the tree's entropy. The bound is ours."""

    reason: ClassVar[str] = "flat_code"
    min_entropy_bits: float = 2.0
    min_characters: int = 10_000

    def refuses(self, page: Page) -> str:
        """Read the entropy that `syntax` measured."""
        entropy = page.tag("syntax_node_entropy", self.min_entropy_bits)
        if len(page.document.text) < self.min_characters or entropy >= self.min_entropy_bits:
            return ""
        return f"node entropy {entropy:.2f} bits"


class MostlyComments(Rule):
    """Comments with little code between them, often code that was commented out. SantaCoder drops beyond 80 %.

    Wider here, where the licence header is gone already: well documented interfaces reach nine tenths.
    """

    reason: ClassVar[str] = "mostly_comments"
    max_share: float = 0.9

    def refuses(self, page: Page) -> str:
        """Comments among all bytes; docstrings are documentation and do not count."""
        share = page.tag("comment_share")
        return f"comments are {share:.3f}" if share > self.max_share else ""


class Uncommented(Rule):
    """Code without a word of explanation. SantaCoder drops below 1 % comments; off, since the recipe also scores it."""

    reason: ClassVar[str] = "uncommented"
    enabled: bool = False
    min_share: float = 0.01

    def refuses(self, page: Page) -> str:
        """Comments and docstrings among all bytes."""
        if "comment_share" not in page.document.tags:
            return ""
        share = page.tag("comment_share") + page.tag("docstring_share")
        return f"comments are {share:.3f}" if share < self.min_share else ""


class ManyFunctions(Rule):
    """A function every few lines: stubs and declarations without work. OpenCoder drops Python beyond 0.2 a line.

    Wider here: a two-line method with a blank line is 0.33, and overloads and properties are honest code.
    """

    reason: ClassVar[str] = "many_functions"
    languages: ClassVar[tuple[str, ...]] = ("Python",)
    max_per_line: float = 0.4
    min_functions: int = 10

    def refuses(self, page: Page) -> str:
        """Functions per line."""
        n = page.tag("n_functions")
        share = page.line_share(int(n))
        return f"{share:.3f} functions a line" if n >= self.min_functions and share > self.max_per_line else ""


class HugeFunction(Rule):
    """One function of thousands of lines: unrolled tables, generated parsers. The bound is ours."""

    reason: ClassVar[str] = "huge_function"
    languages: ClassVar[tuple[str, ...]] = ("Python", "Java", "C#", "Go", "Rust", "C", "C++", "PHP", "Ruby", "Kotlin")
    max_lines: int = 2_000

    def refuses(self, page: Page) -> str:
        """Read the longest function's lines."""
        n = page.tag("max_function_lines")
        return f"a function of {n:.0f} lines" if n > self.max_lines else ""


class NoDefinitions(Rule):
    """A long file that defines nothing, in languages where work is done in definitions: tables. The bound is ours."""

    reason: ClassVar[str] = "no_definitions"
    languages: ClassVar[tuple[str, ...]] = ("Python", "Java", "C#", "Go", "Rust", "Kotlin", "Scala")
    min_lines: int = 500

    def refuses(self, page: Page) -> str:
        """Functions and classes together."""
        if page.n_lines < self.min_lines or "n_functions" not in page.document.tags:
            return ""
        return "" if page.tag("n_functions") + page.tag("n_classes") else f"{page.n_lines} lines define nothing"
