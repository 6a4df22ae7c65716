"""Histories as odd as git allows: every change against `git diff-tree`, and what cannot be read by its count."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from codeflow.core.manifest import Manifest, begin
from codeflow.core.records import read_shards
from codeflow.core.types import Change, Commit
from codeflow.corpus.git_history import HistoryConfig, run
from codeflow.corpus.git_repository import locate
from codeflow.execute import local

FILE, PROGRAM, LINK, SUBMODULE = "100644", "100755", "120000", "160000"
TEXT = b"".join(b"line %d of a text that is long enough\n" % n for n in range(20))
OTHER = b"".join(b"words %d of quite another text here\n" % n for n in range(20))
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 7\n"
Entry = tuple[str, str, bytes]  # mode, path, content (of a submodule: its commit); mode D deletes


class Script:
    """A stream for `git fast-import`."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.marks = 0

    def commit(
        self,
        entries: Sequence[Entry],
        message: bytes = b"message\n",
        parents: Sequence[int] | None = None,
        date: str = "1600000000 +0000",
        encoding: str = "",
    ) -> int:
        """Add a commit; its parent is the one before unless `parents` says otherwise. Return its mark."""
        before = [self.marks] if self.marks and parents is None else list(parents or [])
        self.marks += 1
        lines = [f"commit refs/heads/side{self.marks}", f"mark :{self.marks}", f"author A <a@b> {date}"]
        lines += ["committer A <a@b> 1600000000 +0000", *([f"encoding {encoding}"] if encoding else [])]
        self.parts += ["\n".join(lines).encode(), b"\ndata %d\n%s\n" % (len(message), message)]
        if before:
            self.parts.append(f"from :{before[0]}\n".encode())
        self.parts += [f"merge :{parent}\n".encode() for parent in before[1:]]
        for mode, path, content in entries:
            quoted = b'"' + path.encode("utf-8", "surrogateescape").replace(b"\n", b"\\n") + b'"'
            if mode == "D":
                self.parts.append(b"D %s\n" % quoted)
            elif mode == SUBMODULE:
                self.parts.append(b"M %s %s %s\n" % (mode.encode(), content, quoted))
            else:
                self.parts.append(b"M %s inline %s\ndata %d\n%s\n" % (mode.encode(), quoted, len(content), content))
        return self.marks

    def write(self, folder: Path, object_format: str = "sha1") -> Path:
        """Make the repository, its head at the last commit."""
        git(folder.parent, "init", "-q", "--bare", f"--object-format={object_format}", str(folder))
        self.parts.append(f"reset refs/heads/main\nfrom :{self.marks}\n".encode())
        git(folder, "fast-import", "--quiet", "--date-format=raw-permissive", stdin=b"".join(self.parts))
        git(folder, "symbolic-ref", "HEAD", "refs/heads/main")
        return folder


def git(folder: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    environment |= {f"GIT_{who}_{what}": "a" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(["git", "-C", str(folder), *arguments], input=stdin, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def history(output: Path, repository: Path | str, **fields: object) -> tuple[Manifest, list[Commit]]:
    config = HistoryConfig.model_validate({"repositories": (str(repository),), **fields})
    begin(output, "commits", config, {}, "k")
    return run(config, {}, output), list(read_shards(output, "commits", Commit))


@pytest.fixture(autouse=True)
def _one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "default_workers", lambda: 1)


def changes_of(script: Script, tmp_path: Path, **fields: object) -> tuple[list[list[Change]], dict[str, int]]:
    manifest, commits = history(tmp_path / "out", script.write(tmp_path / "r.git"), **fields)
    return [sorted(commit.changes, key=lambda change: change.path) for commit in commits], manifest.counts.notes


def brief(changes: list[Change]) -> list[tuple[str, str, str]]:
    return [(change.status, change.old_path, change.path) for change in changes]


def test_renames_with_edits_swaps_and_chains(tmp_path: Path) -> None:
    script = Script()
    script.commit([(FILE, "a.txt", TEXT), (FILE, "b.txt", OTHER)])
    script.commit([("D", "a.txt", b""), (FILE, "in/new name.txt", TEXT + b"and one more\n")])
    script.commit([("D", "b.txt", b""), (FILE, "in/new name.txt", OTHER), (FILE, "c.txt", TEXT)])
    script.commit([(FILE, "copy.txt", TEXT)])
    found, _ = changes_of(script, tmp_path)
    assert brief(found[1]) == [("R", "a.txt", "in/new name.txt")]
    assert (found[1][0].before, found[1][0].after) == (TEXT.decode(), (TEXT + b"and one more\n").decode())
    assert {change.status for change in found[2]} <= {"A", "D", "M", "R"}
    state = {"in/new name.txt": (TEXT + b"and one more\n").decode(), "b.txt": OTHER.decode()}
    for change in found[2]:  # however git pairs them, the changes lead from one state to the next
        assert change.before == (None if change.status == "A" else state[change.old_path])
    assert {c.path: c.after for c in found[2] if c.status != "D"} == {
        "in/new name.txt": OTHER.decode(),
        "c.txt": TEXT.decode(),
    }
    assert brief(found[3]) == [("A", "copy.txt", "copy.txt")], "copies are additions"


def test_no_rename_below_the_bound(tmp_path: Path) -> None:
    script = Script()
    script.commit([(FILE, "a.txt", TEXT)])
    script.commit([("D", "a.txt", b""), (FILE, "b.txt", TEXT + OTHER)])
    found, _ = changes_of(script, tmp_path, rename_similarity=90)
    assert brief(found[1]) == [("D", "a.txt", "a.txt"), ("A", "b.txt", "b.txt")]


def test_octopus_and_evil_merges_and_unrelated_roots(tmp_path: Path) -> None:
    script = Script()
    root = script.commit([(FILE, "a.txt", TEXT)])
    sides = [script.commit([(FILE, f"side{n}.txt", b"side\n")], parents=[root]) for n in range(3)]
    unrelated = script.commit([(FILE, "other.txt", OTHER)], parents=[])
    merged = [(FILE, "side1.txt", b"side\n"), (FILE, "side2.txt", b"side\n"), (FILE, "other.txt", OTHER)]
    script.commit([*merged, (FILE, "evil.txt", b"in no side\n")], parents=[*sides, unrelated])
    found, _ = changes_of(script, tmp_path)
    assert [len(changes) for changes in found] == [1, 1, 4], "the main line, each against its first parent"
    assert {change.path for change in found[2]} == {"side1.txt", "side2.txt", "other.txt", "evil.txt"}
    _, commits = history(tmp_path / "all", tmp_path / "r.git", first_parent=False)
    assert len(commits) == 6
    assert sum(commit.parent == "" for commit in commits) == 2


def test_files_become_folders_links_submodules_and_back(tmp_path: Path) -> None:
    script = Script()
    script.commit([(FILE, "x", b"a file\n"), (LINK, "l", b"x"), (FILE, "kept", b"k\n")])
    script.commit([("D", "x", b""), (FILE, "x/inner", b"in a folder\n")])
    script.commit([("D", "x", b""), (SUBMODULE, "x", b"1" * 40)])
    script.commit([(SUBMODULE, "x", b"2" * 40)])
    script.commit([("D", "x", b""), (FILE, "x", b"a file again\n"), (FILE, "l", b"no link\n")])
    script.commit([(PROGRAM, "x", b"a file again\n"), ("D", "kept", b"")])
    found, notes = changes_of(script, tmp_path)
    assert brief(found[0]) == [("A", "kept", "kept"), ("A", "x", "x")]
    assert brief(found[1]) == [("D", "x", "x"), ("A", "x/inner", "x/inner")]
    assert brief(found[2]) == [("D", "x/inner", "x/inner")]
    assert brief(found[3]) == []
    assert brief(found[4]) == []
    assert brief(found[5]) == [("D", "kept", "kept"), ("M", "x", "x")]
    assert (found[5][1].before, found[5][1].after) == ("a file again\n", "a file again\n")
    assert notes["change_submodule_skipped"] == 3
    assert notes["change_symlink_skipped"] == 2


CONTENTS = {  # name: (content after, text after, marked binary, note)
    "empty": (b"", "", False, ""),
    "crlf": (b"a\r\nb\r\n", "a\r\nb\r\n", False, ""),
    "open": (b"no newline at the end", "no newline at the end", False, ""),
    "mark": (b"\xef\xbb\xbfwith a mark\n", "\ufeffwith a mark\n", False, ""),
    "utf16le": (b"\xff\xfe" + "Größe\n".encode("utf-16-le"), "Größe\n", False, "content_utf16"),
    "utf16be": (b"\xfe\xff" + "Größe\n".encode("utf-16-be"), "Größe\n", False, "content_utf16"),
    "utf16cut": (b"\xff\xfe\x00", None, True, "change_binary"),
    "latin": ("Größe\n".encode("latin-1"), None, False, "change_invalid_utf8"),
    "nul": (b"a\0b", None, True, "change_binary"),
    "lfs": (LFS, None, True, "change_lfs_pointer"),
    "huge": (b"x" * 500_000, None, False, "change_huge"),
    "surrogate": (b"lone \xed\xa0\x80 surrogate", None, False, "change_invalid_utf8"),
}


def test_contents(tmp_path: Path) -> None:
    script = Script()
    script.commit([(FILE, name, b"before\n") for name in CONTENTS])
    for name, (content, _, _, _) in CONTENTS.items():
        script.commit([(FILE, name, content)])
    found, notes = changes_of(script, tmp_path)
    for (change,), (name, (_, after, binary, _)) in zip(found[1:], CONTENTS.items(), strict=True):
        assert (change.path, change.before, change.after) == (name, None if after is None else "before\n", after)
        assert change.binary == binary, name
    expected = Counter(note for _, _, _, note in CONTENTS.values() if note)
    assert {name: n for name, n in notes.items() if name != "changes"} == expected


MESSAGES = (  # (message, stated encoding, text)
    (b"", "", ""),
    (b" \n\n", "", ""),
    (b"Subject\n\nBody\n\n", "", "Subject\n\nBody"),
    (b":100644 100644 a b M\tx\n", "", ":100644 100644 a b M\tx"),
    (b"before\0after\n", "", "before"),
    ("Grüße\n".encode("latin-1"), "ISO-8859-1", "Grüße"),
    ("Grüße\n".encode("latin-1"), "nonsense", "Gr\ufffd\ufffde"),
    ("Grüße\n".encode("latin-1"), "", "Gr\ufffd\ufffde"),
)
DATES = (
    ("0 +0000", "1970-01-01T00:00:00Z"),
    ("1600000000 -1200", "2020-09-13T12:26:40Z"),
    ("253402300800 +0000", "9999-12-31T23:59:59Z"),
    ("99999999999999 +9959", "9999-12-31T23:59:59Z"),
)


def test_messages_and_dates(tmp_path: Path) -> None:
    script = Script()
    for number, (message, encoding, _) in enumerate(MESSAGES):
        script.commit([(FILE, "a", b"%d\n" % number)], message, encoding=encoding)
    for number, (date, _) in enumerate(DATES):
        script.commit([(FILE, "b", b"%d\n" % number)], date=date)
    _, commits = history(tmp_path / "out", script.write(tmp_path / "r.git"))
    assert [commit.message.strip() for commit in commits[: len(MESSAGES)]] == [text for _, _, text in MESSAGES]
    assert [commit.author_time for commit in commits[len(MESSAGES) :]] == [time for _, time in DATES]
    assert [len(commit.changes) for commit in commits] == [1] * (len(MESSAGES) + len(DATES))


def test_paths(tmp_path: Path) -> None:
    paths = ["with space", "tab\there", "new\nline", "-dash", ":colon", "übel", "a" * 200, "deep/" * 40 + "x", "\udcff"]
    script = Script()
    script.commit([(FILE, path, b"1\n") for path in paths])
    found, notes = changes_of(script, tmp_path)
    assert sorted(change.path for change in found[0]) == sorted(paths[:-1])
    assert notes["change_path_invalid_utf8_skipped"] == 1


def test_empty_commits_and_a_head_without_files(tmp_path: Path) -> None:
    script = Script()
    script.commit([])
    script.commit([(FILE, "a", b"1\n")])
    script.commit([])
    script.commit([("D", "a", b"")])
    found, _ = changes_of(script, tmp_path)
    assert [brief(changes) for changes in found] == [[], [("A", "a", "a")], [], [("D", "a", "a")]]


def test_repositories_of_sha256(tmp_path: Path) -> None:
    script = Script()
    script.commit([(FILE, "a", b"1\n")])
    script.commit([("D", "a", b""), (FILE, "b", b"1\n")])
    _, commits = history(tmp_path / "out", script.write(tmp_path / "r.git", "sha256"))
    assert [len(commit.sha) for commit in commits] == [64, 64]
    assert brief(list(commits[1].changes)) == [("R", "a", "b")]


def test_by_url_new_commits_are_fetched_and_nothing_else(tmp_path: Path) -> None:
    script = Script()
    script.commit([(FILE, "a", b"1\n"), (SUBMODULE, "sub", b"1" * 40)])
    folder = script.write(tmp_path / "r.git")
    git(folder, "tag", "-a", "-m", "x", "v1")
    url, cache = f"file://{folder}", tmp_path / "cache"
    first = locate(url, cache)
    assert git(first.folder, "for-each-ref", "--format=%(refname)").decode().split() == ["refs/codeflow/head"]
    assert not (first.folder / "hooks").exists()
    head = git(folder, "commit-tree", "-p", "HEAD", "-m", "more", "HEAD^{tree}").decode().strip()
    git(folder, "update-ref", "refs/heads/main", head)
    second = locate(url, cache)
    assert (second.folder, second.head) == (first.folder, head)
    (second.folder / "HEAD.lock").write_text("")  # what a killed fetch leaves
    (second.folder / "shallow.lock").write_text("")
    rewritten = git(folder, "commit-tree", "-m", "rewritten", "HEAD^{tree}").decode().strip()
    git(folder, "update-ref", "refs/heads/main", rewritten)
    assert locate(url, cache).head == rewritten, "a rewritten history is followed"
    _, commits = history(tmp_path / "out", url, cache=str(cache))
    assert [commit.message for commit in commits] == ["rewritten"]
