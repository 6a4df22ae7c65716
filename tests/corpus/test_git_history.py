"""Histories: every commit and content against git itself, and the odd cases by count."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from codeflow.core import records
from codeflow.core.errors import UserError
from codeflow.core.manifest import Manifest, begin
from codeflow.core.records import read_shards
from codeflow.core.types import Change, Commit
from codeflow.corpus import git_history
from codeflow.corpus.git_contents import ContentReader
from codeflow.corpus.git_history import HistoryConfig, commits, run, world
from codeflow.execute import local


def history(output: Path, **fields: object) -> tuple[Manifest, list[Commit]]:
    config = HistoryConfig.model_validate(fields)
    begin(output, "commits", config, {}, "k")
    manifest = run(config, {}, output)
    return manifest, list(read_shards(output, "commits", Commit))


@pytest.fixture(scope="module")
def whole(synthetic_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, list[Commit]]:
    return history(tmp_path_factory.mktemp("whole") / "history", repositories=(str(synthetic_repository),))


def git(repository: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, check=True).stdout


def test_commits_are_those_of_the_main_line(synthetic_repository: Path, whole: tuple[Manifest, list[Commit]]) -> None:
    manifest, commits = whole
    shas = git(synthetic_repository, "rev-list", "--first-parent", "--reverse", "HEAD").decode().split()
    assert [commit.sha for commit in commits] == shas
    assert [commit.parent for commit in commits] == ["", *shas[:-1]]
    assert [commit.position for commit in commits] == [n / 59 for n in range(60)]
    for commit in commits:
        message = git(synthetic_repository, "log", "-1", "--format=%B", "--encoding=UTF-8", commit.sha)
        assert commit.message == message.decode("utf-8", "replace").rstrip("\n")
        time = git(synthetic_repository, "log", "-1", "--format=%ad", "--date=format:%Y-%m-%dT%H:%M:%SZ", commit.sha)
        assert commit.author_time == time.decode().strip()
    assert manifest.metrics["repositories"]["tally"]["synthetic"] is True
    assert manifest.metrics["remarks"] == []
    assert (manifest.counts.read, manifest.counts.kept) == (60, 60)


def test_changes_are_those_of_diff_tree(synthetic_repository: Path, whole: tuple[Manifest, list[Commit]]) -> None:
    _, commits = whole
    n_changes = 0
    for commit in commits:
        base = [commit.parent] if commit.parent else ["--root"]
        lines = git(synthetic_repository, "diff-tree", "-r", "-M", "--no-commit-id", "-z", *base, commit.sha)
        expected = regular(lines.split(b"\0"))
        found = {(c.status, c.old_path, c.path) for c in commit.changes}
        assert found == set(expected)
        for change in commit.changes:
            n_changes += 1
            shas, modes = expected[(change.status, change.old_path, change.path)]
            check_contents(synthetic_repository, change, shas)
            assert (change.old_mode, change.mode) == tuple("" if mode == "000000" else mode for mode in modes)
    assert n_changes > 100


def regular(parts: list[bytes]) -> dict[tuple[str, str, str], tuple[tuple[str, str], tuple[str, str]]]:
    """Return (status, old path, path) -> ids and modes of both sides."""
    found, items = {}, iter(parts)
    for head in items:
        if not head:
            continue
        old_mode, mode, old_sha, sha, status = head.decode().removeprefix(":").split()
        old = next(items)
        new = next(items) if status[0] == "R" else old
        try:
            paths = old.decode(), new.decode()
        except UnicodeDecodeError:
            continue
        if not {old_mode, mode} & {"120000", "160000"}:
            found[(status[0], *paths)] = ((old_sha, sha), (old_mode, mode))
    return found


def check_contents(repository: Path, change: Change, shas: tuple[str, str]) -> None:
    sides = [None if sha == "0" * 40 else git(repository, "cat-file", "blob", sha) for sha in shas]
    texts = all(side is None or is_text(side) for side in sides)
    if texts:
        assert (change.before, change.after) == tuple(None if side is None else side.decode() for side in sides)
        assert not change.binary
    else:
        assert (change.before, change.after) == (None, None)


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in data and len(data) <= 400_000 and not data.startswith(b"version https://git-lfs")


def test_the_odd_cases_are_counted(whole: tuple[Manifest, list[Commit]]) -> None:
    manifest, commits = whole
    notes = manifest.counts.notes
    assert {name: notes[name] for name in notes if name != "changes"} == {
        "change_binary": 2,
        "change_huge": 2,
        "change_invalid_utf8": 1,
        "change_lfs_pointer": 1,
        "change_path_invalid_utf8_skipped": 1,
        "change_submodule_skipped": 1,
        "change_symlink_skipped": 2,
        "message_empty": 1,
        "message_invalid_utf8": 1,
    }
    changes = [change for commit in commits for change in commit.changes]
    assert {change.path for change in changes if change.binary} == {"docs/logo.png", "data/recording.bin"}
    assert {(c.old_path, c.path) for c in changes if c.status == "R"} >= {("tally/text.py", "tally/strings.py")}
    assert any(c.path == "tools/check.sh" and c.before == c.after and c.mode != c.old_mode for c in changes), (
        "a change of mode only"
    )
    assert any(commit.message == "Grüße" for commit in commits), "a message in a declared encoding"


def test_other_settings(synthetic_repository: Path, tmp_path: Path) -> None:
    place = (str(synthetic_repository),)
    manifest, commits = history(tmp_path / "newest", repositories=place, max_commits=10)
    assert [commit.position for commit in commits] == [n / 59 for n in range(50, 60)]
    assert manifest.counts.dropped == {"older_than_max_commits": 50}
    assert manifest.counts.read == 60
    manifest, commits = history(tmp_path / "all", repositories=place, first_parent=False)
    assert len(commits) == int(git(synthetic_repository, "rev-list", "--count", "HEAD"))
    manifest, commits = history(tmp_path / "replace", repositories=place, encoding_errors="replace")
    latin = [c for commit in commits for c in commit.changes if c.path == "docs/latin.txt"]
    assert latin[0].after == "\ufffdbersicht \ufffdber die Z\ufffdhlung\nGr\ufffd\ufffde aus K\ufffdln\n"
    manifest, commits = history(tmp_path / "small", repositories=place, max_commit_bytes=2000)
    assert manifest.counts.notes["change_commit_too_large"] > 0
    for commit in commits:
        assert sum(len(c.before or "") + len(c.after or "") for c in commit.changes) <= 2000


def test_same_bytes_for_any_number_of_workers_and_stretches(
    synthetic_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Manifest, list[Commit]]
) -> None:
    fields = {"repositories": (str(synthetic_repository),), "commits_per_shard": 25}
    manifests = []
    for workers in (1, 2):
        monkeypatch.setattr(local, "default_workers", lambda workers=workers: workers)
        manifest, commits = history(tmp_path / str(workers), **fields)
        manifests.append(manifest)
        assert commits == whole[1]
    assert manifests[0] == manifests[1]
    assert sorted(name for name in manifests[0].files if name.startswith("commits")) == [
        f"commits-0000{number}.parquet" for number in range(3)
    ]


def test_a_shallow_clone_is_said_and_its_edge_left_out(synthetic_repository: Path, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    url = f"file://{synthetic_repository}"
    subprocess.run(["git", "clone", "-q", "--depth", "5", "--no-checkout", url, str(shallow)], check=True)
    manifest, commits = history(tmp_path / "history", repositories=(str(shallow),))
    assert manifest.metrics["repositories"]["shallow"]["shallow"] is True
    assert any("shallow clone" in remark for remark in manifest.metrics["remarks"])
    assert manifest.counts.dropped["shallow_boundary"] >= 1
    assert all(len(commit.changes) < 10 for commit in commits)


def test_no_history_is_a_remark_or_an_error(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    manifest, commits = history(tmp_path / "optional", optional_repositories=(missing,))
    assert not commits
    assert manifest.counts.kept == 0
    assert "nowhere" in manifest.metrics["remarks"][0]
    manifest, _ = history(tmp_path / "none")
    assert manifest.metrics["remarks"] == ["no repository was named: there are no commits"]
    with pytest.raises(UserError, match="does not exist"):
        history(tmp_path / "required", repositories=(missing,))


def test_the_world_is_the_heads(synthetic_repository: Path) -> None:
    head = git(synthetic_repository, "rev-parse", "HEAD").decode().strip()
    assert world(HistoryConfig(repositories=(str(synthetic_repository),))) == f"{synthetic_repository} {head}"


def test_the_synthetic_history_is_reproducible_and_works(synthetic_repository: Path) -> None:
    from make_history import write_history

    head = git(synthetic_repository, "rev-parse", "HEAD").decode().strip()
    assert head == "f88532d1168d4dbb58c2d84dae7d9799f7df2d6b"
    with pytest.raises(ValueError, match="not empty"):
        write_history(synthetic_repository)


def test_row_groups_are_bounded_in_text(
    synthetic_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Manifest, list[Commit]]
) -> None:
    monkeypatch.setattr(records, "_CHARACTERS_PER_GROUP", 5000)
    monkeypatch.setattr(local, "default_workers", lambda: 1)
    _, commits = history(tmp_path / "history", repositories=(str(synthetic_repository),))
    with pq.ParquetFile(tmp_path / "history/commits-00000.parquet") as file:
        assert file.num_row_groups > 5
    assert commits == whole[1]


@pytest.mark.parametrize("ahead", [0, 7, 1000])
@pytest.mark.parametrize("cache_bytes", [0, 3000, 32_000_000])
def test_what_is_asked_ahead_and_what_is_kept_change_nothing(
    synthetic_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_bytes: int, ahead: int
) -> None:
    config = {"repositories": (str(synthetic_repository),), "encoding_errors": "replace", "max_commit_bytes": 2000}
    monkeypatch.setattr(ContentReader, "CACHE_BYTES", cache_bytes)
    monkeypatch.setattr(git_history, "_AHEAD", 0)
    one_by_one, expected = history(tmp_path / "one_by_one", **config)
    monkeypatch.setattr(git_history, "_AHEAD", ahead)
    manifest, found = history(tmp_path / "ahead", **config)
    assert found == expected == list(commits(HistoryConfig.model_validate(config), tmp_path))
    newest = HistoryConfig.model_validate({**config, "max_commits": 9, "commits_per_shard": 4})
    assert list(commits(newest, tmp_path)) == expected[-9:]
    assert manifest.counts == one_by_one.counts
    assert {"content_invalid_utf8_replaced", "change_commit_too_large"} <= manifest.counts.notes.keys()
