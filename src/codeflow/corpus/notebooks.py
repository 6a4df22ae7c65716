"""Notebooks -> text with their cells: a script with `%%` marks, or Markdown with fenced code. Outputs are left out.

nbformat reads all versions of the format. In a script, text cells are comments, and so are magics and shell escapes in
Python cells, so that the whole parses.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from codeflow.core.errors import UserError
from codeflow.core.languages import BY_NAME
from codeflow.corpus.code_language import named_language
from codeflow.corpus.plain_text import Refused

NotebookForm = Literal["script", "markdown"]
_MAGIC = re.compile(r"^(\s*)([%!?].*|\w[\w.]*\?{1,2}\s*)$", re.MULTILINE)
_CELL_MAGIC = re.compile(r"^\s*%%(?!time\b|timeit\b|capture\b|prun\b)\w")
_CURRENT_FORMAT = 4


def notebook_text(content: str, form: NotebookForm = "script") -> tuple[str, str]:
    """Return (text, language) of a notebook. Refuses what is no notebook or has no cells with content.

    Raises UserError without the package nbformat.
    """
    try:
        import nbformat
    except ImportError:
        raise UserError("reading notebooks needs nbformat; pip install 'codeflow[notebooks]'") from None
    try:
        notebook = nbformat.reader.reads(content)
        if notebook.get("nbformat", 0) < _CURRENT_FORMAT:
            notebook = nbformat.convert(notebook, _CURRENT_FORMAT)
        metadata, cells = notebook.get("metadata") or {}, list(notebook["cells"])
        pieces = [(str(cell["cell_type"]), _source(cell)) for cell in cells]
    except Exception:  # the library promises nothing about broken files
        raise Refused("notebook_damaged") from None
    pieces = [(kind, source) for kind, source in pieces if source.strip()]
    if not pieces:
        raise Refused("empty")
    language = _language(metadata)
    if form == "markdown":
        return "\n\n".join(_as_markdown(kind, source, language) for kind, source in pieces) + "\n", "Markdown"
    comment = BY_NAME[language].line_comment
    if not comment:
        raise Refused("notebook_language_unknown")
    return "\n\n".join(_as_script(kind, source, language) for kind, source in pieces) + "\n", language


def _source(cell: Any) -> str:
    source = cell["source"]
    text = "".join(source) if isinstance(source, list) else source
    if not isinstance(text, str):
        raise json.JSONDecodeError("a cell's source is no text", "", 0)
    return text.rstrip()


def _language(metadata: Any) -> str:
    """Return the language of the code cells; without a statement it is Python, as in the format's beginnings."""
    stated = [
        str((metadata.get(group) or {}).get(name) or "")
        for group, name in (("language_info", "name"), ("kernelspec", "language"), ("kernelspec", "name"))
    ]
    stated = [word for word in stated if word]
    if not stated:
        return "Python"
    language = named_language(stated)
    if language in ("", "Text"):
        raise Refused("notebook_language_unknown")
    return language


def _as_markdown(kind: str, source: str, language: str) -> str:
    if kind != "code":
        return source
    longest = max((len(run) for run in re.findall(r"`{3,}", source)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language.lower()}\n{source}\n{fence}"


def _as_script(kind: str, source: str, language: str) -> str:
    comment = BY_NAME[language].line_comment
    mark = f"{comment} %%"
    if kind != "code":
        return f"{mark} [{kind}]\n{_commented(source, comment)}"
    if language == "Python":
        foreign = _CELL_MAGIC.match(source) is not None  # the whole cell is another language
        source = _commented(source, comment) if foreign else _MAGIC.sub(rf"\1{comment} \2", source)
    return f"{mark}\n{source}"


def _commented(text: str, comment: str) -> str:
    return "\n".join(f"{comment} {line}".rstrip() for line in text.split("\n"))
