"""The operators that apply the filter rules; the reason in the counts is `filters/<rule>` or `syntax_filters/<rule>`.

A rule is a frozen class: its thresholds, and a test that returns what it saw when the document should go. The anchors
are the published filters of OpenCoder (RefineCode), StarCoder and The Stack v2, SantaCoder, CodeParrot, Gopher
(MassiveText), C4 and FineWeb; where no number is published, the default is ours and the docstring says so. Rules run in
the order of the fields, cheap ones first; the first that refuses wins. `docs/filters.md` lists them all.

Not covered: natural language identification, and rules that compare documents.
"""

from __future__ import annotations

import functools
from typing import ClassVar

from codeflow.core.languages import BY_NAME
from codeflow.core.types import Document
from codeflow.transform import language_rules, name_rules, prose_rules, syntax_rules, text_rules
from codeflow.transform.operator import Drop, Operator, with_tags
from codeflow.transform.rule import Page, Rule


class _Rules(Operator):
    """Apply the fields that are rules in their order; drop at the first refusal."""

    def __call__(self, document: Document) -> Document | Drop:
        """Return the document, or the first rule's reason with what it saw."""
        return self.judge(Page(document)) or document

    @functools.cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that are switched on, in order."""
        fields = (getattr(self, name) for name in type(self).model_fields)
        return tuple(rule for rule in fields if isinstance(rule, Rule) and rule.enabled)

    @functools.cached_property
    def _rules_of(self) -> dict[str, tuple[Rule, ...]]:
        return {}

    def judge(self, page: Page) -> Drop | None:
        """Return the first refusal, or None."""
        language = page.document.language if page.document.language in BY_NAME else ""
        if language not in self._rules_of:
            self._rules_of[language] = tuple(rule for rule in self.rules if rule.applies_to(language, page.domain))
        for rule in self._rules_of[language]:
            if seen := rule.refuses(page):
                return Drop(rule.reason, seen)
        return None


class TextFilters(_Rules):
    """The rules that need no syntax tree."""

    name: ClassVar[str] = "filters"
    damaged: text_rules.Damaged = text_rules.Damaged()
    too_short: text_rules.TooShort = text_rules.TooShort()
    too_long: text_rules.TooLong = text_rules.TooLong()
    test_data: name_rules.TestData = name_rules.TestData()
    test_file: name_rules.TestFile = name_rules.TestFile()
    vendored: name_rules.Vendored = name_rules.Vendored()
    generated_name: name_rules.GeneratedName = name_rules.GeneratedName()
    lock_file: name_rules.LockFile = name_rules.LockFile()
    licence_file: name_rules.LicenceFile = name_rules.LicenceFile()
    migration: name_rules.Migration = name_rules.Migration()
    translations: name_rules.Translations = name_rules.Translations()
    generated: text_rules.Generated = text_rules.Generated()
    merge_conflict: text_rules.MergeConflict = text_rules.MergeConflict()
    long_line: text_rules.LongLine = text_rules.LongLine()
    long_mean_line: text_rules.LongMeanLine = text_rules.LongMeanLine()
    minified: text_rules.Minified = text_rules.Minified()
    mostly_white_space: text_rules.MostlyWhiteSpace = text_rules.MostlyWhiteSpace()
    few_alphanumerics: text_rules.FewAlphanumerics = text_rules.FewAlphanumerics()
    few_alphabetic_words: text_rules.FewAlphabeticWords = text_rules.FewAlphabeticWords()
    data_table: text_rules.DataTable = text_rules.DataTable()
    lines_without_letters: text_rules.LinesWithoutLetters = text_rules.LinesWithoutLetters()
    other_scripts: text_rules.OtherScripts = text_rules.OtherScripts()
    unbalanced_brackets: text_rules.UnbalancedBrackets = text_rules.UnbalancedBrackets()
    encoded_blob: text_rules.EncodedBlob = text_rules.EncodedBlob()
    obfuscated: text_rules.Obfuscated = text_rules.Obfuscated()
    repeated_lines: text_rules.RepeatedLines = text_rules.RepeatedLines()
    placeholder_lines: language_rules.PlaceholderLines = language_rules.PlaceholderLines()
    assert_lines: language_rules.AssertLines = language_rules.AssertLines()
    import_lines: language_rules.ImportLines = language_rules.ImportLines()
    xml_header: language_rules.XmlHeader = language_rules.XmlHeader()
    data_file_size: language_rules.DataFileSize = language_rules.DataFileSize()
    data_file_letters: language_rules.DataFileLetters = language_rules.DataFileLetters()
    html_text: language_rules.HtmlText = language_rules.HtmlText()
    no_keywords: language_rules.NoKeywords = language_rules.NoKeywords()
    accessors: language_rules.Accessors = language_rules.Accessors()
    define_lines: language_rules.DefineLines = language_rules.DefineLines()
    bundle: language_rules.Bundle = language_rules.Bundle()
    insert_statements: language_rules.InsertStatements = language_rules.InsertStatements()
    php_without_code: language_rules.PhpWithoutCode = language_rules.PhpWithoutCode()
    lorem_ipsum: prose_rules.LoremIpsum = prose_rules.LoremIpsum()
    word_length: prose_rules.WordLength = prose_rules.WordLength()
    bullet_lines: prose_rules.BulletLines = prose_rules.BulletLines()
    ellipsis_lines: prose_rules.EllipsisLines = prose_rules.EllipsisLines()
    symbol_words: prose_rules.SymbolWords = prose_rules.SymbolWords()
    few_terminals: prose_rules.FewTerminals = prose_rules.FewTerminals()
    repeated_paragraphs: prose_rules.RepeatedParagraphs = prose_rules.RepeatedParagraphs()
    repeated_word_runs: prose_rules.RepeatedWordRuns = prose_rules.RepeatedWordRuns()

    def __call__(self, document: Document) -> Document | Drop:
        """Return the document with `n_words`, or the first rule's reason with what it saw."""
        page = Page(document)
        return self.judge(page) or with_tags(document, {"n_words": float(page.n_words)})


class SyntaxFilters(_Rules):
    """The rules that read what `syntax` measured."""

    name: ClassVar[str] = "syntax_filters"
    syntax_errors: syntax_rules.SyntaxErrors = syntax_rules.SyntaxErrors()
    deep_nesting: syntax_rules.DeepNesting = syntax_rules.DeepNesting()
    shallow_tree: syntax_rules.ShallowTree = syntax_rules.ShallowTree()
    flat_code: syntax_rules.FlatCode = syntax_rules.FlatCode()
    mostly_comments: syntax_rules.MostlyComments = syntax_rules.MostlyComments()
    uncommented: syntax_rules.Uncommented = syntax_rules.Uncommented()
    many_functions: syntax_rules.ManyFunctions = syntax_rules.ManyFunctions()
    huge_function: syntax_rules.HugeFunction = syntax_rules.HugeFunction()
    no_definitions: syntax_rules.NoDefinitions = syntax_rules.NoDefinitions()
