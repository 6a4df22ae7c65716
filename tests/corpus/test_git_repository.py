"""Repositories: found, fetched, named without credentials or machine paths, refused with one line."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from codeflow.core.errors import UserError
from codeflow.corpus.git_program import environment, git
from codeflow.corpus.git_repository import fingerprint, iso_time, locate, locate_all, url_without_credentials


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://user:secret@example.org/a/b.git?token=x#y", "https://example.org/a/b.git"),
        ("https://example.org:8443/a/b", "https://example.org:8443/a/b"),
        ("git@example.org:a/b.git", "ssh://example.org/a/b.git"),
        ("ssh://git@example.org/a/b", "ssh://example.org/a/b"),
    ],
)
def test_url_without_credentials(url: str, name: str) -> None:
    assert url_without_credentials(url) == name


def test_times_outside_the_calendar() -> None:
    assert iso_time(0) == "1970-01-01T00:00:00Z"
    assert iso_time(-5) == "1970-01-01T00:00:00Z"
    assert iso_time(10**15) == "9999-12-31T23:59:59Z"


def make_repository(folder: Path, *commands: tuple[str, ...]) -> Path:
    folder.mkdir(parents=True)
    for arguments in (("init", "-q", "-b", "main"), *commands):
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", *identity, "-C", str(folder), *arguments], check=True, env=environment(fetch=True))
    return folder


COMMIT = ("commit", "-q", "--allow-empty", "-m", "one")


def test_bad_places_are_one_line(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (tmp_path / "file").write_text("x")
    empty = make_repository(tmp_path / "empty")
    inner = make_repository(tmp_path / "outer", COMMIT) / "inner"
    inner.mkdir()
    for place, words in [
        (str(tmp_path / "nowhere"), "does not exist"),
        (str(tmp_path / "file"), "is a file"),
        (str(plain), "no git repository"),
        (str(inner), "no git repository"),
        (str(empty), "is empty"),
        ("http://example.org/a", "cannot fetch"),
        ("ext::sh -c true", "cannot fetch"),
        ("https://me:secret@example.org/a", "holds a password"),
        (f"file://{plain}", "cannot read repository"),
        (f"file://{empty}", "is empty"),
    ]:
        with pytest.raises(UserError) as caught:
            locate(place, tmp_path / "cache")
        assert words in str(caught.value), place
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)


def test_git_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="'git' is not installed"):
        locate(str(tmp_path), tmp_path)


def test_a_missing_optional_repository_is_a_remark(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    with pytest.raises(UserError):
        locate_all((missing,), (), tmp_path / "cache")
    with pytest.raises(UserError):
        fingerprint((missing,), ())
    found, remarks = locate_all((), (missing,), tmp_path / "cache")
    assert not found
    assert remarks == ["no history from 'nowhere': not a git repository with commits here"]
    assert "none" in fingerprint((), (missing,))


def test_names_of_local_repositories(tmp_path: Path) -> None:
    one = make_repository(tmp_path / "a" / "same", COMMIT)
    two = make_repository(tmp_path / "b" / "same", COMMIT)
    three = make_repository(
        tmp_path / "c", COMMIT, ("remote", "add", "origin", "https://user:secret@example.org/c.git")
    )
    four = make_repository(tmp_path / "d", COMMIT, ("remote", "add", "origin", str(one)))
    found, _ = locate_all((str(one), str(two), str(three), str(four), str(one)), (), tmp_path / "cache")
    assert [item.name for item in found] == ["same", "same (2)", "https://example.org/c.git", "d"]
    assert all(item.source == "git" for item in found)


def test_fetched_once_and_kept_up_to_date(tmp_path: Path) -> None:
    upstream = make_repository(tmp_path / "upstream", COMMIT)
    url, cache = f"file://{upstream}", tmp_path / "cache"
    first = locate(url, cache)
    assert first.name == "upstream"
    assert fingerprint((url,), ()) == f"{url} {first.head}"
    make_before = first.folder.stat().st_ino
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(upstream), *COMMIT], check=True
    )
    second = locate(url, cache)
    assert second.head != first.head
    assert second.folder.stat().st_ino == make_before
    (second.folder / "HEAD").unlink()  # what a killed program can leave
    third = locate(url, cache)
    assert third.head == second.head
    shutil.rmtree(upstream)
    with pytest.raises(UserError, match="cannot read repository"):
        locate(url, cache)


def test_a_hostile_configuration_runs_nothing(tmp_path: Path) -> None:
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    repository = make_repository(tmp_path / "hostile", COMMIT)
    names = ("core.fsmonitor", "gpg.program", "diff.external", "core.pager", "pager.log", "core.sshCommand")
    for name in names:
        subprocess.run(["git", "-C", str(repository), "config", name, str(trap)], check=True)
    subprocess.run(["git", "-C", str(repository), "config", "log.showSignature", "true"], check=True)
    found = locate(str(repository), tmp_path / "cache")
    status, output, _ = git(["log", "-1", "--format=%s", found.head], repository)
    assert (status, output) == (0, b"one\n")
    assert not (tmp_path / "sprung").exists()
