from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from codeflow.core.errors import InfrastructureError
from codeflow.core.manifest import PROGRESS, Counts
from codeflow.execute.local import run_shards


@dataclass(frozen=True)
class SquareJob:
    name: str
    folder: str
    number: int
    fault: str = ""


def square(job: SquareJob) -> Counts:
    marker = Path(job.folder) / f"{job.name}.tried"
    first_try = not marker.exists()
    marker.touch()
    if job.fault == "always" or (job.fault == "once" and first_try):
        raise ValueError("planted fault")
    if job.fault == "die once" and first_try:
        os.kill(os.getpid(), signal.SIGKILL)
    (Path(job.folder) / f"{job.name}.out").write_text(str(job.number**2))
    return Counts(read=1, kept=job.number % 2, dropped={} if job.number % 2 else {"even": 1})


def jobs(folder: Path, n: int = 6, **faults: str) -> list[SquareJob]:
    return [SquareJob(f"s{i}", str(folder), i, faults.get(f"s{i}", "")) for i in range(n)]


@pytest.mark.parametrize("workers", [1, 2])
def test_counts_and_files_do_not_depend_on_workers(tmp_path: Path, workers: int) -> None:
    total = run_shards(square, jobs(tmp_path), tmp_path, "squares", workers)
    assert total == Counts(read=6, kept=3, dropped={"even": 3})
    assert [(tmp_path / f"s{i}.out").read_text() for i in range(6)] == [str(i * i) for i in range(6)]


@pytest.mark.parametrize(("workers", "fault"), [(1, "once"), (2, "once"), (2, "die once")])
def test_a_failing_shard_is_tried_again(tmp_path: Path, workers: int, fault: str) -> None:
    assert run_shards(square, jobs(tmp_path, s2=fault), tmp_path, "squares", workers).read == 6


def test_a_shard_that_keeps_failing_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match=r"1 of 6 shards failed 2 times.*first s4"):
        run_shards(square, jobs(tmp_path, s4="always"), tmp_path, "squares", 1)
    assert len(list((tmp_path / PROGRESS).iterdir())) == 5


def test_finished_shards_are_skipped(tmp_path: Path) -> None:
    run_shards(square, jobs(tmp_path), tmp_path, "squares", 1)
    for path in tmp_path.glob("*.tried"):
        path.unlink()
    (tmp_path / PROGRESS / "s3.json").unlink()
    assert run_shards(square, jobs(tmp_path), tmp_path, "squares", 1).read == 6
    assert [path.name for path in tmp_path.glob("*.tried")] == ["s3.tried"]
