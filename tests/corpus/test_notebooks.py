"""Notebooks as scripts and as Markdown."""

from __future__ import annotations

import ast
import json
from typing import Any

import pytest

pytest.importorskip("nbformat")

from codeflow.corpus.notebooks import notebook_text
from codeflow.corpus.plain_text import Refused


def notebook(*cells: tuple[str, str | list[str]], language: str = "python", **more: Any) -> str:
    made = [
        {"cell_type": kind, "source": source, "metadata": {}}
        | ({"outputs": [{"output_type": "stream", "name": "stdout", "text": "never seen"}]} if kind == "code" else {})
        for kind, source in cells
    ]
    metadata = {"language_info": {"name": language}} if language else {}
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": made, **more})


CELLS = (("markdown", "# Title\n\nWords."), ("code", ["%matplotlib inline\n", "x = 1\n", "x?"]), ("code", " \n"))


def test_a_script_parses() -> None:
    text, language = notebook_text(notebook(*CELLS, ("code", "if x:\n    !ls\n    y = 2"), ("raw", "r")))
    assert language == "Python"
    assert text == (
        "# %% [markdown]\n# # Title\n#\n# Words.\n\n# %%\n# %matplotlib inline\nx = 1\n# x?\n\n"
        "# %%\nif x:\n    # !ls\n    y = 2\n\n# %% [raw]\n# r\n"
    )
    ast.parse(text)
    assert "never seen" not in text


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("%%bash\nls -l", "# %%bash\n# ls -l"),
        ("%%time\ny = f()", "# %%time\ny = f()"),
        ("a = 5 % 3", "a = 5 % 3"),
        ("s = '''\n  50 % 2\n'''", "s = '''\n  50 % 2\n'''"),
        ("np.sum?", "# np.sum?"),
    ],
)
def test_magics(source: str, expected: str) -> None:
    text, _ = notebook_text(notebook(("code", source)))
    assert text == f"# %%\n{expected}\n"


def test_markdown_with_fences() -> None:
    text, language = notebook_text(notebook(*CELLS, ("code", "s = '```'")), "markdown")
    assert language == "Markdown"
    assert text == "# Title\n\nWords.\n\n```python\n%matplotlib inline\nx = 1\nx?\n```\n\n````python\ns = '```'\n````\n"


def test_other_languages_and_versions() -> None:
    assert notebook_text(notebook(("code", "let x = 1;"), ("markdown", "a"), language="javascript")) == (
        "// %%\nlet x = 1;\n\n// %% [markdown]\n// a\n",
        "JavaScript",
    )
    assert notebook_text(notebook(("code", "x"), language=""))[1] == "Python"
    cell = {"cell_type": "code", "input": "x = 1", "language": "python", "outputs": [], "metadata": {}}
    third = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": [cell]}]}
    assert notebook_text(json.dumps(third)) == ("# %%\nx = 1\n", "Python")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "notebook_damaged"),
        ("{}", "notebook_damaged"),
        ("[]", "notebook_damaged"),
        ("[" * 100_000, "notebook_damaged"),
        ('{"nbformat": 4, "cells": 3}', "notebook_damaged"),
        ('{"nbformat": 4, "cells": [{"cell_type": "code", "source": 5}]}', "notebook_damaged"),
        ('{"nbformat": 99, "cells": [{}]}', "notebook_damaged"),
        ('{"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": []}', "empty"),
        (notebook(("code", "x"), language="brainfuck"), "notebook_language_unknown"),
        (notebook(("code", "x"), language="json"), "notebook_language_unknown"),
    ],
)
def test_what_is_no_notebook(content: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        notebook_text(content)
