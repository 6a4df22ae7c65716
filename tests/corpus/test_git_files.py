"""Files at a revision are those that git shows."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.corpus.git_files import BlobReader, blob_reader, files_at, tree_entries
from codeflow.corpus.git_program import stream


def test_files_at_any_revision(synthetic_repository: Path) -> None:
    for revision in ("HEAD", "HEAD~40"):
        found = dict(files_at(synthetic_repository, revision))
        assert found
        for path, content in found.items():
            name = revision.encode() + b":" + path.encode("utf-8", "surrogateescape")
            command = [b"git", b"-C", bytes(synthetic_repository), b"show", name]
            shown = subprocess.run(command, capture_output=True, check=True).stdout
            assert shown == content
    assert "vendor/dates" not in found
    some = dict(files_at(synthetic_repository, "HEAD", ["README.md", "no such file"]))
    assert list(some) == ["README.md"]


def test_unknown_revision(synthetic_repository: Path) -> None:
    with pytest.raises(UserError, match="no revision 'nothing'"):
        list(tree_entries(synthetic_repository, "nothing"))
    with pytest.raises(UserError, match="no revision '--help'"):
        list(tree_entries(synthetic_repository, "--help"))


def test_missing_large_and_many_objects(synthetic_repository: Path) -> None:
    entries = [e for e in tree_entries(synthetic_repository) if e.n_bytes]
    large = max(entries, key=lambda e: e.n_bytes)
    shas = ["0" * 39 + "1", large.sha, *(e.sha for e in entries)] * 60
    with blob_reader(synthetic_repository) as reader:
        answers = list(reader.read(shas, large.n_bytes - 1))
    assert [sha for sha, _, _ in answers] == shas
    assert answers[0][1:] == (-1, None)
    assert answers[1][1:] == (large.n_bytes, None)
    assert all(data is None or len(data) == n for _, n, data in answers)


def test_a_reader_asked_ahead_answers_in_order(synthetic_repository: Path) -> None:
    entries = [e for e in tree_entries(synthetic_repository) if e.n_bytes]
    with blob_reader(synthetic_repository) as reader:
        expected = list(reader.read([e.sha for e in entries]))
    shas = [e.sha for e in entries] * 100
    with blob_reader(synthetic_repository) as reader:
        reader.ask(shas[:5])
        found = [reader.answer() for _ in range(3)]
        reader.ask(iter(shas[5:]))  # far more than the pipe holds
        found += [reader.answer() for _ in range(len(shas) - 3)]
    assert found == expected * 100


def test_a_program_that_has_ended_is_named(synthetic_repository: Path) -> None:
    sha = next(e.sha for e in tree_entries(synthetic_repository) if e.n_bytes)
    with stream(["cat-file", "--batch"], synthetic_repository, stdin=subprocess.PIPE) as process:
        reader = BlobReader(process, synthetic_repository)
        process.kill()
        process.wait()
        with pytest.raises(InfrastructureError, match=r"git cat-file ended early in .*; see `git fsck`"):
            list(reader.read([sha]))


def test_a_reader_left_early_ends(synthetic_repository: Path) -> None:
    for _ in range(3):
        assert next(iter(tree_entries(synthetic_repository)))


def test_a_missing_object_is_listed_without_size(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "here.txt").write_text("here\n")
    (tmp_path / "gone.txt").write_text("gone\n")
    git("add", ".")
    git("commit", "-q", "-m", "two files")
    sha = git("rev-parse", "HEAD:gone.txt")
    (tmp_path / ".git" / "objects" / sha[:2] / sha[2:]).unlink()
    assert {entry.path: entry.n_bytes for entry in tree_entries(tmp_path)} == {"here.txt": 5, "gone.txt": 0}
    assert dict(files_at(tmp_path, "HEAD")) == {"here.txt": b"here\n"}
