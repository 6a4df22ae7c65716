from __future__ import annotations

import json
from pathlib import Path

import pytest

from codeflow.eval.line_completion import compare_line, identifiers, similarity_percent, statement


@pytest.mark.parametrize(
    ("language", "completion", "kept"),
    [
        ("java", "x.put(k); // done\ny();", "x.put(k);"),
        ("csharp", "get { return a; }", "get {"),
        ("typescript", ";const a = 1;", ";const a = 1;"),  # an end at the first character does not count
        ("python", "a = 1\nb = 2\n", "a = 1"),
        ("python", "a = (1,\n  2)\nb", "a = (1,\n  2)"),
        ("python", "a = (", "a = ("),
    ],
)
def test_one_statement_is_kept(language: str, completion: str, kept: str) -> None:
    assert statement(language, "", completion) == kept


def test_identifiers_leave_out_texts_and_keywords() -> None:
    assert identifiers('return helper.get("name", n2) if True else None', "python") == ["helper", "get", "n2", "True"]
    assert identifiers("var x = null;", "java") == ["x", "null"]


def test_similarity_is_in_whole_percents() -> None:
    assert [similarity_percent(*pair) for pair in (("", ""), ("a", ""), ("abc", "abd"), ("ab", "ab"))] == [
        *(100, 0),
        *(67, 100),
    ]


def test_comments_do_not_count() -> None:
    match = compare_line("python", "def f():\n    ", "return a  # why\n", "return a")
    assert match.exact
    assert match.edit_similarity == 1
    assert match.identifiers_f1 == 1


def test_every_official_verdict(official: Path) -> None:
    rows = [json.loads(line) for line in (official / "crosscodeeval/cases_sample.jsonl").read_text().splitlines()]
    assert len(rows) > 80
    for row in rows:
        match = compare_line(row["language"], row["prompt"], row["pred"], row["groundtruth"])
        assert match.completion == row["truncated"]
        assert (match.exact, match.identifiers_exact) == (row["em"], row["id_em"]), row
        assert match.edit_similarity * 100 == pytest.approx(row["es"])
        assert match.identifiers_f1 == pytest.approx(row["id_f1"])
