"""Rules for text of web pages, as tables of cases."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin
from codeflow.transform.operator import Drop
from codeflow.transform.web_text import WebLines, WebQuality, WebRepetition, _is_noise, prose_of


def document(text: str, language: str = "Text", **tags: float) -> Document:
    origin = Origin("web", "example.org", "", "https://example.org/", "", "")
    return Document(sha256_text(text), text, language, origin, tags)


def sentences(n: int, seed: int = 0) -> list[str]:
    """Return sentences without repetition, of the words that prose is made of."""
    numbers = random.Random(seed)
    words = ("the", "of", "and", "to", "with", "that", "have", "be", "a", "river", "stone", "cloud", "paper")
    return [" ".join(numbers.choice(words) for _ in range(12)).capitalize() + "." for _ in range(n)]


PROSE = "\n".join(" ".join(sentences(3, n)) for n in range(6))
CODE = "```python\n" + "x = [1, 2, 3]  # ... # ...\n" * 30 + "```"


def reason(operator: WebRepetition | WebQuality | WebLines, text: str, **tags: float) -> str:
    result = operator(document(text, **tags))
    return result.reason if isinstance(result, Drop) else ""


@pytest.mark.parametrize("operator", [WebRepetition(), WebQuality(), WebLines()])
def test_what_stays(operator: WebRepetition | WebQuality | WebLines) -> None:
    assert reason(operator, PROSE) == ""
    assert reason(operator, f"{PROSE}\n\n{CODE}") == "", "code does not count against a page"
    assert reason(operator, PROSE + "\n\nSo $a_1 = \\{#, ..., #\\}$ and $$b^2 - c^2 = ###$$ hold.") == ""
    assert operator(document("x = 1\n" * 100, "Python")) == document("x = 1\n" * 100, "Python")
    assert reason(operator, "") in ("", "few_words")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PROSE + "\nThe same short line.\n" * 9, "duplicate_lines"),
        ("\n".join([*sentences(4), *[" ".join(sentences(4, 9))] * 2]), "duplicate_line_characters"),
        ("\n\n".join(["One two."] * 3 + ["\n".join(sentences(4, n)) for n in range(2)]), "duplicate_paragraphs"),
        (PROSE + " and then some" * 60, "top_2_gram"),
        (PROSE + " and then some" * 24, "top_3_gram"),
        (" ".join([*sentences(12), *sentences(4)]), "duplicate_5_grams"),
    ],
)
def test_repetition(text: str, expected: str) -> None:
    assert reason(WebRepetition(), text) == expected


@pytest.mark.parametrize("n", [5, 6, 7, 8, 9, 10])
def test_repeated_n_grams_against_a_plain_count(n: int) -> None:
    words = " ".join(sentences(30)).lower().split()
    words += [*words[10:90], "new", *words[40:60]]
    seen: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for i in range(len(words) - n + 1):
        gram = tuple(words[i : i + n])
        if gram in seen:
            covered.update(range(i, i + n))
        seen.add(gram)
    text = " ".join(words)
    expected = sum(len(words[i]) for i in covered) / len(text)
    measured = {name: value for name, value, _ in WebRepetition().measured(prose_of(text), document(text))}
    assert measured[f"duplicate_{n}_grams"] == pytest.approx(expected)
    assert expected > 0.1


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_most_frequent_n_gram_against_a_plain_count(n: int) -> None:
    words = [*" ".join(sentences(5)).split(), *(["very", "good", "indeed", "so"] * 12)]
    text = " ".join(words)
    counts: dict[str, int] = {}
    for i in range(len(words) - n + 1):
        gram = " ".join(words[i : i + n])
        counts[gram] = counts.get(gram, 0) + 1
    best = max(counts.values())
    candidates = {len(gram) * best / len(text) for gram, count in counts.items() if count == best}
    measured = {name: value for name, value, _ in WebRepetition().measured(prose_of(text), document(text))}
    assert any(measured[f"top_{n}_gram"] == pytest.approx(value) for value in candidates)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Five words are too few.", "few_words"),
        ("the and of to be " * 20_001, "many_words"),
        (PROSE + " # tag ... more" * 30, "symbols"),
        ("\n".join(f"- {line}" for line in sentences(12)), "bullet_lines"),
        ("\n".join(f"{line}.." for line in sentences(12)), "ellipsis_lines"),
        ("\n".join(line[:-1] for line in sentences(12)), "unpunctuated_lines"),
        ("\n".join(f"The {word} line." for word in PROSE.split()), "short_lines"),
        ("a b " * 60 + PROSE.splitlines()[0], "short_words"),
        (" ".join(f"characteristically{n}" for n in range(60)) + ".", "long_words"),
        (PROSE.splitlines()[0] + " 12345 67890" * 30 + ".", "few_alphabetic_words"),
        ("Wir haben hier einen ganzen deutschen Satz, der keines jener Worte nennt. " * 6, "few_stop_words"),
        (PROSE.splitlines()[0] + " (ab) [cd] {ef}; <gh>=" * 30 + ".", "signs"),
    ],
)
def test_quality(text: str, expected: str) -> None:
    assert reason(WebQuality(), text) == expected


def test_quality_by_language_and_script() -> None:
    german = "Wir haben hier einen ganzen deutschen Satz, der keines jener Worte nennt. " * 6
    assert reason(WebQuality(), german, natural_language_de=0.99) == ""
    japanese = "これは日本語で書かれた普通の文章です。空白はありません。\n" * 8
    assert reason(WebQuality(), japanese, natural_language_ja=0.99) == ""
    assert reason(WebQuality(), japanese[:60], natural_language_ja=0.99) == "few_words"


@pytest.mark.parametrize(
    "line",
    [
        "We use cookies. See our Privacy Policy.",
        "Please enable JavaScript to view this page.",
        "Your browser has javascript disabled",
        "Share",
        "Read more »",
        "Log in",
        "Posted on May 6, 2024",
        "© 2024 Example Ltd.",
        "Copyright 2024, all rights reserved.",
        "12 comments",
        "- Sign up",
        "Skip to main content",
    ],
)
def test_noise_lines_go(line: str) -> None:
    result = WebLines()(document(f"{PROSE}\n{line}\n{sentences(1)[0]}"))
    assert isinstance(result, Document)
    assert result.text == f"{PROSE}\n{sentences(1)[0]}"
    assert result.id == sha256_text(result.text)
    assert result.tags == {"noise_lines": 1}


@pytest.mark.parametrize(
    "line",
    [
        "Share the work fairly among the processes.",
        "The JavaScript engine compiles functions.",
        "Next, the window is opened.",
        "Search trees are balanced.",
        f"{'A long line that says a lot about the matter at hand. ' * 8}It quotes a privacy policy.",
        "```text\nShare\n```",
    ],
)
def test_lines_that_say_something_stay(line: str) -> None:
    text = f"{PROSE}\n{line}"
    assert WebLines()(document(text)) == document(text)


def test_pages_of_noise() -> None:
    assert reason(WebLines(), "Share\nTweet\nRead more\nLog in\nWords.") == "boilerplate"
    assert reason(WebLines(), f"{PROSE} Lorem ipsum dolor.") == "lorem_ipsum"
    assert reason(WebLines(drop_lorem_ipsum=False), f"{PROSE} Lorem ipsum dolor.") == ""


_PARTS = (
    *(
        "```",
        "````",
        "```py",
        "`",
        "\n",
        "\n",
        "\n",
        " ",
        "\t",
        "x",
        "the words of a line ",
        "- ",
        "• ",
        "\x85",
        "y" * 99,
    ),
    *("Share", "\u017fhare", "S\u0130gn in", "s\u212aip to content", "Pin it", "e-mail", "Log in", "12 comments", "©"),
    *(
        "© 2024",
        "(c) us",
        "All rights reserved.",
        "Use cookies",
        "Privacy Pol\u0131cy",
        "JavaScript",
        "Enable javascript",
    ),
    *("Back to top", "Next »", "Menu", "Close", "Home", "Leave a reply", "Follow us", "View all", "Table of contents"),
    *(
        "Edit this page",
        "Copy link",
        "Updated on Monday",
        "Posted",
        "Last modified: 3",
        "Print",
        "Advertisement",
        "Prev",
    ),
    *("Tweet", "Reply", "Read more", "Continue reading", "Register", "Subscribe", "Search", "Loading...", "Show more"),
    *("Click here", "Published", "Terms of use", "Sign up", "\u0661 views", "Tweet.\u3000"),
)


@given(st.lists(st.sampled_from(_PARTS), max_size=40).map("".join))
def test_noise_lines_are_those_of_a_plain_walk(text: str) -> None:
    kept, fence = [], ""
    for line in text.split("\n"):
        mark = re.match("`{3,}", line)
        if mark and not fence:
            fence = mark[0]
        elif mark and mark[0] == fence == line.rstrip():
            fence = ""
        elif not fence and _is_noise(line.strip()):
            continue
        kept.append(line)
    n_noise = text.count("\n") + 1 - len(kept)
    result = WebLines(max_removed_share=1.0)(document(text))
    assert isinstance(result, Document)
    assert result.tags.get("noise_lines", 0) == n_noise
    if n_noise and "```" in text:
        assert result.text == "\n".join(kept)


@given(st.lists(st.sampled_from(_PARTS[:10]), max_size=40).map("".join))
def test_prose_is_what_stands_outside_fences(text: str) -> None:
    plain = re.sub(r"^(`{3,})[^`\n]*\n.*?^\1[ \t]*$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert prose_of(text).text == plain


def test_fences_without_end_take_no_time() -> None:
    text = "".join(f"{'`' * (3 + n % 40)}x{n}\n" for n in range(40_000))
    assert prose_of(text).text == text
