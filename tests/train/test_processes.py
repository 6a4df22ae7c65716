"""Two processes train as one does: a world spawned once runs all its cases."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch.distributed as dist

from codeflow.core.config import Config
from codeflow.core.manifest import Counts, Manifest, begin, seal
from codeflow.core.metrics import read_metrics
from codeflow.execute.chain import EVERY_CORE, Stage, run_chain
from codeflow.parallel import checkpoint
from codeflow.parallel.config import MeshConfig
from codeflow.train import pretrain
from codeflow.train.config import TrainConfig
from tests.ranks import run_ranks

N_RANKS = 2
CASES: dict[str, dict[str, Any]] = {
    "shard_fp32": {"precision": "fp32"},
    "shard_bf16": {"precision": "bf16"},
    "shard_accumulated": {"precision": "fp32", "micro_rows": 1},
    "replicated_fp32": {"precision": "fp32", "mesh": {"data": 2, "shard": 1}},
    "context_fp32": {"precision": "fp32", "mesh": {"context": 2}, "loop_norms_every_steps": 2},
    "heads_fp32": {"precision": "fp32", "mesh": {"context": 2, "context_exchange": "all_to_all"}},
    "tensor_fp32": {"precision": "fp32", "mesh": {"tensor": 2}, "loop_norms_every_steps": 2},
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


def _train(folder: Path, inputs: dict[str, Path], model: Any) -> None:
    for case in CASES:
        config, output = config_of(model, case), folder / case
        if dist.get_rank() == 0:
            begin(output, "checkpoint", config, {}, "key")
        dist.barrier()
        pretrain.run(config, inputs, output)


def losses(output: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(output / "metrics.jsonl") if "loss" in row]


@pytest.mark.slow
def test_two_processes_train_as_one(golden: ModuleType, inputs: dict[str, Path], tmp_path: Path) -> None:
    model = golden.tiny_model()
    run_ranks(N_RANKS, tmp_path, _train, tmp_path, inputs, model)
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


def _sealed(source: Path, folder: Path, kind: str) -> Path:
    begin(folder, kind, Config(), {}, "key")
    shutil.copytree(source, folder, dirs_exist_ok=True)
    seal(folder, Counts(read=1, kept=1))
    return folder


@pytest.mark.slow
def test_a_phase_starts_the_processes_that_its_mesh_asks_for(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path
) -> None:
    """By itself and under torchrun: both resume what a first process has begun, and reuse what is finished."""
    config = config_of(golden.tiny_model(), "context_fp32")
    begin(tmp_path / "launched", "checkpoint", config, {}, "key")
    pretrain.run(config, inputs, tmp_path / "launched")
    overrides = [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in config.model_dump(mode="json").items()
        if value != TrainConfig().model_dump(mode="json")[name]
    ]
    wired = [text for name in inputs for text in ("-i", f"{name}={_sealed(inputs[name], tmp_path / name, name)}")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "codeflow", "train"]
    for said in ("run", "reuse"):
        done = subprocess.run(
            [*torchrun, str(tmp_path / "torchrun"), *wired, *overrides],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        assert done.returncode == 0, done.stderr
        assert f"torchrun: {said}" in done.stdout + done.stderr
    assert losses(tmp_path / "torchrun") == losses(tmp_path / "launched")


class CopiedConfig(Config):
    """A folder whose files become an artifact."""

    source: str


def copied(config: CopiedConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    shutil.copytree(config.source, output, dirs_exist_ok=True)
    return seal(output, Counts())


@pytest.mark.slow
def test_a_recipe_trains_a_phase_on_two_processes(golden: ModuleType, inputs: dict[str, Path], tmp_path: Path) -> None:
    """As `codeflow run tiny train.general.mesh.data=2` does: a stage in a process of its own starts two more."""
    own = f"{__name__}:copied"
    config = config_of(golden.tiny_model(), "replicated_fp32")
    stages = [Stage(name, name, own, CopiedConfig(source=str(path))) for name, path in inputs.items()]
    wired = {name: name for name in inputs}
    train = Stage("train", "checkpoint", "codeflow.train.pretrain:run", config, wired, cores=EVERY_CORE)
    manifests = run_chain([*stages, train], tmp_path / "run", n_cores=2)
    alone = config.model_copy(update={"mesh": MeshConfig()})
    begin(tmp_path / "alone", "checkpoint", alone, {}, "key")
    pretrain.run(alone, inputs, tmp_path / "alone")
    assert losses(tmp_path / "run" / "train") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)
    assert manifests["train"].metrics["steps"] == config.steps
