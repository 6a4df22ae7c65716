"""Histories with contents: `corpus.git_history` against PyDriller on the same repository, one process each.

The repository is synthetic (scripts/make_history.py) unless a folder is named; all its commits are read, with both
sides of every change. `ours` makes the commits one after the other, as the peer does; `ours_stored` is the whole
stage, which also writes them to Parquet. Contents must agree: every text that ours gives for a commit with one parent
is the one that the peer gives.

Two bounds: what the two git programs need by themselves, side by side, when their output goes nowhere and the second
knows all its objects from the start; and the same when a process receives both outputs through pipes, as anybody must
who wants the contents, and throws everything away.

    python -m benchmarks git_history [N_COMMITS | REPOSITORY]

The peer's environment is made on the first run from `benchmarks/peers/pydriller/requirements.txt`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from codeflow.core.manifest import begin
from codeflow.core.records import read_shards
from codeflow.core.types import Change, Commit
from codeflow.corpus import git_history
from codeflow.corpus.git_program import command, environment
from codeflow.corpus.git_repository import locate
from codeflow.execute import local

ROUNDS, TARGET_RATIO = 5, 15.0
_PIECE_BYTES = 1 << 20
FOLDER = Path(__file__).resolve().parent
PEER = FOLDER / "peers" / "pydriller"
sys.path.insert(0, str(FOLDER.parent / "scripts"))


def peer_python() -> Path:
    """Return the interpreter of the peer's environment, made when missing."""
    python = PEER / ".venv" / "bin" / "python"
    if not (PEER / ".venv" / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(PEER / ".venv")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(PEER / "requirements.txt")], check=True)
        (PEER / ".venv" / "complete").touch()
    return python


def stored(repository: Path, output: Path) -> tuple[float, list[Commit]]:
    """Return the seconds of one run of the stage, and its commits."""
    config = _config(repository)
    begin(output, "commits", config, {}, "benchmark")
    started = time.perf_counter()
    git_history.run(config, {}, output)
    return time.perf_counter() - started, list(read_shards(output, "commits", Commit))


def read(repository: Path, folder: Path) -> float:
    """Return the seconds in which all commits are made, each forgotten before the next."""
    started = time.perf_counter()
    n = sum(1 for _ in git_history.commits(_config(repository), folder))
    assert n, "no commits"
    return time.perf_counter() - started


def _config(repository: Path) -> git_history.HistoryConfig:
    return git_history.HistoryConfig(repositories=(str(repository),), first_parent=False, commits_per_shard=10**6)


def bound(repository: Path, folder: Path, copied: bool) -> float:
    """Return the seconds that `git log --raw` and `git cat-file --batch` take side by side.

    Nobody reads along, or this process receives what they write.
    """
    log = ["log", "--raw", "-z", "--no-abbrev", "--reverse", "-M50%", "--diff-merges=first-parent", "--format=%H%x00%B"]
    raw = subprocess.run(command(log, repository), env=environment(repository), capture_output=True, check=True).stdout
    entries = [token.split() for token in raw.split(b"\0") if token.lstrip().startswith(b":")]
    shas = dict.fromkeys(sha for entry in entries for sha in entry[2:4] if sha.strip(b"0"))
    (folder / "shas").write_bytes(b"".join(sha + b"\n" for sha in shas))
    started = time.perf_counter()
    with open(folder / "shas", "rb") as requests:
        programs = [
            subprocess.Popen(
                command(arguments, repository),
                env=environment(repository),
                stdin=stdin,
                stdout=subprocess.PIPE if copied else subprocess.DEVNULL,
            )
            for arguments, stdin in ((log, subprocess.DEVNULL), (["cat-file", "--batch", "--buffer"], requests))
        ]
        if copied:
            receive(programs)
        for program in programs:
            program.wait()
    return time.perf_counter() - started


def receive(programs: list[subprocess.Popen[bytes]]) -> None:
    """Read what programs write to the end, through pipes of 1 MiB, which are quicker than those of 64 KiB."""
    with selectors.DefaultSelector() as selector:
        for program in programs:
            assert program.stdout
            if hasattr(fcntl, "F_SETPIPE_SZ"):
                fcntl.fcntl(program.stdout, fcntl.F_SETPIPE_SZ, _PIECE_BYTES)
            selector.register(program.stdout, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                if not os.read(key.fd, _PIECE_BYTES):
                    selector.unregister(key.fileobj)


def digest(text: str | None) -> str:
    """Return the hash that the peer's script prints for a text."""
    return "" if text is None else hashlib.sha256(text.encode()).hexdigest()[:16]


def disagreements(commits: list[Commit], peer: dict[str, list[str]], merges: set[str]) -> tuple[int, int]:
    """Return the number of changes compared and of those whose contents differ from the peer's.

    The peer gives no contents where only the path or the mode changed; these are not compared.
    """

    def is_text(change: Change) -> bool:
        return change.before is not None or change.after is not None

    n = n_different = 0
    for commit in commits:
        for change in commit.changes:
            if is_text(change) and commit.sha not in merges:
                found = peer.get(f"{commit.sha} {change.path}")
                if change.before == change.after and found == ["", ""]:
                    continue
                n += 1
                n_different += found != [digest(change.before), digest(change.after)]
    return n, n_different


def main() -> None:
    """Make the repository, run both sides alternately, print one JSON line."""
    from make_history import write_history

    named = sys.argv[1] if len(sys.argv) > 1 else "1500"
    python = peer_python()
    local.default_workers = lambda: 1  # the peer has one process, so have we
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if named.isdigit():
            write_history(folder / "tally", int(named))
        repository = locate(str(folder / "tally") if named.isdigit() else named, folder).folder
        merges = set(
            subprocess.run(
                command(["rev-list", "--merges", "HEAD"], repository), capture_output=True, check=True, text=True
            ).stdout.split()
        )
        stored_seconds, commits = stored(repository, folder / "stored")
        seconds, bound_seconds, copy_seconds = [], [], []
        for _ in range(ROUNDS):
            seconds.append(read(repository, folder))
            bound_seconds.append(bound(repository, folder, copied=False))
            copy_seconds.append(bound(repository, folder, copied=True))
        walk = [str(python), str(PEER / "walk.py"), str(repository)]
        peer = json.loads(subprocess.run(walk, capture_output=True, check=True).stdout)
    n_compared, n_different = disagreements(commits, peer["changes"], merges)
    rates = {"ours": len(commits) / min(seconds), "peer": peer["n_commits"] / peer["seconds"]}
    line = {
        "benchmark": "git_history",
        "unit": "commits per second, contents of both sides included",
        "ours": round(rates["ours"], 1),
        "ours_stored": round(len(commits) / stored_seconds, 1),
        "peer": round(rates["peer"], 1),
        "peer_name": "pydriller 2.12",
        "ratio": round(rates["ours"] / rates["peer"], 2),
        "bound": round(len(commits) / min(bound_seconds), 1),
        "of_bound": round(min(bound_seconds) / min(seconds), 2),
        "bound_name": "git log --raw and git cat-file --batch by themselves",
        "bound_copied": round(len(commits) / min(copy_seconds), 1),
        "of_bound_copied": round(min(copy_seconds) / min(seconds), 2),
        "target_ratio": TARGET_RATIO,
        "n_commits": [len(commits), peer["n_commits"]],
        "n_changes_that_the_peer_cannot_read": peer["n_failed"],
        "n_changes_compared": n_compared,
        "n_changes_that_differ": n_different,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
