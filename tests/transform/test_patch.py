"""Patches: ours applied by us and by `git apply` give the files after, byte for byte."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codeflow.transform.line_diff import changed_lines, diff_blocks, lines_of
from codeflow.transform.patch import PatchError, apply_patch, make_patch

_LINES = st.sampled_from(
    [
        "",
        "a",
        "b",
        "}",
        "    return x",
        "def f():",
        "x\r",
        "é 日本",
        "\\ no",
        "--- a/x",
        "+++ b",
        "@@ -1 +1 @@",
        " ",
        "\x0c",
    ]
)
_TEXTS = st.builds(
    lambda lines, end: "\n".join(lines) + end, st.lists(_LINES, max_size=25), st.sampled_from(["", "\n"])
)
_PATHS = st.sampled_from(["a.py", "b/c.py", "b/d e.txt", "tab\there", 'quo"te\\', "é/日本.py", "z"])
_FILES = st.dictionaries(_PATHS, _TEXTS, max_size=4)


def git_apply(folder: Path, before: dict[str, str], patch: str) -> dict[str, str]:
    for path, text in before.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text.encode())
    if patch:
        command = ["git", "apply", "--whitespace=nowarn", "-"]
        environment = {"PATH": "/usr/bin:/bin", "GIT_CEILING_DIRECTORIES": str(folder.parent), "LC_ALL": "C"}
        done = subprocess.run(command, cwd=folder, input=patch.encode(), capture_output=True, env=environment)
        assert done.returncode == 0, (done.stderr.decode(), patch)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().decode() for path in folder.rglob("*") if path.is_file()
    }


@given(_FILES, _FILES)
@settings(max_examples=300, deadline=None)
def test_our_patch_applied_by_us_gives_after(before: dict[str, str], after: dict[str, str]) -> None:
    renames = dict(zip(sorted(set(after) - set(before)), sorted(set(before) - set(after)), strict=False))
    for moved in ({}, renames):
        patch = make_patch(before, after, moved)
        assert apply_patch(before, patch) == after
        assert (patch == "") == (before == after)


@given(before=_FILES, after=_FILES, renamed=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_git_applies_our_patch(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, str], after: dict[str, str], renamed: bool
) -> None:
    renames = dict(zip(sorted(set(after) - set(before)), sorted(set(before) - set(after)), strict=False))
    patch = make_patch(before, after, renames if renamed else {})
    assert git_apply(tmp_path_factory.mktemp("tree"), before, patch) == after


@given(_TEXTS, _TEXTS)
@settings(max_examples=300, deadline=None)
def test_blocks_are_minimal_separate_and_rebuild_the_text(before: str, after: str) -> None:
    old, new = lines_of(before), lines_of(after)
    blocks = diff_blocks(old, new)
    rebuilt, place = [], 0
    for block in blocks:
        assert block.old_start > place or place == 0
        rebuilt += old[place : block.old_start] + new[block.new_start : block.new_stop]
        place = block.old_stop
    assert rebuilt + old[place:] == new
    n_removed = sum(block.old_stop - block.old_start for block in blocks)
    n_added = sum(block.new_stop - block.new_start for block in blocks)
    assert (n_removed, n_added) == changed_lines(before, after)


def test_patch_has_gits_headers() -> None:
    before = {"keep.py": "a\nb\n", "old.py": "x\ny\nz\n", "gone.py": "q\n"}
    after = {"keep.py": "a\nB", "new.py": "x\ny\nz\n", "empty.py": ""}
    assert make_patch(before, after, {"new.py": "old.py"}) == (
        "diff --git a/empty.py b/empty.py\nnew file mode 100644\n"
        "diff --git a/gone.py b/gone.py\ndeleted file mode 100644\n--- a/gone.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-q\n"
        "diff --git a/keep.py b/keep.py\n--- a/keep.py\n+++ b/keep.py\n@@ -1,2 +1,2 @@\n a\n-b\n+B\n"
        "\\ No newline at end of file\n"
        "diff --git a/old.py b/new.py\nsimilarity index 100%\nrename from old.py\nrename to new.py\n"
    )


def test_modes_stand_in_the_patch(tmp_path: Path) -> None:
    before = {"a": "1\n", "old": "x\n" * 9, "gone": "g\n", "swap1": "s\n", "swap2": "t\n"}
    after = {"a": "2\n", "new": "x\n" * 9, "added": "", "swap1": "t\n", "swap2": "s\n"}
    modes_before = {"a": "100755", "old": "100644", "gone": "100755", "only": "100644", "kept": "100755"}
    modes_after = {"a": "100755", "new": "100755", "added": "100755", "only": "100755", "kept": "100755"}
    modes_before |= {"swap1": "100644", "swap2": "100755"}
    modes_after |= {"swap1": "100755", "swap2": "100644"}
    renames = {"new": "old", "swap1": "swap2", "swap2": "swap1"}
    patch = make_patch(before, after, renames, (modes_before, modes_after))
    assert "diff --git a/only b/only\nold mode 100644\nnew mode 100755\n" in patch
    assert "kept" not in patch
    assert apply_patch(before, patch) == after
    for path, text in {**before, "only": "o\n", "kept": "k\n"}.items():
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(int(modes_before[path][3:], 8))
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=patch.encode(), check=True)
    found = {path.name: f"100{path.stat().st_mode & 0o777:o}" for path in tmp_path.iterdir()}
    assert found == modes_after
    assert {name: (tmp_path / name).read_text() for name in after} == after


def test_insertions_slide_to_the_start_of_a_function() -> None:
    before = "def a():\n    x()\n\n\ndef c():\n    x()\n"
    after = "def a():\n    x()\n\n\ndef b():\n    x()\n\n\ndef c():\n    x()\n"
    (block,) = diff_blocks(lines_of(before), lines_of(after))
    assert "".join(lines_of(after)[block.new_start : block.new_stop]) == "def b():\n    x()\n\n\n"


def test_patches_made_by_git_are_applied(tmp_path: Path) -> None:
    old, new = tmp_path / "a", tmp_path / "b"
    old.mkdir()
    new.mkdir()
    before = "".join(f"line {i}\n" for i in range(60))
    after = before.replace("line 7\n", "seven\n").replace("line 40\n", "") + "end without newline"
    (old / "f").write_text(before)
    (new / "f").write_text(after)
    done = subprocess.run(["git", "diff", "--no-index", "a", "b"], cwd=tmp_path, capture_output=True, text=True)
    patch = done.stdout.replace("a/a/f", "a/f").replace("b/b/f", "b/f")
    assert apply_patch({"f": before}, patch) == {"f": after}


@pytest.mark.parametrize(
    ("before", "patch", "complaint"),
    [
        ({"f": "other\n"}, "diff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n", "does not fit"),
        ({}, "diff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n", "no such file"),
        ({"f": ""}, "diff --git a/f b/f\nnew file mode 100644\n", "already exists"),
        ({"f": "a\n"}, "diff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -1,2 +1 @@\n-a\n", "ends too early"),
        ({"f": "a\n"}, "diff --git a/f b/f\n--- a/f\n+++ b/f\n@@ nonsense\n-a\n", "malformed"),
        (
            {"f": "a\nb\n"},
            "diff --git a/f b/f\ndeleted file mode 100644\n--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n",
            "leaves",
        ),
        ({"f": "a\n"}, "hello\n", "expected 'diff --git'"),
        ({"f": "a\n"}, "diff --git a/f b/f\nGIT binary patch\n", "binary"),
    ],
)
def test_patches_that_do_not_fit_are_refused(before: dict[str, str], patch: str, complaint: str) -> None:
    with pytest.raises(PatchError, match=complaint):
        apply_patch(before, patch)
