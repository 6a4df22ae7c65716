"""HTML -> text: main content as plain text, code blocks verbatim between fences, formulas as LaTeX between dollars.

Resiliparse parses and extracts. What must come through unchanged (code, formulas) is taken out of the tree first and
leaves a mark; the marks are filled in again in the extracted text. Where little of a long page comes out, frames left
out of its length, trafilatura has a second look at the same tree.

Not covered: pages whose text is made by scripts, frames, and text in images.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import ElementNode, HTMLTree, Node

from codeflow.corpus.code_language import guessed_language, named_language
from codeflow.corpus.formulas import FORMULAS, is_part_of_another, latex_of
from codeflow.corpus.web_config import HtmlSettings

_OPEN, _CLOSE = "⸨", "⸩"  # marks: printable, or trafilatura would take them out; a page's own are kept as piece 0
_MARK = re.compile(rf"{_OPEN}(\d+){_CLOSE}")
_BLANK_LINES = re.compile(r"\n{3,}")
_GUTTERS = (
    "td.gutter, td.linenos, td.rouge-gutter, td.blob-num, td.hljs-ln-numbers, .linenodiv, .line-numbers-rows, "
    "span.lineno, span.linenos, span.line-number"
)
_CODE_CLASS = re.compile(r"(?:^|[\s_-])(?:code|highlight|source|sourcecode|prettyprint|brush|lang|language)", re.I)
_LICENCE_LINK = re.compile(
    r"creativecommons\.org/(?:licenses/([a-z-]+)/([\d.]+)|publicdomain/(zero|mark)/([\d.]+))", re.I
)
_TAG = re.compile(
    r"<(/?)(?!(?:p|li|td|th|tr|dt|dd|thead|tbody|tfoot|option|optgroup|br|hr|img|input|meta|link|area|base|col|embed|"
    r"source|track|wbr|param|path|rect|use|circle|html|head|body)\b)[a-zA-Z]"
)
_FEW_TAGS = 2_000  # so many cannot nest deeply enough to cost much
_SPEAKING_PARENTS = 3  # elements around a `pre` whose classes may name its language
_INDENT = 1  # number of the piece that stands for two spaces
_FRAMES = ("nav", "header", "footer", "aside", "[role=navigation]")
_FRAMED = ", ".join([*(f"{frame} ul" for frame in _FRAMES), "[role=navigation]"])
_BREAKING = re.compile("<(?:tr|li|div)")
_PLAIN = "a|abbr|b|br|cite|code|dfn|div|em|i|img|kbd|mark|p|q|s|samp|small|span|strong|sub|sup|tt|u|var|wbr"
_PLAIN_LIST = re.compile(  # markup that a parser reads back as the same tree wherever it stands
    rf"[^<]*+(?:<li(?:\s[^<>]*+)?>(?:[^<\r]++|</?(?:{_PLAIN})(?:\s[^<>]*+)?>)*+</li>[^<]*+)++"
)
_ITEM = re.compile(r"<li(?:\s[^<>]*+)?>(.*?)</li>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A code block as it stands in the page. `stated` says that markup names the language; otherwise it is guessed."""

    text: str
    language: str  # "" where neither markup nor content tells
    stated: bool


@dataclass(frozen=True, slots=True)
class PageText:
    """What came out of a page."""

    text: str
    language: str  # the `lang` attribute of <html>, as it is
    licence: str  # SPDX identifier of a Creative Commons licence that the page links to with rel=license, or ""
    blocks: tuple[CodeBlock, ...]
    n_formulas: int
    extractor: str  # "resiliparse" or "trafilatura"
    notes: dict[str, int] = field(default_factory=dict)


class HtmlRefused(Exception):
    """A page that gives no text; the argument is the reason it is counted under."""


def page_text(html: str, settings: HtmlSettings | None = None) -> PageText:
    """Return the text of a page. Raises HtmlRefused, and nothing else for any input."""
    settings = settings or HtmlSettings()
    if _is_too_deep(html, settings.max_depth):
        raise HtmlRefused("html_nested_too_deeply")
    tree = HTMLTree.parse(html.replace(_OPEN, f"{_OPEN}0{_CLOSE}"))
    body = tree.body
    if body is None:
        raise HtmlRefused("html_without_body")
    page = _Page(tree, body, settings)
    page.take_formulas()
    page.take_code()
    if settings.main_content:
        page.keep_lists()
    text, extractor = page.extract()
    root = tree.document.document_element if tree.document else None
    return PageText(
        text=text,
        language=((root.getattr("lang", "") if root is not None else "") or "").strip(),
        licence=_licence(tree),
        blocks=tuple(page.blocks),
        n_formulas=page.n_formulas,
        extractor=extractor,
        notes=dict(page.notes),
    )


def _is_too_deep(html: str, max_depth: int) -> bool:
    """Say whether elements nest deeper than `max_depth`, or so many stay open. Linear; elements that end by themselves
    (paragraphs, items, cells) and empty ones do not count."""
    if html.count("<") < _FEW_TAGS:
        return False
    depth = 0
    for slash in _TAG.findall(html):
        depth += -1 if slash and depth else 1
        if depth > max_depth:
            return True
    return False


def _licence(tree: HTMLTree) -> str:
    document = tree.document
    links = document.query_selector_all("a[rel~=license], link[rel~=license]") if document else []
    for link in links:
        if found := _LICENCE_LINK.search(link.getattr("href", "") or ""):
            if found[3]:
                return "CC0-1.0" if found[3].lower() == "zero" else "CC-PDM-1.0"
            return f"CC-{found[1].upper()}-{found[2]}"
    return ""


class _Page:
    """A tree from which pieces are taken out, and what they were."""

    def __init__(self, tree: HTMLTree, body: ElementNode, settings: HtmlSettings) -> None:
        self.tree, self.body, self.settings = tree, body, settings
        self.pieces: list[str] = [_OPEN, "  "]
        self.blocks: list[CodeBlock] = []
        self.notes: Counter[str] = Counter()
        self.n_formulas = 0

    def _mark(self, piece: str) -> str:
        self.pieces.append(piece)
        return f"{_OPEN}{len(self.pieces) - 1}{_CLOSE}"

    def take_formulas(self) -> None:
        """Replace formulas by marks."""
        for node in self.body.query_selector_all(FORMULAS).values():
            if is_part_of_another(node):
                continue
            formula = self._own(latex_of(node))
            self.n_formulas += bool(formula)
            if formula:
                mark = self._mark(formula)
                node.replace_with(_text_node(self.tree, f" {mark} " if formula.startswith("$$") else mark))
            elif node.local_name != "img":
                node.remove()

    def take_code(self) -> None:
        """Replace the content of `pre` elements by marks, without line numbers and buttons."""
        blocks = self.body.query_selector_all("pre, xmp, listing").values()
        if not blocks:
            return
        are_nested = len(self.body.query_selector_all("pre pre, pre xmp, pre listing")) > 0
        for gutter in self.body.query_selector_all(_GUTTERS).values():
            gutter.remove()
        for node in blocks:
            parent = node.parent_element
            if parent is not None and not (are_nested and parent.closest("pre") is not None):
                self._take_block(node, parent)

    def _take_block(self, node: ElementNode, parent: ElementNode) -> None:
        markup = node.html  # says in no time which elements it is worth to ask for
        hints, seen = _hints(node, parent, markup), []
        stated = named_language(_noting(hints, seen))
        code = self._own(_verbatim(node, self.tree, markup)).strip("\n").rstrip()
        if not code.strip():
            return
        language = stated or guessed_language(code)
        if language == "Text":
            language = ""
        is_code = bool(language) or (
            ("<code" in markup and node.query_selector("code") is not None)
            or _CODE_CLASS.search(" ".join([*seen, *hints])) is not None
        )
        if is_code:
            self.blocks.append(CodeBlock(code, language, bool(stated)))
        fenced = is_code and self.settings.fence_code and "\n" in code
        node.text = self._mark(_fenced(code, language) if fenced else code)

    def _own(self, text: str) -> str:
        """Return text of the tree with the marks in it filled in: formulas in code, and the page's own sign."""
        return _MARK.sub(self._piece, text) if _OPEN in text else text

    def _piece(self, match: re.Match[str]) -> str:
        number = int(match[1])
        return self.pieces[number] if number < len(self.pieces) else match[0]

    def keep_lists(self) -> None:
        """Turn bulleted lists into lines: main content extraction takes them all for navigation."""
        lists = self.body.query_selector_all(f"ul:not({_FRAMED})").values()
        are_nested = bool(lists) and len(self.body.query_selector_all("ul ul, ol ul")) > 0
        for node in reversed(lists):  # inner ones first
            n_characters = len(node.text or "")
            markup = node.inner_html
            links = node.get_elements_by_tag_name("a").values() if "<a" in markup else []
            n_in_links = sum(len(link.text or "") for link in links)
            if n_characters == 0 or n_in_links > self.settings.list_max_link_share * n_characters:
                continue
            indent = f"{_OPEN}{_INDENT}{_CLOSE}" * (_n_lists_around(node) if are_nested else 0)
            node.replace_with(self._lines(node, markup, f"{indent}- "))

    def _lines(self, node: ElementNode, markup: str, prefix: str) -> ElementNode:
        """Return the items of a list as lines; through its markup where that is plain, since a node costs much more."""
        lines = self.tree.create_element("div")
        assert isinstance(lines, ElementNode)
        if _PLAIN_LIST.fullmatch(markup) and not ("<p" in markup and "<div" in markup):
            lines.inner_html = "".join(f"<div>{prefix}{item}</div>" for item in _ITEM.findall(markup))
            return lines
        for item in node.children.values():
            line = self.tree.create_element("div")
            assert isinstance(line, ElementNode)
            line.append(_text_node(self.tree, prefix), *item.child_nodes.values())
            lines.append(line)
        return lines

    def extract(self) -> tuple[str, str]:
        """Return (text with the pieces filled in, name of the extractor)."""
        settings = self.settings
        text = extract_plain_text(self.tree, preserve_formatting=True, main_content=settings.main_content)
        extractor, n_characters = "resiliparse", len(self._own(text))
        if settings.main_content and n_characters < settings.hard_max_characters:
            outside = extract_plain_text(self.tree, preserve_formatting=True, skip_elements=_FRAMES)
            n_outside = len(self._own(outside))
            if n_outside > settings.hard_max_characters and n_characters < settings.hard_min_share * n_outside:
                second = self._second_look()
                if len(self._own(second)) > n_characters:
                    text, extractor = second, "trafilatura"
        return self._filled(text), extractor

    def _filled(self, text: str) -> str:
        """Tidy the text, then fill in the pieces, which stay as they are; those of several lines stand alone."""
        text = _MARK.sub(lambda mark: f"\n\n{mark[0]}\n\n" if "\n" in self._piece(mark) else mark[0], text)
        text = "\n".join(line.rstrip() for line in text.split("\n"))
        return self._own(_BLANK_LINES.sub("\n\n", text).strip("\n"))

    def _second_look(self) -> str:
        self.notes["pages_for_trafilatura"] += 1
        html = str(self.tree)
        if len(html) > self.settings.hard_max_html_characters:
            self.notes["pages_too_large_for_trafilatura"] += 1
            return ""
        import trafilatura

        try:
            return trafilatura.extract(html, fast=True, include_comments=False) or ""
        except Exception:  # it promises nothing about broken trees
            self.notes["pages_refused_by_trafilatura"] += 1
            return ""


def _n_lists_around(node: ElementNode) -> int:
    n, parent = 0, node.parent_element
    while parent is not None and (around := parent.closest("ul, ol")) is not None:
        n, parent = n + 1, around.parent_element
    return n


def _hints(node: ElementNode, parent: ElementNode, markup: str) -> Iterator[str]:
    """Yield what the attributes in, on and around a code block say about it, the nearest first."""
    if "<code" in markup and (inner := node.query_selector("code")):
        yield from _speaking(inner)
    yield from _speaking(node)
    around: ElementNode | None = parent
    for _ in range(_SPEAKING_PARENTS):
        if around is None or around.local_name == "body":
            break
        yield from _speaking(around)
        around = around.parent_element


def _speaking(node: ElementNode) -> list[str]:
    values = [node.getattr(name, "") for name in ("data-lang", "data-language", "class", "lang")]
    return [value for value in values if value]


def _noting(values: Iterator[str], seen: list[str]) -> Iterator[str]:
    """Yield values; put down in `seen` what was asked for."""
    for value in values:
        seen.append(value)
        yield value


def _verbatim(node: ElementNode, tree: HTMLTree, markup: str) -> str:
    """Return the text of a code block with the line breaks that its markup makes."""
    if "<button" in markup:
        for button in node.query_selector_all("button").values():
            button.remove()
    if "<br" in markup:
        for line_break in node.query_selector_all("br").values():
            line_break.replace_with(_text_node(tree, "\n"))
    if _BREAKING.search(markup):
        for line in node.query_selector_all("tr, li, div").values():
            if line.next_element_sibling is not None and not (line.text or "").endswith("\n"):
                line.after(_text_node(tree, "\n"))
    return (node.text or "").replace("\r\n", "\n").replace("\r", "\n")


def _text_node(tree: HTMLTree, text: str) -> Node:
    node = tree.create_text_node(text)
    assert node is not None
    return node


def _fenced(code: str, language: str) -> str:
    """Return code between fences that are longer than any run of backticks in it."""
    longest = max(map(len, re.findall(r"`+", code)), default=0) if "`" in code else 0
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language.lower().replace(' ', '-')}\n{code}\n{fence}"
