from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.core.manifest import begin
from codeflow.core.records import read_shards, write_records
from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin
from codeflow.transform.clean import Clean
from codeflow.transform.mathematics import MathematicsConfig, closes, formulas, in_dollars, mathematics_of, run
from codeflow.transform.quality_annotate import domain_for

RST = r"""Mean and spread
===============

The mean of :math:`x_1, \ldots, x_n` is

.. math::
   :label: mean

   \bar{x} = \frac{1}{n}
       \sum_{i=1}^{n} x_i

and the spread is

.. math:: s^2 = \frac{1}{n - 1} \sum_i \left(x_i - \bar{x}\right)^2

where :math:`n > 1`.  A list:

* its root :math:`s`:

  .. math::

     s = \sqrt{s^2}

  is in the unit of :math:`x`.
"""
RST_FORMULAS = [
    r"x_1, \ldots, x_n",
    "\n\\bar{x} = \\frac{1}{n}\n    \\sum_{i=1}^{n} x_i\n",
    "\ns^2 = \\frac{1}{n - 1} \\sum_i \\left(x_i - \\bar{x}\\right)^2\n",
    "n > 1",
    "s",
    "\n  s = \\sqrt{s^2}\n  ",
    "x",
]
MARKDOWN = r"""# Roots

The equation \(x^2 + px + q = 0\) has the roots
\[x_{1,2} = -\frac{p}{2} \pm \sqrt{\frac{p^2}{4} - q}.\]
They are real where $p^2 \ge 4q$, and $$p^2 = 4q$$ makes one. It costs $5, or $6 with `echo $HOME/$USER`.
"""


def document(text: str, language: str = "reStructuredText") -> Document:
    return Document(sha256_text(text), text, language, Origin("package", "p 1", "", "a.rst", "", ""))


def test_the_notations_of_restructured_text_become_dollars() -> None:
    text = in_dollars(RST, "reStructuredText")
    assert formulas(text) == RST_FORMULAS
    assert ":math:" not in text
    assert ".. math::" not in text
    assert "\n$$\n\nand the spread is\n" in text
    assert "  $$\n\n  is in the unit of $x$.\n" in text


def test_the_notations_of_markdown_become_dollars_and_prices_stay_prices() -> None:
    assert formulas(in_dollars(MARKDOWN, "Markdown")) == [
        "x^2 + px + q = 0",
        r"x_{1,2} = -\frac{p}{2} \pm \sqrt{\frac{p^2}{4} - q}.",
        r"p^2 \ge 4q",
        "p^2 = 4q",
    ]
    assert in_dollars(r"re.compile(r'\(x\)')", "reStructuredText") == r"re.compile(r'\(x\)')"
    assert formulas("pay $5 and $6, $HOME and $PATH, a$b$c") == []


def test_cleaning_keeps_every_formula() -> None:
    for text, language in ((RST, "reStructuredText"), (MARKDOWN, "Markdown")):
        found = mathematics_of(document(text, language), MathematicsConfig())
        assert isinstance(found, Document)
        cleaned = Clean()(found)
        assert isinstance(cleaned, Document)
        assert formulas(cleaned.text) == formulas(found.text)


_TEX = st.lists(
    st.sampled_from([r"\alpha", "x_1", "{y}", "^2", " = ", r"\frac{a}{b}", r"\left(", r"\right)", "+", "\\{"]),
    min_size=1,
    max_size=8,
).map(lambda parts: "".join(parts).strip())


@given(st.lists(_TEX, max_size=6), st.booleans())
@settings(max_examples=100, deadline=None)
def test_not_a_character_of_a_formula_changes(written: list[str], displayed: bool) -> None:
    if displayed:
        text = "".join(f"Line.\n\n.. math::\n\n   {tex}\n\nNext.\n" for tex in written)
    else:
        text = " and ".join(f":math:`{tex}`" for tex in written)
    text = in_dollars(text, "reStructuredText")
    inside = [part.strip() for part in text.split("$$" if displayed else "$")[1::2]]
    assert inside == written


@pytest.mark.parametrize(
    ("formula", "whole"),
    [
        (r"\frac{a}{b}", True),
        (r"\{ a", True),
        (r"\frac{a}{b", False),
        (r"a}{b", False),
        (r"\left( x \right)", True),
        (r"\left( x", False),
        (r"\leftarrow x", True),
        (r"\begin{cases} a \end{cases}", True),
        (r"\begin{cases} a \end{array}", False),
    ],
)
def test_torn_formulas_are_seen(formula: str, whole: bool) -> None:
    assert closes(formula) == whole


def test_the_stage_keeps_mathematics_and_counts_the_rest(tmp_path: Path) -> None:
    torn = RST.replace(r"\frac{1}{n}", r"\frac{1}{n")
    texts = [document(RST), document(MARKDOWN, "Markdown"), document("Prose only.\n" * 9), document(torn)]
    write_records(tmp_path / "in" / "documents-00000.parquet", [*texts, document(RST, "Python")], Document)
    begin(tmp_path / "out", "documents", MathematicsConfig(), {}, "key")
    manifest = run(MathematicsConfig(), {"documents": tmp_path / "in"}, tmp_path / "out")
    kept = list(read_shards(tmp_path / "out", "documents", Document))
    assert manifest.counts.dropped == {"few_formulas": 1, "not_prose": 1, "torn_formulas": 1}
    assert manifest.counts.notes == {"formulas": len(RST_FORMULAS) + 4}
    assert [domain_for(one) for one in kept] == ["mathematics", "mathematics"]
    assert [domain_for(one) for one in texts[:1]] == ["general"]
    assert kept[0].id == sha256_text(kept[0].text)
    assert kept[0].origin == texts[0].origin
