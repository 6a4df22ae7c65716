from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from codeflow.sandbox.local import probe
from codeflow.solve.repository.runs import Place
from codeflow.solve.repository.tree import Exported
from codeflow.solve.repository.workspace import Ran, Workspace

pytestmark = pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    files = tmp_path / "files"
    (files / "src").mkdir(parents=True)
    (files / "src" / "one.py").write_text("x = 1\n")
    (files / "notes.txt").write_text("a\nb\n")
    (files / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (files / "run.sh").chmod(0o755)
    (files / "out").symlink_to("/etc/passwd")
    for name in ("packages", "metadata"):
        (tmp_path / name).mkdir()
    (tmp_path / "packages" / "lib.py").write_text("y = 2\n")
    for path in [tmp_path, *tmp_path.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    return Place(Exported(files, tmp_path / "metadata"), tmp_path / "packages")


def run(workspace: Workspace, command: str, seconds: float = 20, **fields) -> Ran:
    return asyncio.run(workspace.run(["/bin/bash", "-c", command], seconds, **fields))


def test_changes_go_from_one_command_to_the_next(place):
    workspace = Workspace(place)
    assert (
        run(workspace, "echo x = 3 > src/one.py; rm notes.txt; mkdir -p deep/er; echo new > deep/er/file").exit_code
        == 0
    )
    assert workspace.changes == {"src/one.py": b"x = 3\n", "notes.txt": None, "deep/er/file": b"new\n"}
    ran = run(workspace, "cat src/one.py deep/er/file; ls notes.txt; ./run.sh")
    assert ran.exit_code == 0
    assert "x = 3\nnew\n" in ran.output
    assert "No such file" in ran.output
    assert ran.output.endswith("ran\n")
    run(workspace, "printf 'x = 1\\n' > src/one.py; printf 'a\\nb\\n' > notes.txt; rm -r deep")
    assert workspace.changes == {}
    assert (place.tree.files / "src" / "one.py").read_text() == "x = 1\n"


def test_reading_and_writing_stay_inside(place):
    workspace = Workspace(place)
    workspace.write("src/two.py", b"")
    workspace.write("src/one.py", b"x = 2\n")
    assert workspace.read("./src/one.py") == b"x = 2\n"
    assert workspace.paths == ["notes.txt", "run.sh", "src/one.py", "src/two.py"]
    workspace.write("src/one.py", b"x = 1\n")
    assert workspace.changes == {"src/two.py": b""}
    for path, error in [
        ("../x", ValueError),
        ("/etc/passwd", ValueError),
        ("out", FileNotFoundError),
        ("src", FileNotFoundError),
    ]:
        with pytest.raises(error):
            workspace.read(path)
    for path in ("notes.txt/x", "src", "a/../../b", ""):
        with pytest.raises(ValueError):
            workspace.write(path, b"")


def test_packages_are_found_and_the_repository_cannot_replace_them_there(place):
    workspace = Workspace(place)
    ran = run(
        workspace, "python3 -c 'import lib, one; print(lib.y, one.x)'; echo z > /packages/lib.py; touch /repository/x"
    )
    assert ran.output.splitlines()[0] == "2 1"
    assert ran.output.count("Read-only file system") == 2


def test_files_that_would_confuse_the_driver_do_not(place):
    workspace = Workspace(place)
    for name in ("json", "tarfile", "marshal", "sitecustomize"):
        workspace.write(f"{name}.py", b"raise SystemExit(9)\n")
        workspace.write(f"src/{name}.py", b"raise SystemExit(9)\n")
    assert run(workspace, "echo fine").output == "fine\n"
    assert len(workspace.changes) == 8


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sleep 60", ""),
        ("yes | head -c 3000000", "bytes left out"),
        ("head -c 50000000 /dev/urandom > big", "too much has changed"),
        ("kill -9 $PPID", "did not end well"),
        ("curl -sS https://example.org || true; git log 2>&1", "not a git repository"),
    ],
)
def test_commands_that_go_wrong_are_answered(place, command, words):
    workspace = Workspace(place)
    workspace.write("kept", b"1")
    ran = run(workspace, command, seconds=3, output_bytes=1000)
    assert words in ran.output
    assert len(ran.output) < 1500
    assert not ran.fault
    assert workspace.changes == {"kept": b"1"}
    if not words:
        assert ran.exit_code is None
        assert ran.seconds < 12


def test_links_and_git_folders_are_not_taken_over(place):
    workspace = Workspace(place)
    run(workspace, "ln -s /etc link; mkdir .git; echo x > .git/config; mkdir __pycache__; echo x > __pycache__/a.pyc")
    assert workspace.changes == {}
