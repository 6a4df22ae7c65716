"""Files at a revision are those that git shows."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


class Answers:
    """What a reader asks of a process, its answers given beforehand in pieces of any size."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        asked, requests = os.pipe()
        answers, given = os.pipe()
        self.stdin, self.stdout = os.fdopen(requests, "wb"), os.fdopen(answers, "rb")
        self._ends = (asked, given)
        self._thread = threading.Thread(target=self._write, args=(given, data, sizes))
        self._thread.start()

    def _write(self, given: int, data: bytes, sizes: list[int]) -> None:
        place = 0
        for size in itertools.cycle(sizes):
            place += os.write(given, data[place : place + size])
            if place == len(data):
                break
        os.close(given)

    def close(self) -> None:
        self._thread.join()
        os.close(self._ends[0])
        self.stdin.close()
        self.stdout.close()


@settings(max_examples=60, deadline=None)
@given(
    contents=st.lists(st.none() | st.binary(max_size=30) | st.just(b"x" * 500) | st.just(b"a missing\n"), min_size=1),
    sizes=st.lists(st.integers(1, 600), min_size=1, max_size=4),
    max_bytes=st.sampled_from([None, 5, 100]),
)
def test_answers_are_the_same_in_pieces_of_any_size(
    contents: list[bytes | None], sizes: list[int], max_bytes: int | None
) -> None:
    shas = [f"{number:040x}" for number in range(len(contents))]
    data = b""
    for sha, content in zip(shas, contents, strict=True):
        absent = b"%s missing\n" % sha.encode()
        data += absent if content is None else b"%s blob %d\n%s\n" % (sha.encode(), len(content), content)
    process = Answers(data, sizes)
    try:
        reader = BlobReader(cast("subprocess.Popen[bytes]", process), Path("r"))
        found = list(reader.read(shas, max_bytes))
        reader.ask(shas[:1])
        with pytest.raises(InfrastructureError, match="git cat-file ended early"):
            reader.answer()
    finally:
        process.close()
    for sha, content, answer in zip(shas, contents, found, strict=True):
        n_bytes = -1 if content is None else len(content)
        kept = content if max_bytes is None or n_bytes <= max_bytes else None
        assert answer == (sha, n_bytes, kept)


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
