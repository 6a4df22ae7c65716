"""Repairs: a table of cases, idempotence on any text, and licence headers by comment syntax."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin
from codeflow.transform.clean import Clean


def make(text: str, language: str = "Python", licence: str = "") -> Document:
    origin = Origin("project", "r", "1", "a.py", licence, "")
    return Document(sha256_text(text), text, language, origin)


def cleaned(text: str, language: str = "Python", **options: str) -> Document:
    result = Clean.model_validate(options)(make(text, language))
    assert isinstance(result, Document)
    return result


@pytest.mark.parametrize(
    ("before", "after", "repair"),
    [
        ("\ufeffx = 1\n", "x = 1\n", "byte_order_mark"),
        ("x = 1\r\ny = 2\r\n", "x = 1\ny = 2\n", "newlines"),
        ("x = 1\ry = 2\n", "x = 1\ny = 2\n", "newlines"),
        ("x\0 = 1\x07\n", "x = 1\n", "control_characters"),
        ("x = '\ud800'\n", "x = '\ufffd'\n", "surrogates"),
        ("x = 1  \n\t\ny = 2\n", "x = 1\n\ny = 2\n", "trailing_white_space"),
        ("\n\nx = 1\n\n\n", "x = 1\n", "end_of_file"),
        ("x = 1", "x = 1\n", "end_of_file"),
        ("  indented\n", "  indented\n", ""),
        ("def f():\n\f\n    pass\n", "def f():\n\f\n    pass\n", ""),
        ("a = 'Ã©t', 'Ã¨t', 'Ã¼b'\n", "a = 'ét', 'èt', 'üb'\n", "mojibake"),
        ("a = 'Ã©t', 'é'\n", "a = 'Ã©t', 'é'\n", ""),  # one place is not mojibake: nothing is
        ("a = 'Ã©t'\n", "a = 'Ã©t'\n", ""),  # a single demonstration
    ],
)
def test_repairs(before: str, after: str, repair: str) -> None:
    result = cleaned(before)
    assert result.text == after
    assert result.id == sha256_text(after)
    assert {tag for tag in result.tags if tag.startswith("repaired_")} == ({f"repaired_{repair}"} if repair else set())


def test_trailing_white_space_stays_in_prose_and_where_asked() -> None:
    assert cleaned("line  \nbreak\n", "Markdown").text == "line  \nbreak\n"
    assert cleaned("x = 1  \n", trailing_white_space="keep").text.startswith("x = 1")
    assert cleaned("x = 1  \ny\n", trailing_white_space="keep").text == "x = 1  \ny\n"


def test_control_share_is_measured_before_the_repair() -> None:
    assert cleaned("ab\0\0\n").tags["control_share"] == pytest.approx(2 / 5)
    assert "control_share" not in cleaned("ab\n").tags


APACHE = "# Copyright 2020 A. Person\n#\n# Licensed under the Apache License, Version 2.0\n"


@pytest.mark.parametrize(
    ("language", "before", "after"),
    [
        ("Python", APACHE + "\nimport os\n", "import os\n"),
        ("Python", "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n" + APACHE + "import os\n",
         "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n#\nimport os\n"),
        ("Python", "# Parse things.\n#\n# Copyright X\nimport os\n", "# Parse things.\n#\nimport os\n"),
        ("Python", "# Parse things.\nimport os\n", "# Parse things.\nimport os\n"),
        ("Python", "import os\n# Copyright X\n", "import os\n# Copyright X\n"),  # not the head
        ("C", "/*\n * Copyright X\n * All rights reserved.\n */\n\nint x;\n", "int x;\n"),
        ("C", "/* Copyright X\n *\n * Frobnicates bits.\n */\nint x;\n", "/*\n *\n * Frobnicates bits.\n */\nint x;\n"),
        ("C", "/* Copyright X */ int x;\n", "/* Copyright X */ int x;\n"),  # code on the same line
        ("Go", "// Copyright X\n// Use is governed by a BSD-style license.\n\n// Package p does.\npackage p\n",
         "// Package p does.\npackage p\n"),
        ("C", "/* Copyright, never closed\nint x;\n", "/* Copyright, never closed\nint x;\n"),
    ],
)  # fmt: skip
def test_licence_headers(language: str, before: str, after: str) -> None:
    assert cleaned(before, language).text == after
    assert cleaned(before, language, licence_headers="keep").text == before


def test_spdx_identifier_fills_an_empty_licence_only() -> None:
    text = "# SPDX-License-Identifier: MIT OR Apache-2.0\nimport os\n"
    assert cleaned(text).origin.licence == "MIT OR Apache-2.0"
    kept = Clean()(make(text, licence="BSD-3-Clause"))
    assert isinstance(kept, Document)
    assert kept.origin.licence == "BSD-3-Clause"


def test_prose_noise() -> None:
    text = "[![ci](https://a/b.svg)](https://c)\n# Title\n<!-- hidden\nmore -->\n\n\n\n\n\nBack to top\nWords.\n"
    assert cleaned(text, "Markdown").text == "# Title\n\n\nWords.\n"
    assert cleaned(text, "Python").text == text.replace("\n\n\n\n\n\n", "\n\n\n\n\n\n")


PIECES = st.sampled_from(
    ["# Copyright\n", "#\n", "\n", "\r", "\ufeff", "\0", " ", "x", "Ã©", "é", "/*", "*/", " * licence\n", "<!--", "-->",
     "// (c) 2020\n", "[![a](b)](c)\n", "sign in\n", "\ud800", "\x1f", "\x0c", "\u2028"]
)  # fmt: skip
ANY_TEXT = st.one_of(st.text(st.characters(exclude_categories=())), st.lists(PIECES, max_size=25).map("".join))


@given(ANY_TEXT, st.sampled_from(["Python", "C", "Markdown", "JSON", "Unknown"]))
@settings(max_examples=150, deadline=None)
def test_any_text_cleans_and_a_second_time_changes_nothing(text: str, language: str) -> None:
    once = cleaned(text, language)
    assert once.id == sha256_text(once.text)
    assert cleaned(once.text, language).text == once.text
    assert once.text == "" or once.text.endswith("\n")
    assert "\r" not in once.text
    once.text.encode("utf-8")
