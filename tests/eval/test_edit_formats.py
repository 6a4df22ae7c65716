from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.eval.edit_formats import apply_diff, apply_whole, as_diff, as_whole

FILES = {"src/a.py": "def f():\n    x = 1\n    return x\n", "b.py": "y = 2\n"}


def block(path: str, search: str, replace: str) -> str:
    return f"{path}\n```python\n<<<<<<< SEARCH\n{search}=======\n{replace}>>>>>>> REPLACE\n```\n"


@pytest.mark.parametrize(
    ("answer", "path", "text"),
    [
        (block("src/a.py", "    x = 1\n", "    x = 3\n"), "src/a.py", "def f():\n    x = 3\n    return x\n"),
        (block("a.py", "    x = 1\n", "    x = 3\n"), "src/a.py", "def f():\n    x = 3\n    return x\n"),
        (block("**`b.py`**:", "y = 2\n", ""), "b.py", ""),
        (block("b.py", "", "z = 1\n"), "b.py", "y = 2\nz = 1\n"),
        (block("src/a.py", "x = 1\nreturn x\n", "return 1\n"), "src/a.py", "def f():\n    return 1\n"),
        (block("src/a.py", "\n\n    x = 1\n", "    x = 3\n"), "src/a.py", "def f():\n    x = 3\n    return x\n"),
        ("```b.py\n<<<<<<< SEARCH\ny = 2\n=======\ny = 3\n>>>>>>> REPLACE\n```", "b.py", "y = 3\n"),
        (block("b.py", "y = 2\n", "y = 3\n") + block("", "y = 3\n", "y = 4\n").lstrip("\n"), "b.py", "y = 4\n"),
    ],
)
def test_blocks_are_applied(answer, path, text):
    edited = apply_diff(FILES, answer)
    assert edited.problems == ()
    assert edited.files == {**FILES, path: text}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("I would change x.", "no SEARCH/REPLACE block"),
        (block("c.py", "y = 2\n", ""), "c.py: not a file that may be changed; there are src/a.py, b.py"),
        (block("b.py", "y = 7\n", ""), "the text to search is not there"),
        (block("src/a.py", "  x = 1\n return x\n", ""), "the text to search is not there"),
        ("b.py\n<<<<<<< SEARCH\ny = 2\n", "lacks its line ======="),
        ("b.py\n<<<<<<< SEARCH\ny = 2\n=======\n", "lacks its line >>>>>>> REPLACE"),
        ("Here it is, as you said\n<<<<<<< SEARCH\ny = 2\n=======\n>>>>>>> REPLACE\n", "without the name"),
    ],
)
def test_what_cannot_be_applied_is_said(answer, problem):
    edited = apply_diff(FILES, answer)
    assert edited.files == FILES
    assert problem in edited.problems[0]


def test_one_wrong_block_leaves_the_others():
    edited = apply_diff(FILES, block("b.py", "nowhere\n", "") + block("b.py", "y = 2\n", "y = 5\n"))
    assert edited.files["b.py"] == "y = 5\n"
    assert (edited.n_edits, len(edited.problems)) == (1, 1)


@pytest.mark.parametrize(
    ("answer", "expected", "n_problems"),
    [
        ("b.py\n```python\ny = 9\n```\n", {"b.py": "y = 9\n"}, 0),
        ("Text.\n\n```\nshown only\n```\nb.py\n```\ny = 9\n```", {"b.py": "y = 9\n"}, 0),
        ("b.py\n```\ny = 1\n```\nand again b.py\nb.py\n```\ny = 2 + 1\n```", {"b.py": "y = 2 + 1\n"}, 0),
        ("b.py\n```\ny = 9\n", {"b.py": "y = 9\n"}, 0),
        ("c.py\n```\nz\n```\n", {}, 1),
        ("nothing", {}, 1),
    ],
)
def test_whole_files(answer, expected, n_problems):
    edited = apply_whole(FILES, answer)
    assert edited.files == {**FILES, **expected}
    assert len(edited.problems) == n_problems


def test_a_single_file_needs_no_name():
    assert apply_whole({"b.py": ""}, "```python\ny = 9\n```").files == {"b.py": "y = 9\n"}


LINES = st.lists(st.text(alphabet="ab #=<>`.\t", max_size=8), max_size=6).map(
    lambda lines: "".join(f"{x}\n" for x in lines)
)


@given(before=LINES, after=LINES)
def test_what_is_written_reads_back(before, after):
    marks = ("```", "=====", "<<<<<", ">>>>>")
    if any(line.lstrip().startswith(marks) for text in (before, after) for line in text.splitlines()):
        return
    whole = apply_whole({"m.py": before}, as_whole({"m.py": after}))
    assert whole.files == {"m.py": after}
    if before.strip() and before != after:
        assert apply_diff({"m.py": before}, as_diff({"m.py": before}, {"m.py": after})).files == {"m.py": after}
