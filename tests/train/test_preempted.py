"""A phase that is asked to end saves, ends, and goes on as if nothing had happened; a rank that dies ends all."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch.distributed as dist

from codeflow.core.errors import InfrastructureError, Preempted
from codeflow.core.manifest import begin
from codeflow.parallel import checkpoint
from codeflow.parallel.config import MeshConfig
from codeflow.train import pretrain
from codeflow.train.config import TrainConfig
from codeflow.train.loop import Trainee, train_step
from tests.train.test_pretrain import contents, phase_config, train

STEP = 3


class SignalAt:
    """Stands in for the training step: in one call, on one rank, a signal goes to a process."""

    def __init__(self, to: str, number: signal.Signals, rank: int = 0) -> None:
        self.to, self.number, self.rank, self.n_calls = to, number, rank, 0

    def __call__(self, trainee: Trainee, *arguments: Any) -> Any:
        self.n_calls += 1
        if self.n_calls == STEP and dist.get_rank() == self.rank:
            os.kill(os.getppid() if self.to == "parent" else os.getpid(), self.number)
            if self.to == "parent":
                time.sleep(1)  # the signal goes around
        return train_step(trainee, *arguments)


def test_sigterm_saves_and_ends(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, output = phase_config(golden, checkpoint_every_steps=100), tmp_path / "out"
    train(config, inputs, tmp_path / "whole")
    monkeypatch.setattr(pretrain, "train_step", SignalAt("self", signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match=f"saved after step {STEP}; the same command goes on"):
        train(config, inputs, output)
    assert signal.getsignal(signal.SIGTERM) == before
    assert [checkpoint.read(folder).step for folder in checkpoint.step_folders(output / "checkpoints")] == [STEP]
    pretrain.run(config, inputs, output)
    assert contents(output) == contents(tmp_path / "whole")


_here = pretrain._run_here


def _two_processes(golden: ModuleType) -> TrainConfig:
    return phase_config(golden, checkpoint_every_steps=2, mesh=MeshConfig(data=1, shard=2))


@pytest.mark.slow
def test_sigterm_reaches_every_process(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, output = _two_processes(golden), tmp_path / "out"
    train(config, inputs, tmp_path / "whole")
    monkeypatch.setattr(pretrain, "_run_here", _Start("parent", signal.SIGTERM))
    with pytest.raises(Preempted, match="saved after step"):
        train(config, inputs, output)
    monkeypatch.setattr(pretrain, "_run_here", _here)
    begin(output, "checkpoint", config, {}, "key")
    pretrain.run(config, inputs, output)
    assert (output / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_phase_within_a_minute(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, output = _two_processes(golden), tmp_path / "out"
    monkeypatch.setattr(pretrain, "_run_here", _Start("self", signal.SIGKILL))
    started = time.monotonic()
    with pytest.raises(InfrastructureError, match=r"rank 1 of 2 died \(SIGKILL\)"):
        train(config, inputs, output)
    assert time.monotonic() - started < 60
    left = [checkpoint.read(folder).step for folder in checkpoint.step_folders(output / "checkpoints")]
    assert left in ([2], [])  # the save after step 2 is whole, or was not finished and is not there


class _Start:
    """Stands in for a phase on processes that are started for it."""

    def __init__(self, to: str, number: signal.Signals) -> None:
        self._how = (to, number)

    def __call__(self, *arguments: Any) -> None:
        pretrain.train_step = SignalAt(*self._how, rank=1)
        _here(*arguments)
