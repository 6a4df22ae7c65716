"""Natural languages of pages."""

from __future__ import annotations

import pytest

pytest.importorskip("py3langid")

from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin
from codeflow.transform.clean_web import CleanWebConfig
from codeflow.transform.natural_language import IdentifyLanguage, identified
from codeflow.transform.operator import Drop
from codeflow.transform.pipeline import apply

ENGLISH = "The river runs past the old mill, and in winter its stones are white with frost."
GERMAN = "Der Fluss fließt an der alten Mühle vorbei, und im Winter sind seine Steine weiß vor Frost."


def document(text: str, language: str = "Text") -> Document:
    return Document(sha256_text(text), text, language, Origin("web", "", "", "https://example.org/", "", ""))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (ENGLISH, "en"),
        (GERMAN, "de"),
        ("La rivière passe devant le vieux moulin, et en hiver ses pierres sont blanches de givre.", "fr"),
        ("Река течёт мимо старой мельницы, и зимой её камни белы от инея.", "ru"),
        ("川は古い水車小屋のそばを流れ、冬にはその石が霜で白くなる。", "ja"),
        ("河水流过古老的磨坊，冬天石头上结满了白霜。", "zh"),
        ("يجري النهر بجانب الطاحونة القديمة، وفي الشتاء تصبح حجارته بيضاء من الصقيع.", "ar"),
    ],
)
def test_languages(text: str, code: str) -> None:
    found, confidence = identified(text)
    assert found == code
    assert confidence > 0.5


def test_the_sample_covers_beginning_middle_and_end() -> None:
    assert identified(ENGLISH + GERMAN * 100, 1500)[0] == "de"
    assert identified("", 1500) == ("zxx", 1.0)


@pytest.mark.parametrize(
    ("text", "fields", "reason"),
    [
        (ENGLISH, {}, ""),
        (GERMAN, {}, ""),
        (GERMAN, {"languages": ("en",)}, "other_language"),
        (ENGLISH, {"languages": ("en", "fr")}, ""),
        ("1234 5678 !!! 90", {}, "no_language"),
        ("Short", {}, "language_unsure"),
        (ENGLISH, {"min_confidence": 1.1}, "language_unsure"),
    ],
)
def test_verdicts(text: str, fields: dict[str, object], reason: str) -> None:
    result = IdentifyLanguage.model_validate(fields)(document(text))
    assert (result.reason if isinstance(result, Drop) else "") == reason


@pytest.mark.parametrize(
    "text",
    [ENGLISH, GERMAN, ENGLISH.upper(), "川は古い水車小屋のそばを流れ", "\ud800 x", "1", "a\u0301 b" * 99, "\x00"],
)
def test_scores_are_those_of_the_package_to_the_last_bit(text: str) -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    plain = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    assert identified(text) == plain.classify(text)


def test_code_is_not_prose() -> None:
    page = f"{GERMAN}\n\n```python\n" + "def the_function_of_that(value):\n    return value\n" * 20 + "```\n"
    result = IdentifyLanguage()(document(page, "Markdown"))
    assert isinstance(result, Document)
    assert list(result.tags) == ["natural_language_de"]
    code = document("def f(x):\n    return x\n", "Python")
    assert IdentifyLanguage()(code) is code


def test_the_chain_of_the_web() -> None:
    config = CleanWebConfig()
    names = [operator.name for operator in config.operators()]
    assert names[:6] == ["clean", "secrets", "web_lines", "natural_language", "web_repetition", "web_quality"]
    assert "syntax" in names
    assert "web_lines" not in [
        o.name for o in CleanWebConfig.model_validate({"web_lines": {"enabled": False}}).operators()
    ]
    _, drop = apply(document(ENGLISH), config.operators())
    assert drop is not None
    assert (drop.operator, drop.reason) == ("web_quality", "few_words")
