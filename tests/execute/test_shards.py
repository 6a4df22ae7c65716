"""Shards in a pool: the same counts and files anywhere; what fails is tried again, then named, and sinks nothing."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from codeflow.core import progress
from codeflow.core.errors import InfrastructureError, UserError
from codeflow.core.manifest import PROGRESS, Counts
from codeflow.execute.local import LocalPool
from codeflow.execute.pool import Alone
from codeflow.execute.shards import _remark, pool_on, run_shards


@dataclass(frozen=True)
class SquareJob:
    name: str
    folder: str
    number: int
    fault: str = ""

    @property
    def reads(self) -> str:
        return f"number {self.number}"


def square(job: SquareJob) -> Counts:
    marker = Path(job.folder) / f"{job.name}.tried"
    first_try = not marker.exists()
    with marker.open("a") as file:
        file.write("x")
    if job.fault == "user":
        raise UserError("the number is odd; choose an even one")
    if job.fault == "always" or (job.fault == "once" and first_try):
        raise ValueError("planted fault")
    if job.fault == "die" or (job.fault == "die once" and first_try):
        os.kill(os.getpid(), signal.SIGKILL)
    if job.fault == "slow":
        time.sleep(0.05)
    (Path(job.folder) / f"{job.name}.out").write_text(str(job.number**2))
    return Counts(read=1, kept=job.number % 2, dropped={} if job.number % 2 else {"even": 1})


def jobs(folder: Path, n: int = 6, **faults: str) -> list[SquareJob]:
    return [SquareJob(f"s{i:02}", str(folder), i, faults.get(f"s{i:02}", faults.get("every", ""))) for i in range(n)]


def n_done(folder: Path) -> int:
    return len(list((folder / PROGRESS).glob("*.json")))


def n_tries(folder: Path, name: str) -> int:
    return len((folder / f"{name}.tried").read_text())


@pytest.mark.parametrize("workers", [1, 2])
def test_counts_and_files_do_not_depend_on_workers(tmp_path: Path, workers: int) -> None:
    total = run_shards(square, jobs(tmp_path), tmp_path, "squares", LocalPool(workers))
    assert total == Counts(read=6, kept=3, dropped={"even": 3})
    assert [(tmp_path / f"s{i:02}.out").read_text() for i in range(6)] == [str(i * i) for i in range(6)]


@pytest.mark.parametrize(("workers", "fault"), [(1, "once"), (2, "once"), (2, "die once")])
def test_a_failing_shard_is_tried_again(tmp_path: Path, workers: int, fault: str) -> None:
    assert run_shards(square, jobs(tmp_path, s02=fault), tmp_path, "squares", LocalPool(workers)).read == 6
    assert [n_tries(tmp_path, f"s{i:02}") for i in range(6)] == [1, 1, 2, 1, 1, 1]


@pytest.mark.parametrize(("workers", "fault"), [(1, "always"), (2, "always"), (2, "die")])
def test_a_shard_that_keeps_failing_is_named_and_the_others_are_done(tmp_path: Path, workers: int, fault: str) -> None:
    """Also one that kills every process which tries it, as a document that needs more memory than there is."""
    shards = jobs(tmp_path, s01=fault, s04=fault)
    with pytest.raises(
        InfrastructureError, match=r"2 of 6 shards failed 2 times.*s01 \(number 1\): .*s04 \(number 4\): "
    ):
        run_shards(square, shards, tmp_path, "squares", LocalPool(workers))
    assert n_done(tmp_path) == 4
    assert [n_tries(tmp_path, f"s{i:02}") for i in range(6)] == [1, 2, 1, 1, 2, 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_input_is_not_tried_again_and_leaves_nothing_running(tmp_path: Path, workers: int) -> None:
    with pytest.raises(UserError, match="choose an even one"):
        run_shards(square, jobs(tmp_path, n=40, s00="user"), tmp_path, "squares", LocalPool(workers))
    assert n_tries(tmp_path, "s00") == 1
    assert n_done(tmp_path) < 39
    assert not [child for child in psutil.Process().children(recursive=True) if "spawn_main" in _command(child)]


def test_progress_says_pace_rest_and_drops_of_this_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "say", said.append)
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_LINE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    run_shards(square, jobs(tmp_path, n=2, every="slow"), tmp_path, "squares", LocalPool(1))
    assert re.fullmatch(
        r"  squares: 1/2 shards, \d+ s left, read 1 \(\d+/s\), dropped 1: even 1|"
        r"  squares: 1/2 shards, read 1 \(\d+/s\), dropped 1: even 1",
        said[0],
    )
    assert re.fullmatch(r"  squares: 2/2 shards, read 2 \(\d+/s\), dropped 1: even 1", said[1])
    said.clear()
    run_shards(square, jobs(tmp_path, n=3, every="slow"), tmp_path, "squares", LocalPool(1))
    assert len(said) == 1
    assert re.fullmatch(r"  squares: 3/3 shards, read 1 \(\d+/s\), dropped 1: even 1", said[0])


def test_a_remark_names_the_commonest_reasons() -> None:
    dropped = {f"r{n}": n for n in range(1, 8)}
    text = _remark(Counts(read=4_000, kept=4_000 - 28, dropped=dropped), 2.0)
    assert text == "read 4,000 (2,000/s), dropped 28: r7 7, r6 6, r5 5, r4 4, r3 3, 2 more reasons"
    assert _remark(Counts(read=10), 2.0, 4_560_000) == "read 10 (5/s, 2.3 MB/s of files)"
    assert _remark(Counts(), 1.0, 7) == ""


@dataclass(frozen=True)
class Copy:
    name: str
    source: Path

    @property
    def n_bytes(self) -> int:
        return self.source.stat().st_size


def take(job: Copy) -> Counts:
    job.source.unlink()  # and its size is not to be had any more
    return Counts(read=1, kept=1)


def test_bytes_are_said_where_they_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "say", said.append)
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_LINE_EVERY_SECONDS", -1.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * 1_000_000)
    run_shards(lambda job: Counts(read=1, kept=1), [Copy("a", tmp_path / "a")], tmp_path, "a", LocalPool(1), True)
    assert re.fullmatch(r"  a: 1/1 shards, read 1 \([\d,]+/s, [\d,.]+ MB/s of files\)", said.pop())
    run_shards(take, [Copy("b", tmp_path / "b")], tmp_path, "b", LocalPool(1), True)
    assert re.fullmatch(r"  b: 1/1 shards, read 1 \([\d,]+/s\)", said.pop())


def test_finished_shards_are_skipped(tmp_path: Path) -> None:
    run_shards(square, jobs(tmp_path), tmp_path, "squares", LocalPool(1))
    for path in tmp_path.glob("*.tried"):
        path.unlink()
    (tmp_path / PROGRESS / "s03.json").unlink()
    assert run_shards(square, jobs(tmp_path), tmp_path, "squares", LocalPool(1)).read == 6
    assert [path.name for path in tmp_path.glob("*.tried")] == ["s03.tried"]


@pytest.mark.parametrize("left", ["", "{", '{"read": 1, "ke'])
def test_a_completion_file_that_was_cut_off_is_no_completion(tmp_path: Path, left: str) -> None:
    run_shards(square, jobs(tmp_path), tmp_path, "squares", LocalPool(1))
    (tmp_path / PROGRESS / "s03.json").write_text(left)
    assert run_shards(square, jobs(tmp_path), tmp_path, "squares", LocalPool(1)).read == 6
    assert [n_tries(tmp_path, f"s{i:02}") for i in range(6)] == [1, 1, 1, 2, 1, 1]


def test_a_kept_pool_keeps_its_processes_and_replaces_dead_ones(tmp_path: Path) -> None:
    def identities(pool, folder: str, **faults: str) -> set[int]:
        (tmp_path / folder).mkdir()
        run_shards(square, jobs(tmp_path / folder, every="slow", **faults), tmp_path / folder, "squares", pool)
        return {child.pid for child in psutil.Process().children() if "spawn_main" in _command(child)}

    with LocalPool(2).kept() as pool:
        first = identities(pool, "first")
        assert len(first) == 2
        assert identities(pool, "second") == first
        third = identities(pool, "third", s03="die once")
        assert len(first & third) == 1
        for identity in third:  # between two calls
            os.kill(identity, signal.SIGKILL)
        time.sleep(0.2)
        assert not third & identities(pool, "fourth")
    assert not [child for child in psutil.Process().children() if "spawn_main" in _command(child)]


def test_processes_killed_at_random_moments_change_nothing(tmp_path: Path) -> None:
    """Each kill costs one shard one try, whoever is hit; here there are as many tries as it takes."""
    generator = random.Random(5)

    class Sniper:
        def outcomes(self, work, jobs, small=False):
            with LocalPool(2).kept() as pool:
                for n, (job, outcome) in enumerate(pool.outcomes(work, jobs)):
                    yield job, outcome
                    victims = [c for c in psutil.Process().children() if "spawn_main" in _command(c)]
                    if n % 4 == 0 and victims:
                        time.sleep(generator.uniform(0, 0.05))
                        generator.choice(victims).kill()

        def kept(self):
            raise NotImplementedError

    shards = jobs(tmp_path, n=16, every="slow")
    assert run_shards(square, shards, tmp_path, "squares", Sniper(), retries=20).read == 16
    assert [(tmp_path / f"s{i:02}.out").read_text() for i in range(16)] == [str(i * i) for i in range(16)]


def test_a_shard_waits_for_a_process_that_is_still_at_it(tmp_path: Path) -> None:
    """A killed run's processes may outlive it: what they still write must not mix with what the next run writes."""
    (held,) = jobs(tmp_path, n=1)
    outcomes = list(LocalPool(2).outcomes(Alone(log_slowly, tmp_path), [held, held]))
    assert all(isinstance(outcome, Counts) for _, outcome in outcomes)
    assert (tmp_path / "log").read_text().split() == ["begin", "end", "begin", "end"]


def log_slowly(job: SquareJob) -> Counts:
    with (Path(job.folder) / "log").open("a", buffering=1) as file:
        file.write("begin\n")
        time.sleep(0.3)
        file.write("end\n")
    return Counts()


@pytest.mark.parametrize("where", ["spark", "", "ray2:auto"])
def test_unknown_places_are_refused(where: str) -> None:
    with pytest.raises(UserError, match="choose local, ray"), pool_on(where):
        pass


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
