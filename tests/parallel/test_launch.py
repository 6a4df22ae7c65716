"""Processes that a run starts for itself: one world, one reason when it ends early."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch.distributed as dist

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.execute.local import default_workers
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.launch import cores_per_process, launch, must_launch

TWO = MeshConfig(context=2)


def _leave_a_note(folder: Path) -> None:
    dist.barrier()
    (folder / f"{dist.get_rank()} of {dist.get_world_size()}").touch()


def _end_badly(how: str) -> None:
    if dist.get_rank() == 1 and how == "refuse":
        raise UserError("rows are too short; use longer ones")
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


@pytest.mark.slow
def test_every_rank_calls_the_function(tmp_path: Path) -> None:
    launch(TWO, _leave_a_note, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0 of 2", "1 of 2"]


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_with_its_name() -> None:
    with pytest.raises(InfrastructureError, match=r"rank 1 of 2 died \(SIGKILL"):
        launch(TWO, _end_badly, "die")


@pytest.mark.slow
def test_a_rank_that_refuses_ends_the_run_with_its_words() -> None:
    with pytest.raises(UserError, match="rows are too short"):
        launch(TWO, _end_badly, "refuse")


def test_processes_are_started_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert must_launch(TWO)
    assert must_launch(MeshConfig(data=2, shard=3, tensor=2))
    assert not must_launch(MeshConfig())
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not must_launch(TWO)


def test_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert cores_per_process() == max(default_workers() // 2, 1)
