"""A phase in which a bit flips: it stops before the update or rolls back, and ends as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist

from codeflow.core.manifest import begin, read_manifest
from codeflow.parallel.config import IntegrityConfig, MeshConfig
from codeflow.parallel.faults import RankFault, diagnoses
from codeflow.parallel.fingerprints import local
from codeflow.train import pretrain
from codeflow.train.config import TrainConfig
from codeflow.train.loop import Trainee, train_step
from tests.train.test_pretrain import contents, phase_config, train
from tests.train.test_processes import losses

STEP = 5


class FlipAt:
    """Stands in for the training step: before one call, on one rank, a bit of a master or its copy flips."""

    def __init__(self, call: int, rank: int = 0, times: int = 1) -> None:
        self.left = {call + i for i in range(times)}
        self.n_calls, self.rank = 0, rank

    def __call__(self, trainee: Trainee, *arguments: Any) -> Any:
        self.n_calls += 1
        if self.n_calls in self.left and dist.get_rank() == self.rank:
            average = trainee.optimizer.tensors()["adamw.average.norm.weight"]
            local(average).view(torch.int32)[3] ^= 1 << 7  # the momentum that the update will read
        return train_step(trainee, *arguments)


def watched(golden: ModuleType, **changes: Any) -> TrainConfig:
    return phase_config(golden, integrity=IntegrityConfig(every_steps=1, recompute_every_steps=2, **changes))


@pytest.fixture
def undisturbed(golden: ModuleType, inputs: dict[str, Path], tmp_path: Path) -> dict[str, bytes]:
    """What a phase without any check leaves behind."""
    nothing = IntegrityConfig(checks=(), every_steps=None, recompute_every_steps=None)
    train(phase_config(golden, integrity=nothing), inputs, tmp_path / "undisturbed")
    return contents(tmp_path / "undisturbed")


def test_a_flip_stops_the_phase_and_the_next_start_goes_on(
    golden: ModuleType,
    inputs: dict[str, Path],
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, output = watched(golden), tmp_path / "out"
    monkeypatch.setattr(pretrain, "train_step", FlipAt(STEP))
    with pytest.raises(RankFault, match=rf"'optimizer.adamw.average.norm.weight' of rank 0 at step {STEP}"):
        train(config, inputs, output)
    (path,) = diagnoses(output)
    tree = json.loads(path.read_text())
    assert tree["step"] == STEP
    assert [who["rank"] for who in tree["suspects"]] == [0]
    pretrain.run(config, inputs, output)
    assert contents(output) == undisturbed


def test_a_flip_is_rolled_back(
    golden: ModuleType,
    inputs: dict[str, Path],
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pretrain, "train_step", FlipAt(STEP))
    manifest = train(watched(golden, on_mismatch="roll_back"), inputs, tmp_path / "out")
    assert contents(tmp_path / "out") == undisturbed
    assert manifest.metrics["remarks"] == [f"a silent error was found and rolled back: diagnosis-{STEP:08d}.json"]


def test_flips_without_end_end_the_phase(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flips = FlipAt(STEP, times=1000)
    monkeypatch.setattr(pretrain, "train_step", flips)
    with pytest.raises(RankFault):
        train(watched(golden, on_mismatch="roll_back", max_roll_backs=2), inputs, tmp_path / "out")
    assert flips.n_calls == STEP + 2  # each attempt went on after the checkpoint at step 4
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_recomputed_passes_change_nothing(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    config = phase_config(golden, micro_rows=1)
    plain = config.model_copy(update={"integrity": IntegrityConfig(recompute_every_steps=None)})
    again = config.model_copy(update={"integrity": IntegrityConfig(recompute_every_steps=1)})
    train(plain, inputs, tmp_path / "plain")
    train(again, inputs, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "plain")


def _flip_on_rank_1(config: TrainConfig, inputs: dict[str, Path], output: Path) -> None:
    """Stands in for a phase on the processes that were started."""
    if dist.is_initialized():  # not the process that goes on alone
        pretrain.train_step = FlipAt(STEP, rank=1)
    _here(config, inputs, output)


_here = pretrain._run_here


@pytest.mark.slow
def test_a_phase_goes_on_without_the_rank_that_is_named(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"precision": "fp32", "validation_every_steps": None}
    whole = phase_config(golden, **fields)
    train(whole, inputs, tmp_path / "whole")
    monkeypatch.setattr(pretrain, "_run_here", _flip_on_rank_1)
    config = watched(golden, on_mismatch="roll_back").model_copy(update={**fields, "mesh": MeshConfig(data=2, shard=1)})
    begin(tmp_path / "out", "checkpoint", config, {}, "key")
    pretrain.run(config, inputs, tmp_path / "out")
    tree = json.loads(diagnoses(tmp_path / "out")[0].read_text())
    assert [who["rank"] for who in tree["suspects"]] == [1]
    assert losses(tmp_path / "out") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    assert "rolled back" in read_manifest(tmp_path / "out").metrics["remarks"][0]


@pytest.mark.parametrize(
    ("axes", "batch_rows", "expected"),
    [
        ({"data": 4, "shard": 1}, 12, {"data": 3, "shard": 1}),
        ({"data": 4, "shard": 1}, 8, {"data": 2, "shard": 1}),
        ({"data": 2, "shard": 2}, 8, {"data": 1, "shard": 2}),
        ({"context": 2}, 4, {"context": 1, "shard": 1}),
        ({"context": 2, "tensor": 2}, 4, {"context": 1, "tensor": 2, "shard": 1}),
        ({}, 4, None),
    ],
)
def test_the_layout_without_a_rank(axes: dict[str, int], batch_rows: int, expected: dict[str, int] | None) -> None:
    found = MeshConfig.model_validate(axes).without_ranks(1, batch_rows)
    assert found == (None if expected is None else MeshConfig.model_validate(expected))
