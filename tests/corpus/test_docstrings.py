"""Docstrings found by a scan are those that a parse finds."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
from pathlib import Path

import pytest

from codeflow.corpus import docstrings as module
from codeflow.corpus.docstrings import docstring_document, docstrings

_TRICKY = '''#!/usr/bin/env python
# -*- coding: utf-8 -*-
"""Module \\"""quoted\\""" text.

    Indented.
"""
x = """
def not_a_function():
    """ + "end"


class A:
    r"""Raw \\d text."""

    def f(
        self,
        a="b:",
    ) -> int:  # noqa
        \'\'\'Single-quoted marks.\'\'\'
        if a:
            y = """no docstring"""
        return 1

    async def g(self):
        """Tab\\there."""


def no_docstring():
    return """value"""
'''


def parsed(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and ast.get_docstring(node):
                literal = ast.get_source_segment(source, first) or ""
                if literal.lstrip("rRuU").startswith(('"""', "'''")):
                    found.append((first.lineno, (ast.get_docstring(node) or "").strip()))
    return [text for _, text in sorted(found)]


@pytest.mark.parametrize(
    "source",
    [_TRICKY, *(Path(inspect.getsourcefile(item) or "").read_text() for item in (module, ast, json, subprocess))],
    ids=["tricky", "own", "ast", "json", "subprocess"],
)
def test_same_as_a_parse(source: str) -> None:
    assert docstrings(source) == parsed(source)


def test_document_language_and_minimum() -> None:
    assert docstring_document('"""Short."""\n', 20) is None
    assert docstring_document('"""A plain sentence."""\n', 5) == ("A plain sentence.\n", "Text")
    rst = docstring_document('def f():\n    """Do it.\n\n    :param x: what\n    """\n', 5)
    assert rst == ("Do it.\n\n:param x: what\n", "reStructuredText")


@pytest.mark.parametrize("source", ["", '"""', '"""open', "'''a\n\"\"\"b", '"""\\', '"""\\ud800"""'])
def test_broken_sources_do_no_harm(source: str) -> None:
    for text in docstrings(source):
        assert isinstance(text, str)
    document = docstring_document(source, 1)
    assert document is None or document[0].encode("utf-8")
