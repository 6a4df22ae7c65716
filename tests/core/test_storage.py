from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codeflow.core.errors import UserError
from codeflow.core.storage import (
    CRASH_AT,
    CRASH_LOG,
    atomic_path,
    atomic_paths,
    folder_lock,
    make_folder,
    write_note,
    write_text,
)


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_kill_around_a_write_leaves_old_or_new(tmp_path: Path, moment: int) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    code = f"import codeflow.core.storage as s; from pathlib import Path; s.write_text(Path({str(path)!r}), 'new')"
    environment = {**os.environ, CRASH_LOG: str(tmp_path / "log"), CRASH_AT: str(moment)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, start_new_session=True, check=False)
    assert done.returncode == -9
    assert path.read_text() == ("new" if moment == 3 else "old")


def test_second_holder_of_a_folder_is_refused_with_the_first_one_named(tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path),
        pytest.raises(UserError, match=f"in use by process {os.getpid()}"),
        folder_lock(tmp_path),
    ):
        pass
    with folder_lock(tmp_path):
        pass


def test_folder_below_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose an output folder"):
        make_folder(tmp_path / "file" / "below")


def test_several_files_are_written_together_or_none_is(tmp_path: Path) -> None:
    paths = [tmp_path / "folder" / name for name in ("a", "b", "c")]
    with atomic_paths(paths) as temporaries:
        for temporary in temporaries:
            temporary.write_text(temporary.name)
    assert [path.read_text() for path in paths] == [".a.tmp", ".b.tmp", ".c.tmp"]
    with pytest.raises(ValueError, match="planted"), atomic_paths(paths) as temporaries:
        temporaries[0].write_text("new")
        raise ValueError("planted")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["a", "b", "c"]
    assert paths[0].read_text() == ".a.tmp"


def test_a_note_replaces_what_was_there(tmp_path: Path) -> None:
    write_note(tmp_path / "note", "one")
    write_note(tmp_path / "note", "two")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("note", "two")]
