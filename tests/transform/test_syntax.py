"""The language table against the grammars, counts in small programs, verdicts equal to `ast.parse`, and hard inputs."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.core.languages import BY_NAME, LANGUAGES
from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin
from codeflow.transform.syntax import MeasureSyntax, grammar_of, parses_as_python

PROGRAMS = {  # one comment, one function and one class each, where the language has them
    "Python": "# c\nclass A:\n    def f(self):\n        return 1\n",
    "JavaScript": "// c\nclass A { f() { return 1; } }\n",
    "TypeScript": "// c\nclass A { f(): number { return 1; } }\n",
    "TSX": "// c\nclass A { f() { return <b/>; } }\n",
    "Java": "// c\nclass A { int f() { return 1; } }\n",
    "C#": "// c\nclass A { int F() { return 1; } }\n",
    "Go": "// c\npackage p\n\ntype A struct{}\n\nfunc f() int { return 1 }\n",
    "Rust": "// c\nstruct A;\nfn f() -> i32 { 1 }\n",
    "C": "// c\nstruct A { int x; };\nint f(void) { return 1; }\n",
    "C++": "// c\nclass A {};\nint f() { return 1; }\n",
    "PHP": "<?php\n// c\nclass A { function f() { return 1; } }\n",
    "Ruby": "# c\nclass A\n  def f\n    1\n  end\nend\n",
    "Kotlin": "// c\nclass A {\n    fun f(): Int { return 1 }\n}\n",
    "Scala": "// c\nclass A {\n  def f(): Int = 1\n}\n",
    "Shell": "# c\nf() {\n  echo 1\n}\n",
    "SQL": "-- c\nCREATE TABLE a (x INT);\nCREATE FUNCTION f() RETURNS INT LANGUAGE SQL AS $$ SELECT 1 $$;\n",
    "Fortran": "! c\nmodule a\ncontains\nsubroutine f(x)\n  real :: x\n  x = 1\nend subroutine\nend module\n",
    "Cuda": "// c\nstruct A { int x; };\n__global__ void f(int *x) { x[0] = 1; }\n",
}


def measured(text: str, language: str = "Python", **options: bool) -> dict[str, float]:
    document = Document(sha256_text(text), text, language, Origin("project", "r", "", "a", "", ""))
    result = MeasureSyntax.model_validate(options)(document)
    assert isinstance(result, Document)
    assert result.text == text
    return result.tags


def test_every_language_with_a_grammar_has_a_program_here() -> None:
    assert set(PROGRAMS) == {language.name for language in LANGUAGES if language.grammar}


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_table_of_languages_names_nodes_that_occur(name: str) -> None:
    tags = measured(PROGRAMS[name], name)  # an unknown node name raises
    assert tags["syntax_error_ratio"] == 0.0
    assert tags["comment_share"] > 0
    assert tags["n_functions"] == 1.0
    assert tags["n_classes"] == (1.0 if BY_NAME[name].classes else 0.0)
    assert tags["syntax_max_depth"] >= 3


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_errors_are_seen_in_every_language(name: str) -> None:
    broken = PROGRAMS[name] + "\n)) ( } <<< @@ = = (((\n"
    assert measured(broken, name)["syntax_error_ratio"] > 0


def test_python_docstrings() -> None:
    text = (
        '"""Mm."""\n\n\nclass A:\n    # c\n    """Aa."""\n\n'
        '    def f(self):\n        "ff"\n\n    def g(self):\n        x = "no"\n'
    )
    tags = measured(text)
    assert tags["docstring_share"] == pytest.approx((9 + 9 + 4) / len(text))
    assert tags["documented_share"] == pytest.approx(2 / 3)
    assert tags["mean_function_lines"] == 2.0
    assert tags["ast_ok"] == 1.0


def test_shares_are_of_bytes_and_missing_nodes_count() -> None:
    assert measured("# ééé\n")["comment_share"] == pytest.approx(8 / 9)
    assert measured("int f( { return 1; }\n", "C")["syntax_error_ratio"] > 0


def test_languages_without_a_grammar_pass_through() -> None:
    assert measured("{}", "JSON") == {}
    assert measured("x", "Klingon") == {}
    assert grammar_of("Klingon") is None
    assert "ast_ok" not in measured("x = 1\n", python_ast=False)


DEEP = 30_000


@pytest.mark.parametrize(
    "text",
    ["(" * DEEP, "[" * DEEP + "]" * DEEP, "1+" * DEEP + "1", "a" + ".b" * DEEP, "-" * DEEP + "1", "not " * DEEP + "x",
     "x" + "[0]" * DEEP, "".join(" " * i + "if y:\n" for i in range(900)), "\0", "'\ud800'", "x = 1\r\n\x0c\n"],
)  # fmt: skip
def test_hard_inputs_are_measured(text: str) -> None:
    tags = measured(text)
    assert 0.0 <= tags["syntax_error_ratio"] <= 1.0


def test_deep_trees_are_measured_to_the_bottom() -> None:
    tags = measured("1+" * 5_000 + "1")
    assert tags["syntax_max_depth"] > 5_000


def reference_verdict(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def library_texts(every: int) -> list[str]:
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in sorted(root.rglob("*.py")) if "site-packages" not in path.parts]
    return [path.read_text(encoding="utf-8", errors="replace") for path in paths[::every]]


def check_verdicts(texts: list[str]) -> None:
    for text in texts:
        for variant in (text, text[: len(text) // 2], text.replace(":", "", 1)):
            assert parses_as_python(variant) == reference_verdict(variant)


def test_verdicts_equal_those_of_ast_on_a_sample() -> None:
    check_verdicts([text for text in library_texts(60) if len(text) < 20_000])


@pytest.mark.slow
def test_verdicts_equal_those_of_ast_on_the_library() -> None:
    check_verdicts(library_texts(1))


def test_syntax_warnings_stay_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parses_as_python("x = '\\d' is 1\n")


@given(st.one_of(st.text(st.characters(exclude_categories=())), st.text("(){}[]:=\"'#\n\t defclass@\\", max_size=80)))
@settings(max_examples=100, deadline=None)
def test_any_text_gives_measurements(text: str) -> None:
    for language in ("Python", "C++", "SQL"):
        tags = measured(text, language)
        assert 0 <= tags["syntax_error_ratio"] <= 1
        assert 0 <= tags["comment_share"] <= 1
        assert tags["syntax_node_entropy"] >= 0
