"""Cut points lie at line starts before definitions, with their comments and decorators."""

from __future__ import annotations

from codeflow.core.types import Document, Origin
from codeflow.transform.cut_points import cut_points
from codeflow.transform.samples import SamplesConfig, document_samples

from .fim_programs import PROGRAMS


def _document(text: str, language: str) -> Document:
    return Document("d" * 64, text, language, Origin("git", "r", "", "a", "", ""))


def _lines(text: str, language: str) -> list[str]:
    return [text[point:].partition("\n")[0] for point in cut_points(_document(text, language))]


def test_definitions_keep_their_comments_and_decorators() -> None:
    text = (
        '"""Module."""\nimport os\n\n\n# About f.\n# More.\n@cached\ndef f():\n    def inner():\n        pass\n\n\n'
        "class A:\n    x = 'é'\n\n    # About g.\n    def g(self): return lambda: 1\n\n\nif x: y()\n"
    )
    assert _lines(text, "Python") == [
        "import os",
        "# About f.",
        "    def inner():",
        "class A:",
        "    # About g.",
        "if x: y()",
    ]
    script = "import a from 'a'\n// About f.\nexport function f() { return 1 }\nexport class B { g() { } }\n"
    assert _lines(script, "TypeScript") == ["// About f.", "export class B { g() { } }"]


def test_points_are_line_starts_in_every_language() -> None:
    for language, text in PROGRAMS.items():
        twice = text + text
        points = cut_points(_document(twice, language))
        assert points, language
        assert list(points) == sorted(set(points))
        assert all(twice[point - 1] == "\n" for point in points)
    assert cut_points(_document("plain words\n", "Text")) == ()


def test_long_code_documents_carry_them() -> None:
    text = "def f(x):\n    return x\n\n\n" * 100
    samples, _ = document_samples(_document(text, "Python"), SamplesConfig(fim_rate=0), None)
    assert len(samples[0].cuts) == 99
    samples, _ = document_samples(_document(text[:100], "Python"), SamplesConfig(fim_rate=0), None)
    assert samples[0].cuts == ()
