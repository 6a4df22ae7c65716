"""Languages of code without a file name."""

from __future__ import annotations

import inspect
import json.decoder
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.core.languages import BY_NAME
from codeflow.corpus.code_language import _COMPILED, guessed_language, named_language


@pytest.mark.parametrize(
    ("hints", "language"),
    [
        (["language-python"], "Python"),
        (["lang-js", "highlight"], "JavaScript"),
        (["brush: csharp; gutter: false"], "C#"),
        (["highlight highlight-source-c++"], "C++"),
        (["highlight-text-html-basic"], "HTML"),
        (["highlight-python3 notranslate"], "Python"),
        (["sourceCode haskell", "x"], ""),
        (["sourceCode bash"], "Shell"),
        (["code-block", "rust"], "Rust"),
        (["prettyprint lang-rb"], "Ruby"),
        (["language-none", "language-python"], "Text"),
        (["theme-dark codebox"], ""),
        (["language-brainfuck"], ""),
        ([], ""),
    ],
)
def test_markup_names_the_language(hints: list[str], language: str) -> None:
    assert named_language(hints) == language
    assert not language or language in BY_NAME


@pytest.mark.parametrize(
    ("code", "language"),
    [
        (textwrap.dedent(inspect.getsource(json.decoder.JSONDecoder)), "Python"),
        (">>> f(1)\n2\n>>> f(3)\n4\n", "Python"),
        ("const a = require('x');\nfunction f() {\n  console.log(a);\n}\n", "JavaScript"),
        ("interface Shape {\n  side: number;\n}\nconst side: number = 3;\n", "TypeScript"),
        ("public class A {\n  public static void main(String[] args) {\n    System.out.println(1);\n  }\n}\n", "Java"),
        ("using System;\nclass A {\n  static void Main() { Console.WriteLine(1); }\n}\n", "C#"),
        ('package main\n\nimport "fmt"\n\nfunc main() {\n\tn := 1\n\tfmt.Println(n)\n}\n', "Go"),
        ('fn main() {\n    let x = 5;\n    println!("{}", x);\n}\n', "Rust"),
        ('#include <stdio.h>\nint main(void)\n{\n    printf("x");\n    return 0;\n}\n', "C"),
        ("#include <vector>\nint main() {\n    std::vector<int> v;\n    return v.size();\n}\n", "C++"),
        ("<?php\n$a = 1;\necho $a;\n", "PHP"),
        ("class A\n  attr_reader :b\n  def c\n    puts 1\n  end\nend\n", "Ruby"),
        ("fun f(n: Int): Int {\n    val m = n + 1\n    return m\n}\n", "Kotlin"),
        ("object A {\n  def f(n: Int): Int = n + 1\n  val m = f(2)\n}\n", "Scala"),
        ("$ git clone x\n$ cd x\n$ npm install\n", "Shell"),
        ("SELECT a, b\nFROM t\nWHERE c = 1;\n", "SQL"),
        ('{\n  "name": "x",\n  "n": 3,\n  "on": true\n}\n', "JSON"),
        ("Plain words in two lines,\nand no code at all.\n", ""),
        ("1 2 3\n4 5 6\n", ""),
        ("+----+----+\n| id | n  |\n+----+----+\n", ""),
        ("", ""),
    ],
)
def test_signs_give_the_language_or_nothing(code: str, language: str) -> None:
    assert guessed_language(code) == language


def test_one_weak_sign_is_no_language() -> None:
    assert guessed_language("x === y\n") == ""
    assert guessed_language("var a = 1\n" + "words and words\n" * 5) == ""


@pytest.mark.parametrize("language", _COMPILED)
@settings(max_examples=10)
@given(data=st.data())
def test_each_match_of_a_sign_holds_one_of_its_words(language: str, data: st.DataObject) -> None:
    for pattern, _, words in _COMPILED[language]:
        match = data.draw(st.from_regex(pattern, fullmatch=True, alphabet=st.characters(max_codepoint=126)))
        assert any(word in (match.lower() if language == "SQL" else match) for word in words)
