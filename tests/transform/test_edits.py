"""Search/replace edits lead from `before` to `after`, and what does not fit is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.transform.edits import apply_edits, make_edits
from codeflow.transform.patch import PatchError

_LINES = st.lists(st.sampled_from(["a", "b", "c", "", "    d", "é"]), max_size=12)
_TEXTS = st.builds(lambda lines, end: "\n".join(lines) + end, _LINES, st.sampled_from(["\n", ""]))
_FILES = st.dictionaries(st.sampled_from(["a.py", "b.py", "dir/c d.py", "e"]), _TEXTS, max_size=4)


@given(_FILES, _FILES)
def test_edits_lead_from_before_to_after(before: dict[str, str], after: dict[str, str]) -> None:
    edits = make_edits(before, after, {"b.py": "a.py", "e": "dir/c d.py"})
    assert edits is not None
    assert apply_edits(before, edits) == after


def test_the_form() -> None:
    before = {"a.py": "x = 1\ny = 2\nx = 1\nz = 3\n", "old.py": "gone\n", "m.py": "same\n"}
    after = {"a.py": "x = 1\ny = 2\nx = 2\nz = 3\n", "new.py": "here", "n.py": "same\n"}
    assert make_edits(before, after, {"n.py": "m.py"}) == (
        "*** edit a.py\n<<<<<<< SEARCH\ny = 2\nx = 1\n=======\ny = 2\nx = 2\n>>>>>>> REPLACE\n"
        "*** rename m.py -> n.py\n"
        "*** create new.py\nhere\n\\ No newline at end of file\n*** end\n"
        "*** delete old.py\n"
    )


def test_texts_with_markers_cannot_be_written() -> None:
    assert make_edits({"a": "x\n=======\n"}, {"a": "y\n"}, {}) is None
    assert make_edits({"a": "x\n"}, {"a": "*** end\n"}, {}) is None


@pytest.mark.parametrize(
    "edits",
    [
        "edit a\n",
        "*** edit missing\n",
        "*** edit a\n<<<<<<< SEARCH\nq\n=======\n>>>>>>> REPLACE\n",
        "*** edit a\n<<<<<<< SEARCH\nx\n=======\n>>>>>>> REPLACE\n",  # in two places
        "*** edit a\n<<<<<<< SEARCH\ny\n",
        "*** create b\ntext\n",
        "*** rename a -> a\n",
    ],
)
def test_what_does_not_fit_is_refused(edits: str) -> None:
    with pytest.raises(PatchError):
        apply_edits({"a": "x\ny\nx\n"}, edits)
