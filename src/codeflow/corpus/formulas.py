"""Formulas of a web page -> LaTeX: annotations of MathML, scripts of MathJax, KaTeX, alternative texts of images.

Presentation MathML without an annotation is written as LaTeX element by element; what is unknown there keeps its text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from resiliparse.parse.html import ElementNode, Node

FORMULAS = (
    "math, script[type^='math/'], mjx-container, .katex, .MathJax, .MathJax_Display, .MathJax_Preview, .MathJax_SVG, "
    ".MathJax_CHTML, .mwe-math-element, img.latex, img.tex"
)
_RENDERED = "mjx-container, .katex, .MathJax, .MathJax_Display, .MathJax_SVG, .MathJax_CHTML, .mwe-math-element"
_WRAPPED = re.compile(r"^\{\\(?:displaystyle|textstyle)\s+(.*)\}$", re.DOTALL)
_MAX_DEPTH = 100
_SYMBOLS = {
    "×": r"\times", "·": r"\cdot", "⋅": r"\cdot", "÷": r"\div", "±": r"\pm", "∓": r"\mp", "≤": r"\le", "≥": r"\ge",
    "≠": r"\ne", "≈": r"\approx", "≡": r"\equiv", "∼": r"\sim", "∝": r"\propto", "∞": r"\infty", "∑": r"\sum",
    "∏": r"\prod", "∫": r"\int", "∮": r"\oint", "∂": r"\partial", "∇": r"\nabla", "√": r"\surd", "∈": r"\in",
    "∉": r"\notin", "⊂": r"\subset", "⊆": r"\subseteq", "∪": r"\cup", "∩": r"\cap", "∅": r"\emptyset",
    "∀": r"\forall", "∃": r"\exists", "¬": r"\neg", "∧": r"\wedge", "∨": r"\vee", "→": r"\to", "⇒": r"\Rightarrow",
    "⇔": r"\Leftrightarrow", "↦": r"\mapsto", "…": r"\ldots", "⋯": r"\cdots", "−": "-", "′": "'", "ℓ": r"\ell",
    "ℝ": r"\mathbb{R}", "ℕ": r"\mathbb{N}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}",
    "{": r"\{", "}": r"\}", "⟨": r"\langle", "⟩": r"\rangle", "‖": r"\|", "\u2061": "", "\u2062": "", "\u2063": "",
}  # fmt: skip
_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho . sigma tau upsilon"
_SYMBOLS |= {chr(0x3B1 + n): f"\\{name}" for n, name in enumerate(f"{_GREEK} phi chi psi omega".split()) if name != "."}
_CAPITALS = {"Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma"}
_CAPITALS |= {"Φ": "Phi", "Ψ": "Psi", "Ω": "Omega"}
_SYMBOLS |= {sign: f"\\{name}" for sign, name in _CAPITALS.items()}
_ACCENTS = {"^": "hat", "ˆ": "hat", "~": "tilde", "˜": "tilde", "¯": "bar", "‾": "overline", "→": "vec", "˙": "dot"}
_FUNCTIONS = {"sin", "cos", "tan", "log", "ln", "exp", "lim", "max", "min", "sup", "inf", "det", "gcd", "arg", "dim"}


def is_part_of_another(node: ElementNode) -> bool:
    """Say whether a match of `FORMULAS` lies inside another one, which stands for it."""
    parent = node.parent_element
    return parent is not None and parent.closest(_RENDERED) is not None


def latex_of(node: ElementNode) -> str:
    r"""Return the formula as `$...$`, or `$$...$$` for a displayed one; "" where the page does not hold its source.

    `node` matches `FORMULAS`. MathJax's output without MathML is "", since the script beside it holds the formula.
    """
    source, display = _source(node)
    source = " ".join(source.split("\n")).strip()
    while wrapped := _WRAPPED.match(source):
        source = wrapped[1].strip()
    if not source:
        return ""
    return f"$${source}$$" if display else f"${source}$"


def _source(node: ElementNode) -> tuple[str, bool]:
    """Return (LaTeX, displayed)."""
    tag = node.local_name or ""
    kind = node.getattr("type", "") or ""
    if tag == "script":
        if "tex" not in kind:
            return "", False  # AsciiMath and MathML in scripts
        return node.text or "", "display" in kind
    if tag == "img":
        return node.getattr("alt", "") or "", False
    display = node.getattr("display", "") in ("block", "true") or node.closest(".katex-display") is not None
    annotation = node.query_selector("annotation[encoding='application/x-tex'], annotation[encoding='TeX']")
    if annotation is not None and (annotation.text or "").strip():
        return annotation.text or "", display or _is_block(node)
    math = node if tag == "math" else node.query_selector("math")
    if math is not None:
        alternative = math.getattr("alttext", "") or ""
        return alternative.strip() or mathml_to_latex(math), display or _is_block(math)
    image = node.query_selector("img[alt]")
    return (image.getattr("alt", "") or "", display) if image is not None else ("", display)


def _is_block(node: ElementNode) -> bool:
    math = node if node.local_name == "math" else node.query_selector("math")
    return math is not None and math.getattr("display", "") == "block"


def mathml_to_latex(node: Node, depth: int = 0) -> str:
    """Return presentation MathML as LaTeX. Below a depth of 100 elements only the text is kept."""
    tag = (node.tag or "").lower()
    if tag == "#text" or depth > _MAX_DEPTH:
        return _plain(node.text or "")
    if tag in ("mi", "mn", "mo", "mtext", "ms"):
        return _leaf(tag, node.text or "")
    if tag in ("annotation", "annotation-xml", "mphantom", "#comment"):
        return ""
    parts = [mathml_to_latex(child, depth + 1) for child in node.child_nodes if _counts(child)]
    if writer := _WRITERS.get(tag):
        try:
            return writer(parts)
        except IndexError:  # a fraction of one part, and the like
            pass
    return _joined(parts)


def _counts(node: Node) -> bool:
    return node.tag != "#text" or bool((node.text or "").strip())


def _leaf(tag: str, text: str) -> str:
    text = " ".join(text.split())
    if tag == "mtext":
        return rf"\text{{{text}}}" if text else ""
    if tag == "mi" and text in _FUNCTIONS:
        return f"\\{text}"
    if tag == "mi" and len(text) > 1 and text.isascii() and text.isalpha():
        return rf"\mathrm{{{text}}}"
    return _plain(text)


def _plain(text: str) -> str:
    return _joined([_SYMBOLS.get(sign, sign) for sign in text])


def _joined(parts: list[str]) -> str:
    r"""Join parts; a space keeps the letters behind `\alpha` from becoming part of its name."""
    text = ""
    for part in parts:
        glued = re.search(r"\\[A-Za-z]+$", text) and part[:1].isalpha()
        text += f" {part}" if glued else part
    return text


def _braced(text: str) -> str:
    return text if len(text) == 1 else f"{{{text}}}"


def _fenced(parts: list[str]) -> str:
    return rf"\left({','.join(parts)}\right)"


def _over(parts: list[str]) -> str:
    if accent := _ACCENTS.get(parts[1].replace(r"\to", "→")):
        return rf"\{accent}{{{parts[0]}}}"
    return f"{parts[0]}^{_braced(parts[1])}" if parts[0] in _BIG else rf"\overset{{{parts[1]}}}{{{parts[0]}}}"


def _under(parts: list[str]) -> str:
    return f"{parts[0]}_{_braced(parts[1])}" if parts[0] in _BIG else rf"\underset{{{parts[1]}}}{{{parts[0]}}}"


_BIG = {r"\sum", r"\prod", r"\int", r"\oint", r"\lim", r"\max", r"\min", r"\sup", r"\inf", r"\cup", r"\cap"}
_WRITERS: dict[str, Callable[[list[str]], str]] = {
    "mfrac": lambda p: rf"\frac{{{p[0]}}}{{{p[1]}}}",
    "msqrt": lambda p: rf"\sqrt{{{_joined(p)}}}",
    "mroot": lambda p: rf"\sqrt[{p[1]}]{{{p[0]}}}",
    "msup": lambda p: f"{_base(p[0])}^{_braced(p[1])}",
    "msub": lambda p: f"{_base(p[0])}_{_braced(p[1])}",
    "msubsup": lambda p: f"{_base(p[0])}_{_braced(p[1])}^{_braced(p[2])}",
    "munder": _under,
    "mover": _over,
    "munderover": lambda p: f"{p[0]}_{_braced(p[1])}^{_braced(p[2])}",
    "mfenced": _fenced,
    "mtable": lambda p: r"\begin{matrix}" + r" \\ ".join(p) + r"\end{matrix}",
    "mtr": lambda p: " & ".join(p),
}


def _base(text: str) -> str:
    """Brace the base of a script where it is more than one symbol."""
    return text if len(text) == 1 or re.fullmatch(r"\\[A-Za-z]+", text) else f"{{{text}}}"
