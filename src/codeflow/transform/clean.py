"""Repairs of a document's text. Never drops; what is beyond repair is measured here and judged by `filters`.

In order, all deterministic, and a second application changes nothing:

1. encoding: a leading byte order mark, lone surrogates, NULs and other control characters (tab, newline, vertical tab
   and form feed stay) go; text that is UTF-8 read as Windows-1252 is decoded once more (three or more places, all of
   which must decode: a file that merely shows such an accident is left alone).
2. newlines: CRLF and CR become LF; blank lines at both ends go; the text ends with exactly one newline.
3. trailing white space: spaces and tabs before a newline go in code and data. Not in prose, where two spaces may be a
   line break. In code this reaches into multi-line strings too, where it rarely has a meaning.
4. licence headers (an option): paragraphs of the leading comment block that speak of licence or copyright go, as
   OpenCoder does, since they repeat by the thousand. The licence stays in the origin: an SPDX identifier found there
   fills an empty one. Other paragraphs of that comment stay.
5. noise of prose: lines of badges, HTML comments, navigation; more than two blank lines in a row become two.
"""

from __future__ import annotations

import dataclasses
import re
from typing import ClassVar, Literal

from codeflow.core.languages import BY_NAME, Language
from codeflow.core.types import Document
from codeflow.transform.operator import Drop, Operator, with_tags, with_text

_CONTROLS = "".join(chr(c) for c in range(32) if chr(c) not in "\t\n\v\f\r") + "\x7f"
_DELETE_CONTROLS = dict.fromkeys(map(ord, _CONTROLS))
_SURROGATE = re.compile("[\ud800-\udfff]")
_NON_ASCII = re.compile("[^\x00-\x7f]+")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_MIN_MOJIBAKE_PLACES = 3
_MAX_ROUNDS = 32

_HEADER_CHARACTERS = 20_000
_LICENCE_WORDS = re.compile(
    r"copyright|licen[sc]|spdx-|all rights reserved|redistribut|\"as is\"|warrant|permission (?:is|to use)|"
    r"free software|liable|\(c\) ?(?:19|20)\d\d|©",
    re.IGNORECASE,
)
_SPDX = re.compile(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+\-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+\-]+)*)")
_DIRECTIVE = re.compile(r"#!|.*-\*-|.*coding[:=]|.*\b(?:vim|ex):")

_NOISE = tuple(
    re.compile(pattern, re.MULTILINE | re.IGNORECASE)
    for pattern in (
        r"^(?:[ \t]*\[!\[[^\]\n]*\]\([^)\n]*\)\]\([^)\n]*\)[ \t]*)+\n",  # Markdown: badges that link
        r"^[ \t]*!\[[^\]\n]*\]\([^)\n]*(?:badge|shields\.io)[^)\n]*\)[ \t]*\n",  # Markdown: a badge without a link
        r"^\.\. (?:\|[^|\n]*\| )?image:: [^\n]*(?:badge|shields\.io)[^\n]*\n(?:[ \t]+:[^\n]*\n)*",  # the same in reST
        r"^[ \t]*(?:skip to (?:main )?content|edit (?:this page|on github)|back to top|table of contents|"
        r"share (?:this|on \w+)|accept (?:all )?cookies|sign (?:in|up)|log ?in|subscribe)[ \t]*\n",  # navigation
    )
)
_HTML_COMMENT = re.compile(r"<!--.*?-->[ \t]*\n?", re.DOTALL)
_BLANK_RUN = re.compile(r"\n(?:[ \t]*\n){3,}")


class Clean(Operator):
    """Repair encoding, newlines, white space and headers, and remove the noise of prose. Never drops."""

    name: ClassVar[str] = "clean"
    noted: ClassVar[tuple[str, ...]] = ("repaired_",)
    trailing_white_space: Literal["strip", "keep"] = "strip"
    licence_headers: Literal["strip", "keep"] = "strip"
    prose_noise: Literal["strip", "keep"] = "strip"

    def __call__(self, document: Document) -> Document | Drop:
        """Return the repaired document, with a tag `repaired_<what>` per repair made and `control_share`."""
        tags: dict[str, float] = {}
        for _ in range(_MAX_ROUNDS):  # one repair may bring up another; most texts need none or one
            before = document.text
            document = self._round(document, tags)
            if document.text == before:
                break
        return with_tags(document, tags)

    def _round(self, document: Document, tags: dict[str, float]) -> Document:
        language = BY_NAME.get(document.language)
        text = _encoding(document.text, tags)
        prose = language is not None and language.domain == "general"
        if self.prose_noise == "strip" and prose:
            text = _note(tags, "prose_noise", text, _without_noise(text))
        if self.trailing_white_space == "strip" and not prose and (" \n" in text or ("\t" in text and "\t\n" in text)):
            text = _note(tags, "trailing_white_space", text, _TRAILING.sub("", text))
        if self.licence_headers == "strip" and language is not None and language.domain == "code":
            document = _with_licence(document, text)
            text = _note(tags, "licence_header", text, _ends(without_licence_header(text, language)))
        return with_text(document, text)


def _note(tags: dict[str, float], what: str, before: str, after: str) -> str:
    if before != after:
        tags[f"repaired_{what}"] = 1.0
    return after


def _encoding(text: str, tags: dict[str, float]) -> str:
    from codeflow.transform.byte_scan import n_controls

    controls = n_controls(text.encode("utf-8", "surrogatepass"))
    damaged = controls + (0 if text.isascii() else text.count("\ufffd"))
    if damaged:
        tags["control_share"] = max(tags.get("control_share", 0.0), damaged / len(text))
    if controls:
        text = _note(tags, "control_characters", text, text.translate(_DELETE_CONTROLS))
    if not text.isascii():
        text = _note(tags, "byte_order_mark", text, text.lstrip("\ufeff"))
        text = _note(tags, "surrogates", text, _SURROGATE.sub("\ufffd", text))
        text = _note(tags, "mojibake", text, _decoded_again(text))
    if "\r" in text:
        text = _note(tags, "newlines", text, text.replace("\r\n", "\n").replace("\r", "\n"))
    return _note(tags, "end_of_file", text, _ends(text))


def _ends(text: str) -> str:
    """Strip blank lines at both ends (not the first line's indentation); one newline at the end."""
    stripped = text.rstrip()
    if not stripped:
        return ""
    start = len(stripped) - len(stripped.lstrip())
    first = stripped.rfind("\n", 0, start) + 1
    return stripped[first:] + "\n"


def _decoded_again(text: str) -> str:
    """Undo UTF-8 read as Windows-1252, as often as it was done, where the whole text says so."""
    for _ in range(4):
        places = _NON_ASCII.findall(text)
        if len(places) < _MIN_MOJIBAKE_PLACES:
            return text
        try:
            raw = [place.encode("cp1252").decode("utf-8") for place in places]
        except UnicodeError:
            return text
        replacements = iter(raw)
        text = _NON_ASCII.sub(lambda _, values=replacements: next(values), text).translate(_DELETE_CONTROLS)
    return text


def _without_noise(text: str) -> str:
    """Remove until nothing is found: what joins when a line goes may be noise in turn."""
    while True:
        before = text
        if "<!--" in text:
            text = _HTML_COMMENT.sub("", text)
        for pattern in _NOISE:
            text = pattern.sub("", text)
        text = _ends(_BLANK_RUN.sub("\n\n\n", text))
        if text == before:
            return text


def _with_licence(document: Document, text: str) -> Document:
    if document.origin.licence:
        return document
    found = _SPDX.search(text, 0, _HEADER_CHARACTERS)
    if not found:
        return document
    return dataclasses.replace(document, origin=dataclasses.replace(document.origin, licence=found[1].strip()))


def without_licence_header(text: str, language: Language) -> str:
    """Return `text` without the licence paragraphs of its leading comments; everything else stays as it is."""
    cut = len(text) if len(text) <= _HEADER_CHARACTERS else text.rfind("\n", 0, _HEADER_CHARACTERS) + 1
    lines = text[:cut].split("\n")
    kept: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at].strip()
        if (not line and at < len(lines) - 1) or (language.line_comment == "#" and at == 0 and line.startswith("#!")):
            kept.append(lines[at])
            at += 1
        elif language.line_comment and line.startswith(language.line_comment):
            end = at
            while end < len(lines) and lines[end].strip().startswith(language.line_comment):
                end += 1
            kept += _without_licence_paragraphs(lines[at:end])
            at = end
        elif language.block_comment and line.startswith(language.block_comment[0]):
            end = _block_end(lines, at, language.block_comment)
            if end == at:
                break
            kept += _block_without_licence(lines[at:end], language.block_comment)
            at = end
        else:
            break
    if kept == lines[:at]:
        return text
    return "\n".join(kept + lines[at:]) + text[cut:]


def _block_end(lines: list[str], start: int, delimiters: tuple[str, ...]) -> int:
    """Return the line after a block comment that ends its line, or `start` where there is no such end."""
    opening, closing = delimiters
    for at in range(start, len(lines)):
        line = lines[at].strip()
        inner = line[len(opening) :] if at == start else line
        if closing in inner:
            return at + 1 if inner.endswith(closing) and inner.count(closing) == 1 else start
    return start


def _without_licence_paragraphs(lines: list[str]) -> list[str]:
    """Drop the comment paragraphs with licence words; a line without letters or digits ends a paragraph."""
    kept: list[str] = []
    paragraph: list[str] = []
    dropped = False

    def close() -> None:
        nonlocal dropped
        words = [line for line in paragraph if not _DIRECTIVE.match(line)]
        if words and _LICENCE_WORDS.search("\n".join(words)):
            kept.extend(line for line in paragraph if _DIRECTIVE.match(line))
            dropped = True
        else:
            kept.extend(paragraph)
        paragraph.clear()

    for line in lines:
        if any(character.isalnum() for character in line):
            paragraph.append(line)
        else:
            close()
            kept.append(line)
    close()
    if not dropped:
        return lines
    return kept if any(character.isalnum() for line in kept for character in line) else []


def _block_without_licence(lines: list[str], delimiters: tuple[str, ...]) -> list[str]:
    """The same inside a block comment; the delimiters stay when other paragraphs do."""
    kept = _without_licence_paragraphs(lines)
    if kept is lines or not kept:
        return kept
    opening, closing = delimiters
    if not kept[0].strip().startswith(opening):
        kept = [opening, *kept]
    if not kept[-1].strip().endswith(closing):
        kept = [*kept, closing]
    return kept
