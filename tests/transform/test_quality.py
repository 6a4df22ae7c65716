"""The hand-made score orders what it claims to order, stays in 0..1, and does not depend on the batch."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin
from codeflow.transform.quality import DocumentationAndStructure, ScoreQuality, Scorer, code_parts
from codeflow.transform.syntax import MeasureSyntax

DOCUMENTED = '"""Areas."""\n\n\n' + "".join(
    f'def area_{name}(width, height):\n    """Return the area."""\n    # in metres\n    return width * height\n\n\n'
    for name in ("room", "hall", "yard")
)
BARE = "".join(f"def {name}(w, h):\n    return w * h\n\n\n" for name in "abc")


def measured(text: str, language: str = "Python") -> Document:
    document = Document(sha256_text(text), text, language, Origin("project", "r", "", "a.py", "", ""))
    result = MeasureSyntax()(document)
    assert isinstance(result, Document)
    return result


def score(text: str, language: str = "Python") -> float:
    return DocumentationAndStructure()([measured(text, language)])[0]


def test_documentation_and_clear_names_score_higher() -> None:
    assert score(DOCUMENTED) > score(BARE) + 0.2
    assert score(DOCUMENTED) > score(DOCUMENTED + "def broken(:\n" * 3)
    assert score(DOCUMENTED) > score(DOCUMENTED + "def long():\n" + "    call_something()\n" * 600)


def test_prose_beats_lists_of_words() -> None:
    prose = "The parser reads a line at a time. It keeps what it has seen, so errors name their place.\n" * 5
    assert score(prose, "Markdown") > score("a\nbc\nd 1\n" * 30, "Markdown") + 0.3


def test_weights_choose_the_parts() -> None:
    only = DocumentationAndStructure.model_validate(
        {"weights": {"comments": 0, "syntax": 0, "function_size": 0, "identifiers": 0, "structure": 0}}
    )
    assert only([measured(DOCUMENTED)]) == [1.0]
    assert only([measured(BARE)]) == [0.0]


def test_scores_do_not_depend_on_the_batch_and_are_tagged() -> None:
    scorer: Scorer = ScoreQuality().scorer()
    documents = [measured(DOCUMENTED), measured(BARE), measured("", "Text"), measured("x", "Unknown")]
    together = scorer(documents)
    assert together == [scorer([document])[0] for document in documents]
    tagged = ScoreQuality()(documents[0])
    assert isinstance(tagged, Document)
    assert tagged.tags["quality"] == together[0]


@given(st.text(st.characters(exclude_categories=())), st.sampled_from(["Python", "Rust", "Markdown", "?"]))
@settings(max_examples=100, deadline=None)
def test_any_text_scores_in_the_unit_interval(text: str, language: str) -> None:
    document = measured(text, language)
    assert 0.0 <= DocumentationAndStructure()([document])[0] <= 1.0
    assert all(0.0 <= value <= 1.0 for value in code_parts(document).values())


@given(st.text(st.sampled_from("aZ_09 .\n\u00e9\ud800"), max_size=80))
def test_names_are_those_that_a_pattern_finds(text: str) -> None:
    names = set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", text))
    expected = sum(len(name) >= 3 for name in names) / len(names) if names else 0.0
    assert code_parts(measured(text, "?"))["identifiers"] == expected
