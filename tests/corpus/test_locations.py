"""Locations: paths, globs, folders and other protocols give the same listing."""

from __future__ import annotations

import zipfile
from pathlib import Path

import fsspec
import pytest

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.corpus.locations import Location, fingerprint, located, opened


def content(location: Location) -> bytes:
    with opened(location) as file:
        return file.read()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.txt", "in/c.txt", "in/d.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("a.txt", ["a.txt"]),
        ("*.txt", ["a.txt", "b.txt"]),
        ("**/*.txt", ["a.txt", "b.txt", "in/c.txt"]),
        ("", ["a.txt", "b.txt", "in/c.txt", "in/d.bin"]),
        ("in", ["c.txt", "d.bin"]),
        ("in/?.*", ["c.txt", "d.bin"]),
    ],
)
def test_paths_below_what_was_asked_for(folder: Path, pattern: str, paths: list[str]) -> None:
    for prefix in (f"{folder}/", f"file://{folder}/"):
        found = located([prefix + pattern])
        assert [location.path for location in found] == paths
        assert [content(location).decode()[-5:] for location in found] == [path[-5:] for path in paths]
        assert all(location.n_bytes == len(content(location)) for location in found)


def test_each_file_once_and_in_order(folder: Path) -> None:
    found = located([f"{folder}/b.txt", f"{folder}/*.txt"])
    assert [location.path for location in found] == ["b.txt", "a.txt"]


def test_memory_and_zip(folder: Path) -> None:
    with fsspec.open("memory://crawl/x.bin", "wb") as file:
        file.write(b"there")  # type: ignore[union-attr]
    (found,) = located(["memory://crawl/*.bin"])
    assert content(found) == b"there"
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        archive.writestr("inner/e.txt", "zipped")
    (found,) = located([f"zip://inner/*.txt::{folder}/all.zip"])
    assert (found.path, content(found)) == ("e.txt", b"zipped")


def test_the_fingerprint_follows_the_content(folder: Path) -> None:
    before = fingerprint(located([str(folder)]))
    assert before == fingerprint(located([str(folder)]))
    (folder / "a.txt").write_text("longer than before")
    assert before != fingerprint(located([str(folder)]))


def test_nothing_there(folder: Path) -> None:
    for pattern in (f"{folder}/*.none", f"{folder}/none"):
        with pytest.raises(UserError, match="no file at"):
            located([pattern])
    with pytest.raises(UserError, match=r"/i\*' matches folders only; end it in /\*\* for the files below them"):
        located([f"{folder}/i*"])
    with pytest.raises(UserError, match=r"cannot read 'nosuch://x': .*nosuch; give a path, or a URL of a protocol"):
        located(["nosuch://x"])
    (found,) = located([f"{folder}/a.txt"])
    (folder / "a.txt").unlink()
    with pytest.raises(InfrastructureError, match="still there"):
        content(found)
