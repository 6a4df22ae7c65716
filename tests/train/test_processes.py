"""Two processes train as one does: a world spawned once runs all its cases."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch.distributed as dist

from codeflow.core.manifest import begin
from codeflow.core.metrics import read_metrics
from codeflow.parallel import checkpoint
from codeflow.parallel.config import MeshConfig
from codeflow.train import pretrain
from codeflow.train.config import TrainConfig

N_RANKS = 2
CASES: dict[str, dict[str, Any]] = {
    "shard_fp32": {"precision": "fp32"},
    "shard_bf16": {"precision": "bf16"},
    "shard_accumulated": {"precision": "fp32", "micro_rows": 1},
    "replicated_fp32": {"precision": "fp32", "mesh": {"data": 2, "shard": 1}},
}


def config_of(model: Any, case: str) -> TrainConfig:
    return TrainConfig(
        model=model,
        steps=5,
        batch_rows=4,
        mixture={"general": 1.0, "code": 1.0},
        validation_rows=5,  # not a multiple of the processes
        checkpoint_every_steps=2,
        n_threads=1,
        **{"mesh": MeshConfig(), **CASES[case]},
    )


def _rank(rank: int, folder: Path, inputs: dict[str, Path], model: Any) -> None:
    try:
        store = dist.FileStore(str(folder / "store"), N_RANKS)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=N_RANKS)
        for case in CASES:
            config, output = config_of(model, case), folder / case
            if rank == 0:
                begin(output, "checkpoint", config, {}, "key")
            dist.barrier()
            pretrain.run(config, inputs, output)
        dist.destroy_process_group()
    except BaseException:
        (folder / f"failure_of_rank_{rank}").write_text(traceback.format_exc())
        os._exit(1)


def losses(output: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(output / "metrics.jsonl") if "loss" in row]


@pytest.mark.slow
def test_two_processes_train_as_one(golden: ModuleType, inputs: dict[str, Path], tmp_path: Path) -> None:
    model = golden.tiny_model()
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(r, tmp_path, inputs, model)) for r in range(N_RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
    failures = [path.read_text() for path in tmp_path.glob("failure_of_rank_*")]
    assert not failures, failures[0]
    assert [process.exitcode for process in ranks] == [0, 0]
    for case in CASES:
        tolerance = 2e-3 if "bf16" in case else 1e-5
        config = config_of(model, case).model_copy(update={"mesh": MeshConfig()})
        single = tmp_path / f"{case}_single"
        begin(single, "checkpoint", config, {}, "key")
        alone = pretrain.run(config, inputs, single)
        assert losses(tmp_path / case) == pytest.approx(losses(single), rel=tolerance), case
        together = pretrain.read_manifest(tmp_path / case)
        for name, value in alone.metrics["validation_after"].items():
            assert together.metrics["validation_after"][name] == pytest.approx(value, rel=tolerance), case
        shards = [name for name in checkpoint.read(tmp_path / case / "state").files if name.endswith(".distcp")]
        assert len(shards) == N_RANKS, case
        children = [_child(parent, case, inputs) for parent in (tmp_path / case, single)]
        assert children[0] == pytest.approx(children[1], rel=tolerance), f"{case}, continued by one process"


def _child(parent: Path, case: str, inputs: dict[str, Path]) -> list[float]:
    config = config_of(None, case).model_copy(update={"mesh": MeshConfig(), "steps": 2})
    output = parent / "child"
    begin(output, "checkpoint", config, {}, "key")
    pretrain.run(config, {**inputs, "parent": parent}, output)
    return losses(output)
