"""Documentation comments of the table's languages: what documents, and what it documents."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.core.languages import BY_NAME, LANGUAGES
from tests.transform.test_syntax import measured

# language -> (program, bytes of documentation, documented, declared)
CASES: list[tuple[str, str, str, int, int]] = [
    (
        "Java",
        "/** A. */\n"
        '@Entity(name = "a")\n'
        "public class A {\n"
        "  /** F. */\n"
        "  int f() { return 1; }\n"
        "  // no\n"
        "  int g() { return 2; }\n"
        "}\n",
        "/** A. *//** F. */",
        2,
        3,
    ),
    (
        "Java",
        "/* plain */\nclass A {\n  /**/ int f() { return 1; }\n}\n/*** banner ***/\nclass B {}\n",
        "",
        0,
        3,
    ),
    (
        "JavaScript",
        "/** Adds. */\n"
        "export default function add(a, b) { return a + b; }\n"
        "/** Twice. */\n"
        "export const twice = (x) => 2 * x;\n"
        "list.map((x) => x);\n",
        "/** Adds. *//** Twice. */",
        2,
        2,
    ),
    (
        "TypeScript",
        "/** A. */\n@Injectable({ a: 1 })\nexport class A {\n  /** F. */\n  f(): number { return 1; }\n}\n",
        "/** A. *//** F. */",
        2,
        2,
    ),
    (
        "TSX",
        "/** B. */\nexport const B: Kind<string> = () => <b/>;\n",
        "/** B. */",
        1,
        1,
    ),
    (
        "PHP",
        "<?php\n/** A. */\nclass A {\n  /** F. */\n  public function f() { return 1; }\n  # no\n  function g() {}\n}\n",
        "/** A. *//** F. */",
        2,
        3,
    ),
    (
        "Kotlin",
        "/** A. */\nclass A {\n    /** F. */\n    fun f(): Int { return 1 }\n}\n",
        "/** A. *//** F. */",
        2,
        2,
    ),
    (
        "Scala",
        "/** A. */\nclass A {\n  /** F. */\n  def f(): Int = 1\n}\n",
        "/** A. *//** F. */",
        2,
        2,
    ),
    (
        "C#",
        "/// <summary>A.</summary>\n/// <remarks/>\n[Serializable]\nclass A {\n  /// F.\n  int F() { return 1; }\n}\n",
        "/// <summary>A.</summary>/// <remarks/>/// F.",
        2,
        2,
    ),
    (
        "Rust",
        "//! The crate.\n"
        "\n"
        "/// S.\n"
        "#[derive(Debug)]\n"
        "pub struct S;\n"
        "//// banner\n"
        "fn g() {}\n"
        "impl S {\n"
        "    /// F.\n"
        "    /// More.\n"
        "    fn f() {}\n"
        "}\n",
        "//! The crate./// S./// F./// More.",
        2,
        3,
    ),
    (
        "C",
        "/** Adds. */\n"
        "static inline int add(int a) { return a; }\n"
        "/// S.\n"
        "struct s { int x; };\n"
        "int g(struct s *p) { return 0; }\n",
        "/** Adds. *//// S.",
        2,
        3,
    ),
    (
        "C++",
        "//! A.\nclass A {};\n/** F. */\ntemplate <typename T>\nT f(T x) { return x; }\n// no\nint g() { return 1; }\n",
        "//! A./** F. */",
        2,
        3,
    ),
    (
        "Cuda",
        "/// Kernel.\n__global__ void f(int *x) { x[0] = 1; }\n",
        "/// Kernel.",
        1,
        1,
    ),
    (
        "Go",
        "// Copyright.\n"
        "\n"
        "// Package p does it.\n"
        "// Well.\n"
        "package p\n"
        "\n"
        "// A is.\n"
        "type A struct{}\n"
        "\n"
        "// detached\n"
        "\n"
        "func f() {}\n"
        "\n"
        "// g goes.\n"
        "func g() {}\n",
        "// Package p does it.\n// Well.// A is.// g goes.",
        2,
        3,
    ),
    (
        "Ruby",
        "# frozen_string_literal: true\n"
        "\n"
        "# A.\n"
        "# More.\n"
        "class A\n"
        "  # F.\n"
        "  def f\n"
        "    1\n"
        "  end\n"
        "\n"
        "  def g\n"
        "    x # trailing\n"
        "  end\n"
        "end\n",
        "# A.\n# More.# F.",
        2,
        3,
    ),
    (
        "Shell",
        "#!/bin/sh\nf() {\n  echo 1\n}\n\n# Says two.\ng() {\n  echo 2\n}\n",
        "# Says two.",
        1,
        2,
    ),
    (
        "SQL",
        "-- licence\n\n-- All of a.\nCREATE TABLE a (x INT);\nCREATE TABLE b (x INT);\n",
        "-- All of a.",
        1,
        2,
    ),
    (
        "Fortran",
        "! Does.\nsubroutine f(x)\n  real :: x\n  x = 1\nend subroutine\n",
        "! Does.",
        1,
        1,
    ),
]


@pytest.mark.parametrize(("language", "program", "documentation", "documented", "declared"), CASES)
def test_cases(language: str, program: str, documentation: str, documented: int, declared: int) -> None:
    tags = measured(program, language)
    assert tags["doc_comment_share"] * len(program) == pytest.approx(len(documentation), abs=1e-6)
    assert tags["documented_share"] == pytest.approx(documented / declared)
    assert tags["doc_comment_share"] <= tags["comment_share"]
    assert "docstring_share" not in tags


def test_every_language_with_a_grammar_has_a_case() -> None:
    assert {case[0] for case in CASES} | {"Python"} == {language.name for language in LANGUAGES if language.grammar}


@given(
    st.lists(
        st.sampled_from(
            ["/** d */", "// c", "/* b */", "class A {}", "@X(1)", "int f() {}", "\n", " ", "///", "é", "{"]
        ),
        max_size=40,
    )
)
def test_shares_are_shares(parts: list[str]) -> None:
    for language in ("Java", "C++", "Go"):
        tags = measured(" ".join(parts), language)
        assert 0 <= tags["documented_share"] <= 1
        assert 0 <= tags["doc_comment_share"] <= tags["comment_share"] <= 1


def test_hostile_gaps_end_soon() -> None:
    started = time.monotonic()
    for filler in ("@a", "@export ", "export ", "[", "@a(", "template <", "#[", " \n "):
        text = ("/** d */ " + filler * 300 + "\nclass A {}\n") * 50
        measured(text, "Java")
        measured(text, "TypeScript")
    assert time.monotonic() - started < 10


def test_marks_are_in_the_table() -> None:
    assert BY_NAME["Rust"].doc_marks
    assert BY_NAME["Go"].doc_marks == ()
