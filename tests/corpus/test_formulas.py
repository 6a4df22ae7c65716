"""Formulas of pages as LaTeX."""

from __future__ import annotations

import pytest

pytest.importorskip("resiliparse")
from resiliparse.parse.html import HTMLTree

from codeflow.corpus.formulas import FORMULAS, is_part_of_another, latex_of


def formulas(html: str) -> list[str]:
    body = HTMLTree.parse(f"<body>{html}").body
    assert body is not None
    return [latex_of(node) for node in body.query_selector_all(FORMULAS).values() if not is_part_of_another(node)]


def mathml(inside: str) -> str:
    (found,) = formulas(f"<math>{inside}</math>")
    return found.strip("$")


ANNOTATED = "<semantics><mi>e</mi><annotation encoding='application/x-tex'>e = mc^2</annotation></semantics>"


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        (f"<math>{ANNOTATED}</math>", ["$e = mc^2$"]),
        (f"<math display=block>{ANNOTATED}</math>", ["$$e = mc^2$$"]),
        ("<math alttext='{\\displaystyle \\sum_i a_i}'><mi>a</mi></math>", [r"$\sum_i a_i$"]),
        ("<script type='math/tex'>a < b</script>", ["$a < b$"]),
        ("<script type='math/tex; mode=display'>\\int x</script>", [r"$$\int x$$"]),
        ("<script type='math/asciimath'>x</script>", [""]),
        (
            f"<span class=katex-display><span class=katex><span class=katex-mathml><math>{ANNOTATED}</math></span>"
            "<span class=katex-html>e=mc2</span></span></span>",
            ["$$e = mc^2$$"],
        ),
        (
            f"<mjx-container display=true><mjx-math>e</mjx-math><math>{ANNOTATED}</math></mjx-container>",
            ["$$e = mc^2$$"],
        ),
        ("<span class=MathJax_Preview>x</span><script type='math/tex'>x</script>", ["", "$x$"]),
        ("<span class=mwe-math-element><img alt='{\\displaystyle x^{2}}' src=x></span>", ["$x^{2}$"]),
        ("<img class=latex alt='x+1' src=y>", ["$x+1$"]),
        ("<img class=photo alt='x+1' src=y>", []),
        ("<math></math>", [""]),
    ],
)
def test_the_source_is_found(html: str, expected: list[str]) -> None:
    assert formulas(html) == expected


@pytest.mark.parametrize(
    ("inside", "latex"),
    [
        ("<mi>x</mi><mo>=</mo><mn>12</mn>", "x=12"),
        ("<mfrac><mi>a</mi><mrow><mi>b</mi><mo>+</mo><mn>1</mn></mrow></mfrac>", r"\frac{a}{b+1}"),
        ("<msup><mi>x</mi><mn>2</mn></msup>", "x^2"),
        ("<msup><mrow><mi>x</mi><mi>y</mi></mrow><mn>10</mn></msup>", "{xy}^{10}"),
        ("<msubsup><mi>a</mi><mi>i</mi><mn>2</mn></msubsup>", "a_i^2"),
        ("<msqrt><mi>x</mi><mo>−</mo><mn>1</mn></msqrt>", r"\sqrt{x-1}"),
        ("<mroot><mi>x</mi><mn>3</mn></mroot>", r"\sqrt[3]{x}"),
        ("<mi>α</mi><mi>x</mi><mo>≤</mo><mi>Ω</mi>", r"\alpha x\le\Omega"),
        ("<mi>sin</mi><mi>x</mi>", r"\sin x"),
        (
            "<munderover><mo>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover><mi>i</mi>",
            r"\sum_{i=1}^ni",
        ),
        ("<munder><mi>lim</mi><mi>n</mi></munder>", r"\lim_n"),
        ("<mover><mi>x</mi><mo>→</mo></mover>", r"\vec{x}"),
        (
            "<mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>0</mn></mtd></mtr><mtr><mtd><mi>a</mi></mtd></mtr></mtable>",
            r"\begin{matrix}1 & 0 \\ a\end{matrix}",
        ),
        ("<mfrac><mi>a</mi></mfrac>", "a"),
        ("<mtext>if so</mtext><mi>velocity</mi>", r"\text{if so}\mathrm{velocity}"),
        ("<mo>{</mo><mi>x</mi><mo>}</mo>", r"\{x\}"),
        ("<unknown><mi>x</mi></unknown>", "x"),
    ],
)  # fmt: skip
def test_presentation_mathml(inside: str, latex: str) -> None:
    assert mathml(inside) == latex
