"""What a file is: language, generated, vendored or test, licence.

The project's own table of languages decides first; enry (GitHub Linguist's rules) where an extension is shared by
several languages, unknown, or missing.
"""

from __future__ import annotations

import functools
import re
from pathlib import PurePosixPath

from codeflow.core.languages import BY_EXTENSION, BY_NAME

_AMBIGUOUS = {".h", ".txt", ".f", ".for", ".ts", ".md", ".sql", ".cls"}  # Linguist knows other languages for these
_DOUBTS = {  # what makes one ask whether a file is in the other language of its extension
    ".ts": re.compile(rb"^\s*<"),  # XML: translations of Qt
    ".tsx": re.compile(rb"^\s*<"),  # XML: maps of Tiled
    ".rs": re.compile(rb"^\s*<|^\s*#\s*pragma\b", re.M),  # XML, RenderScript
    ".hh": re.compile(rb"<\?hh\b"),  # Hack
    ".php": re.compile(rb"<\?hh\b"),
    ".cs": re.compile(rb"\bmethodsFor:"),  # Smalltalk
    ".md": re.compile(rb"^\(define_|^;;", re.M),  # GCC machine descriptions
    ".f": re.compile(rb"\S"),  # Forth and others; short of reading it nothing tells
    ".for": re.compile(rb"\S"),
}
_SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+\-]+(?:[ \t]+(?:AND|OR|WITH)[ \t]+[A-Za-z0-9.+\-]+)*)")
_SNIFF_CHARACTERS = 4096
_ENRY_BYTES = 16_384  # its classifier reads everything it is given
_TEST_PATH = re.compile(r"(^|/)(tests?|testing|specs?|__tests__)/|(^|/)(test_[^/]*|[^/]*_test|conftest)\.\w+$", re.I)
_VENDORED_PATH = re.compile(r"(^|/)(_?vendor(ed)?|third[_-]?party|_?extern(al)?|node_modules)/", re.I)
_GENERATED_HEAD = re.compile(
    r"@generated\b|\b(?:auto[- ]?generated|generated (?:automatically|by)\b|do not edit)", re.I
)
_GENERATED_CHARACTERS = 600


def language_of(path: str, content: bytes) -> str:
    """Return the language's name, or "" where nothing recognises it. `path` has forward slashes."""
    import enry

    name = PurePosixPath(path).name
    suffix = PurePosixPath(path).suffix.lower()
    known = BY_EXTENSION.get(suffix)
    head = content[:_ENRY_BYTES]
    if known and suffix in _DOUBTS and _DOUBTS[suffix].search(head):
        return enry.get_language_by_content(name, head)[0] or known.name
    if known and suffix not in _AMBIGUOUS:
        return known.name
    if suffix == ".h":
        return _header_language(head)
    if known:  # a name of its own beats the extension: CMakeLists.txt, requirements.txt
        special = enry.get_language_by_filename(name)[0]
        return special or known.name
    if suffix == "":
        found = enry.get_language_by_filename(name)[0] or (_by_shebang(head) if head.startswith(b"#!") else "")
        return found
    return enry.get_language(name, head)


def _by_shebang(head: bytes) -> str:
    import enry

    return enry.get_language_by_shebang(head)[0]


_CPP_MARKS = re.compile(
    rb"^\s*(?:constexpr\b|\[\[|namespace\b|template\s*<|class\s+\w+[^;]*[:{]|using\s+|(?:public|private|protected)\s*:)"
    rb"|\bstd::|#include\s*<(?:c?string|vector|memory|utility|cstdint|cstddef|map|array|optional|functional)>",
    re.M,
)


def _header_language(head: bytes) -> str:
    """Return C, C++ or Objective-C for a `.h` file."""
    if re.search(rb"^\s*@(?:interface|protocol|end)\b|^\s*#import\b", head, re.M):
        return "Objective-C"
    return "C++" if _CPP_MARKS.search(head) else "C"


def may_be_known(path: str) -> bool:
    """Say whether a file of this name can be in a language of the project's table; its content is not needed."""
    suffix = PurePosixPath(path).suffix.lower()
    return not suffix or suffix in BY_EXTENSION or _extension_language(suffix) in BY_NAME


@functools.cache
def _extension_language(suffix: str) -> str:
    import enry

    return enry.get_language_by_extension(f"name{suffix}")[0]


def is_generated(path: str, content: bytes) -> bool:
    """Say whether a program wrote the file: Linguist's rules, or a notice in its first lines."""
    import enry

    if enry.is_generated(path, content[:_ENRY_BYTES]):
        return True
    return bool(_GENERATED_HEAD.search(content[:_GENERATED_CHARACTERS].decode("utf-8", "replace")))


def is_vendored(path: str) -> bool:
    """Say whether the path is one where projects keep copies of other projects."""
    import enry

    return bool(_VENDORED_PATH.search(path)) or enry.is_vendor(path)


def is_test(path: str) -> bool:
    """Say whether the path is that of a test."""
    return bool(_TEST_PATH.search(path))


def flags(path: str, content: bytes) -> dict[str, float]:
    """Return those of the tags "generated", "vendored" and "test" that hold, each with the value 1."""
    found = {"generated": is_generated(path, content), "vendored": is_vendored(path), "test": is_test(path)}
    return {name: 1.0 for name, holds in found.items() if holds}


def licence_in_text(text: str) -> str:
    """Return the SPDX expression that a file states in its first 4,096 characters, or ""."""
    found = _SPDX.search(text, 0, _SNIFF_CHARACTERS)
    return re.sub(r"\s+", " ", found[1]) if found else ""
