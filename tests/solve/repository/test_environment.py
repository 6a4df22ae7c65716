from __future__ import annotations

import importlib.util
import os
import zipfile
from pathlib import Path

import pytest

from codeflow.core.errors import UserError
from codeflow.sandbox.bubblewrap import find_python
from codeflow.solve.repository import environment as environments
from codeflow.solve.repository.environment import NoEnvironmentError, prepare

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip is not installed"),
    pytest.mark.skipif(os.path.realpath(os.sys.executable) != find_python()[0], reason="no plain prefix"),  # type: ignore[attr-defined]
]


def wheel(folder: Path, name: str, requires: str = "", code: str = "x = 1\n") -> None:
    """Write a wheel of one module."""
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + (
        f"Requires-Dist: {requires}\n" if requires else ""
    )
    kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {f"{name}.py": code, f"{info}/METADATA": metadata, f"{info}/WHEEL": kind}
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder of wheels that is all that pip knows, and nothing of which may ever run."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    ran = tmp_path / "ran"
    wheel(folder, "leaf", code=f"open({str(ran)!r}, 'w')\n")
    wheel(folder, "needs_leaf", "leaf")
    wheel(folder, "needs_own", "own")
    wheel(folder, "own", "leaf")
    (folder / "sourced-1.0.tar.gz").write_bytes(b"no wheel")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    yield folder
    assert not ran.exists()


def test_environments_are_shared_by_lock_and_made_once(index, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = prepare(["needs-leaf"], cache)
    assert first.lock == ("leaf==1.0", "needs-leaf==1.0")
    assert (first.folder / "leaf.py").stat().st_mode & 0o444 == 0o444
    again = prepare(["leaf", "needs-leaf"], cache)
    assert again.folder == first.folder
    monkeypatch.setattr(environments.subprocess, "run", lambda *a, **k: pytest.fail("pip was asked again"))
    assert prepare(["needs-leaf"], cache) == first
    assert [path.name for path in (cache / "environments").iterdir()] == [first.folder.name]


def test_the_repositorys_own_distribution_is_taken_out(index, tmp_path):
    made = prepare(["needs-own"], tmp_path / "cache", without="Own")
    assert made.lock == ("leaf==1.0", "needs-own==1.0")
    assert not list(made.folder.glob("own*"))
    assert (made.folder / "needs_own.py").exists()
    from_lock = prepare(made.lock, tmp_path / "other", without="Own", locked=True)
    assert (from_lock.lock, from_lock.folder.name) == (made.lock, made.folder.name)


@pytest.mark.parametrize("name", ["absent", "sourced"])
def test_what_has_no_wheel_is_named(index, tmp_path, name):
    with pytest.raises(NoEnvironmentError, match=name):
        prepare([name], tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_another_interpreter_in_the_sandbox_is_refused(index, tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "find_python", lambda: ("/usr/bin/python0", ()))
    with pytest.raises(UserError, match="another Python"):
        prepare(["leaf"], tmp_path / "cache")
