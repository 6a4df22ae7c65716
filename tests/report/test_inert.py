"""Hostile text becomes harmless and stays readable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.report.inert import inert, plain

CASES = [
    ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
    ("</pre><img src=x onerror='f()'>", "&lt;/pre&gt;&lt;img src=x onerror=&#39;f()&#39;&gt;"),
    ("\x1b[31mred\x1b]0;title\x07", "<i>U+001B</i>[31mred<i>U+001B</i>]0;title<i>U+0007</i>"),
    ("a\u202eb\u2066c", "a<i>U+202E</i>b<i>U+2066</i>c"),
    ("zero\u200bwidth\ufeff", "zero<i>U+200B</i>width<i>U+FEFF</i>"),
    ("tag\U000e0041", "tag<i>U+E0041</i>"),
    ("lone \ud800", "lone <i>U+D800</i>"),
    ("line\r\n\tnext", "line<i>U+000D</i>\n\tnext"),
    ("naïve 中文 שלום &amp;", "naïve 中文 שלום &amp;amp;"),
]


@pytest.mark.parametrize(("text", "html"), CASES)
def test_inert(text: str, html: str) -> None:
    assert str(inert(text)) == html


@given(st.text(st.characters(codec=None)))
def test_nothing_but_our_own_marks(text: str) -> None:
    html = str(inert(text))
    assert "<" not in html.replace("<i>U+", "").replace("</i>", "")
    assert not any(c < " " and c not in "\n\t" for c in html)
    html.encode()  # no lone surrogate is left
    assert "\n" not in plain(text)
    assert len(plain("\u202e" * 1000, 10)) <= 10 * len("⟨U+202E⟩") + 1


def test_plain_says_that_it_was_cut() -> None:
    assert plain("abc\ndef", 10) == "abc def"
    assert plain("x" * 11, 10) == "x" * 10 + "…"
