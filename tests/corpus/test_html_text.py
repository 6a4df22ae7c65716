"""Pages become text: code verbatim, formulas kept, frames left out, nothing raised but a refusal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("resiliparse")

from codeflow.corpus.html_text import HtmlRefused, page_text
from codeflow.corpus.web_config import HtmlSettings
from tests.corpus.crawls import PROSE, page


def text_of(body: str, **settings: object) -> str:
    return page_text(page(body).decode(), HtmlSettings.model_validate(settings)).text


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<h1>Head</h1><p>One\n two.</p>", "Head\n\nOne two."),
        ("<ul><li>first item<li>second<ul><li>inner</ul></ul>", "- first item\n- second\n  - inner"),
        ("<ol><li>first<li>second</ol>", "  1. first\n  2. second"),
        ("<pre><code class=language-py>x = 1\n\n\n\n  y</code></pre>", "```python\nx = 1\n\n\n\n  y\n```"),
        ("<pre>words as\n   they   stand</pre>", "words as\n   they   stand"),
        ("<pre class='brush: js'>a<br>b</pre>", "```javascript\na\nb\n```"),
        ("<pre><code>one();</code></pre>", "one();"),
        ("<pre class=language-md>a\n```\nb</pre>", "````markdown\na\n```\nb\n````"),
        (
            "<table><tr><td class=linenos><pre>1\n2</pre><td class='code language-go'><pre>a := 1\nb</pre></table>",
            "```go\na := 1\nb\n```",
        ),
        (
            "<pre><code class=language-c><table><tr><td class=hljs-ln-numbers>1<td>int a;<tr><td "
            "class=hljs-ln-numbers>2<td>int b;</table></code></pre>",
            "```c\nint a;\nint b;\n```",
        ),
        ("<pre class=lang-sh><ol><li>ls</li><li>cd x</li></ol><button>Copy</button></pre>", "```shell\nls\ncd x\n```"),
        ("<pre class=lang-py>&lt;b&gt; &amp;\n\tx</pre>", "```python\n<b> &\n\tx\n```"),
        ("<p>so <math alttext='x^2'></math> is $y_1$ and \\(z\\)</p>", "so $x^2$ is $y_1$ and \\(z\\)"),
        ("<p>signs ⸨0⸩ ⸨7⸩ ⸨</p><pre class=lang-c>⸨1⸩\n⸩</pre>", "signs ⸨0⸩ ⸨7⸩ ⸨\n\n```c\n⸨1⸩\n⸩\n```"),
    ],
)
def test_text(body: str, expected: str) -> None:
    assert text_of(body) == expected


def test_frames_go_with_main_content_only() -> None:
    assert "About this site" not in text_of(PROSE)
    assert "Copyright" not in text_of(PROSE)
    assert "About this site" in text_of(PROSE, main_content=False)
    links = "<ul>" + "<li><a href=x>another article of this site</a></li>" * 5 + "</ul>"
    assert "another article" not in text_of(PROSE + links)
    assert "another article" in text_of(PROSE + links, list_max_link_share=1.0)


def test_code_without_fences_and_its_blocks() -> None:
    body = "<pre class=lang-py>a = 1\nb = 2</pre><pre>def f(x):\n    return None</pre><pre>plain\nwords</pre>"
    found = page_text(page(body).decode(), HtmlSettings(fence_code=False))
    assert "```" not in found.text
    assert [(block.language, block.stated) for block in found.blocks] == [("Python", True), ("Python", False)]
    assert found.blocks[1].text == "def f(x):\n    return None"


def test_attributes_of_the_page() -> None:
    link = '<link rel=license href="https://creativecommons.org/licenses/by-sa/4.0/deed.de">'
    found = page_text(page(PROSE, head=link).decode())
    assert (found.language, found.licence, found.extractor) == ("en", "CC-BY-SA-4.0", "resiliparse")
    zero = '<a rel="license nofollow" href="http://creativecommons.org/publicdomain/zero/1.0/">0</a>'
    assert page_text(page(PROSE + zero).decode()).licence == "CC0-1.0"
    assert page_text(page(PROSE + zero.replace("license", "next")).decode()).licence == ""


def test_hard_pages_go_to_trafilatura() -> None:
    html = f"<html><body><div class=sidebar id=sidebar>{PROSE * 4}<pre class=lang-py>x = 1\ny = 2</pre></div></body>"
    found = page_text(html)
    assert found.extractor == "trafilatura"
    assert found.notes == {"pages_for_trafilatura": 1}
    assert "A sentence of prose" in found.text
    assert "```python\nx = 1\ny = 2\n```" in found.text
    large = page_text(html, HtmlSettings(hard_max_html_characters=100))
    assert large.extractor == "resiliparse"
    assert large.notes["pages_too_large_for_trafilatura"] == 1


def test_code_counts_when_a_page_is_judged_hard() -> None:
    code = "\n".join(f"value_{n} = compute({n})" for n in range(40))
    aside = (
        f"<html><body><div class=sidebar id=sidebar><p>One sentence about it.</p><pre class=lang-py>{code}</pre></div>"
    )
    found = page_text(aside)
    assert found.extractor == "trafilatura"
    assert code in found.text
    own = page_text(f"<html><body><main><pre class=lang-py>{code}</pre></main><div class=sidebar>{PROSE}</div>")
    assert (own.extractor, own.notes) == ("resiliparse", {}), "a page of code is not short"


def test_a_short_page_in_a_large_frame_is_not_hard() -> None:
    links = "".join(f"<li><a href=/{n}>Chapter {n} of the book</a></li>" for n in range(80))
    body = f"<nav><ul>{links}</ul></nav><main><p>Two short sentences. They are all.</p></main>"
    frames = f"<aside>{links}</aside><footer><ul>{links}</ul></footer>"
    found = page_text(f"<html><body>{body}{frames}</body></html>")
    assert (found.text, found.extractor, found.notes) == ("Two short sentences. They are all.", "resiliparse", {})


_LIST_PIECES = (
    *("<ul>", "<ul>", "</ul>", "<li>", "</li>", "<li class=x>", "<p>", "</p>", "<div>", "</div>", "<b>", "</b>", "<i>"),
    *(
        "</i>",
        "<a href=x>",
        "</a>",
        "<ol>",
        "</ol>",
        "<br>",
        "<span title='a>b'>",
        "</span>",
        "<!--c-->",
        "\n",
        "&#13;",
    ),
    *(
        "words ",
        "more words, ",
        "&lt;b&gt; &amp;nbsp; &nbsp;",
        "<math alttext='x'></math>",
        "<nav>",
        "</nav>",
        "<table>",
    ),
    *(
        "<td>",
        "</table>",
        "<object>",
        "</object>",
        "<pre>",
        "</pre>",
        "<code>",
        "</code>",
        "<select>",
        "<svg>",
        "</svg>",
    ),
    *(
        "<ul role=navigation>",
        "<header>",
        "</header>",
        "<script>",
        "</script>",
        "<h2>",
        "</h2>",
        "<nobr>",
        "<template>",
    ),
)


@given(st.lists(st.sampled_from(_LIST_PIECES), max_size=60).map("".join), st.booleans())
def test_lists_by_their_markup_are_lists_node_by_node(body: str, main_content: bool) -> None:
    settings = HtmlSettings(main_content=main_content, list_max_link_share=1.0)
    found = page_text(f"<body>{body}", settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codeflow.corpus.html_text._PLAIN_LIST", re.compile("(?!)"))
        assert page_text(f"<body>{body}", settings) == found


def test_lists_that_are_not_plain_take_no_time() -> None:
    items = "<li>" + "<b>x</b> y " * 20_000 + "<video></video></li>"
    assert "x y x y" in text_of(f"<p>{PROSE}</p><ul>{items}</ul>")


@pytest.mark.parametrize(
    "html",
    ["<div>" * 50_000 + "x", "<div>" * 5_000 + "x" + "</div>" * 5_000, "<b a=1><p>" * 20_000, "<x-y>" * 3_000],
    ids=["open", "balanced", "formatting", "unknown"],
)
def test_deep_nesting_is_refused_before_it_costs(html: str) -> None:
    with pytest.raises(HtmlRefused, match="html_nested_too_deeply"):
        page_text(html)


def test_many_elements_are_not_deep() -> None:
    assert page_text("<body>" + "<p>words<br><div>x</div>" * 3_000 + "<li>" * 3_000).text


_PIECES = (
    *("<pre>", "</pre>", "<ul>", "<li>", "</ul>", "<math>", "</math>", "<mfrac>", "<table>", "<tr>", "<td>", "<br>"),
    *("<script type='math/tex'>", "</script>", "⸨1⸩", "⸨", "<code>", "</code>", "<span class=katex>", "</span>"),
    *("<!--", "-->", "\0", "&#x2E28;", "\ufffe", "x = 1\n", "words ", "</body>", "<frameset>", "<svg>", "<template>"),
    *("<div ", "<button>", "</p>", "<a rel=license href='"),
)


@given(st.lists(st.sampled_from(_PIECES), max_size=60))
def test_any_tags_give_text_or_a_refusal(pieces: list[str]) -> None:
    try:
        found = page_text("".join(pieces))
    except HtmlRefused:
        return
    assert not re.search("⸨[2-9]⸩", found.text), "a mark was left"
