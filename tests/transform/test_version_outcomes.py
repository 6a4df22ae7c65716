from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.core.storage import sha256_text
from codeflow.core.types import Change, Commit
from codeflow.transform.version_outcomes import Outcome, outcomes


def commit(number: int, message: str, *changes: tuple[str, str | None, str | None], repository: str = "r") -> Commit:
    made = tuple(
        Change(path, path, "A" if before is None else "D" if after is None else "M", before, after, False)
        for path, before, after in changes
    )
    return Commit(repository, f"{repository}{number}", "", "2024-01-01T00:00:00Z", message, made, number / 10)


def history() -> list[Commit]:
    return [
        commit(0, "begin", ("kept.py", None, "kept"), ("bug.py", None, "bug 1"), ("try.py", None, "good")),
        commit(1, "Fix the crash", ("bug.py", "bug 1", "bug 2")),
        commit(2, "experiment", ("try.py", "good", "experiment")),
        commit(3, "back to what it was", ("try.py", "experiment", "good")),
        commit(4, "more", ("bug.py", "bug 2", "bug 3")),
        commit(5, "prefix only: suffixes and fixtures", ("bug.py", "bug 3", "bug 4")),
        commit(6, "young", ("young.py", None, "young"), ("notes.md", None, "no code")),
    ]


def of(found: list[Outcome], text: str) -> Outcome:
    return next(item for item in found if item.document_id == sha256_text(text))


def test_what_became_of_each_version() -> None:
    found = list(outcomes(history(), soon_commits=2))
    assert (of(found, "kept").survived_commits, of(found, "kept").ended) == (6, False)
    assert of(found, "bug 1").fixed_soon
    assert of(found, "experiment").reverted
    assert not of(found, "good").reverted
    assert not any(item.fixed_soon for item in found if item.document_id != sha256_text("bug 1"))
    assert not [item for item in found if item.path == "notes.md"]
    assert len(found) == 9


def test_a_late_fix_is_no_soon_fix_and_repositories_do_not_meet() -> None:
    quiet = [commit(n, "quiet", repository="s") for n in range(1, 8)]
    begin = commit(0, "begin", ("a.py", None, "old"), repository="s")
    late = [begin, *quiet, commit(8, "fix", ("a.py", "old", "new"), repository="s")]
    mixed = [*history()[:3], *late, *history()[3:]]
    found = list(outcomes(mixed, soon_commits=2))
    assert not of(found, "old").fixed_soon
    assert of(found, "old").survived_commits == 8
    alone = list(outcomes(history(), soon_commits=2))
    assert sorted(map(str, (item for item in found if item.repository == "r"))) == sorted(map(str, alone))


def test_a_rename_is_the_same_version_under_the_path_it_was_written_to() -> None:
    moved = Commit("r", "m", "", "", "move", (Change("b.py", "a.py", "R", "text", "text", False),), 0.5)
    found = list(outcomes([commit(0, "begin", ("a.py", None, "text")), moved], 2))
    assert [(item.path, item.survived_commits, item.ended) for item in found] == [("a.py", 1, False)]


def test_tests_are_gained_once_by_the_one_file_that_defines_the_function() -> None:
    code = "def open_window():\n    pass\n\ndef shared_name():\n    pass\n"
    test = "from m import open_window, shared_name\n"
    found = list(
        outcomes(
            [
                commit(0, "begin", ("m.py", None, code), ("n.py", None, "def shared_name(): pass")),
                commit(1, "tests", ("tests/test_m.py", None, test)),
                commit(2, "again", ("tests/test_n.py", None, test)),
                commit(3, "both", ("p.py", None, "def paint_wall(): 1"), ("tests/test_p.py", None, "paint_wall()")),
                commit(4, "late", ("q.py", None, "def open_window_again(): open_window()")),
            ],
            2,
        )
    )
    gained = {item.path: item.n_tests_gained for item in found}
    assert gained == {"m.py": 1, "n.py": 0, "p.py": 1, "q.py": 0}


def test_a_version_that_lost_its_functions_gains_no_tests() -> None:
    first = "def open_window(): 1"
    found = list(
        outcomes(
            [
                commit(0, "begin", ("m.py", None, first)),
                commit(1, "gone", ("m.py", first, "x = 1")),
                commit(2, "tests", ("tests/test_m.py", None, "open_window()")),
            ],
            2,
        )
    )
    assert [item.n_tests_gained for item in found] == [0, 0]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["x", "y", "fix z", None])), max_size=30))
@settings(max_examples=80, deadline=None)
def test_every_version_has_one_outcome(steps: list[tuple[int, str | None]]) -> None:
    standing: dict[str, str] = {}
    commits, n_versions = [], 0
    for number, (name, text) in enumerate(steps):
        path = f"{name}.py"
        before = standing.get(path)
        if before == text:
            continue
        commits.append(commit(number, "fix" if text else "go", (path, before, text)))
        if text is None:
            del standing[path]
        else:
            standing[path] = text
            n_versions += 1
    found = list(outcomes(commits, soon_commits=3))
    assert len(found) == n_versions
    assert sum(not item.ended for item in found) == len(standing)
    assert all(0 <= item.survived_commits < len(commits) for item in found)
