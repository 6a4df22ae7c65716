"""Cases of the equality of layouts: what they train, on one process or on many, and what is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from codeflow.model import compilation
from codeflow.model.config import ModelConfig
from codeflow.model.looped import LoopCoder
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.mesh import World, world
from codeflow.parallel.place import place, whole
from codeflow.train.config import OptimizerConfig
from codeflow.train.loop import Trainee, train_step
from codeflow.train.losses import NextToken, Objective, TensorBatch
from codeflow.train.optimizer import Optimizer
from tests.kernels.cases import starts

N_STEPS, N_ROWS, LENGTH, VOCABULARY = 5, 4, 64, 96
PACKING = [[64], [5, 27, 32], [40, 24], [13] * 4 + [12]]  # documents and windows cross every border of parts
PLAIN_MOMENTUM = OptimizerConfig(matrices="sgd", others="sgd", sgd_learning_rate=0.5, clip_norm=1e9)


@dataclass(frozen=True)
class Case:
    """A training of five steps: what is computed, and on which layout."""

    name: str
    mesh: dict[str, Any]
    loops: int = 2
    window: int = 20  # longer than a chunk on four ranks
    dtype: torch.dtype = torch.float32
    packed: bool = True
    model: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    micro_rows: int = N_ROWS
    compiler: str = ""  # of the blocks; one process alone computes without

    @property
    def tolerance(self) -> float:
        """Largest difference, by the tensor's largest gradient."""
        return 1e-10 if self.dtype == torch.float64 else 1e-5


def make_model(case: Case) -> LoopCoder:
    """A model whose gates are not all a half."""
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": LENGTH,
        "loop_num": case.loops,
        "loop_window_size": case.window,
    }
    config = ModelConfig.model_validate(shape | case.model)
    model = LoopCoder(config, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate_projection" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
            elif parameter.dim() == 2:
                parameter.mul_(4)  # attention that prefers some keys
    return model.to(case.dtype)


def make_batch(case: Case, step: int) -> TensorBatch:
    """The whole batch of a step."""
    generator = torch.Generator().manual_seed(100 + step)
    ids = torch.randint(0, VOCABULARY, (N_ROWS, LENGTH), generator=generator)
    weights = (torch.rand(ids.shape, generator=generator) < 0.7).to(case.dtype)
    weights[1, :48] = 0  # some parts have no loss at all
    document_starts = starts(PACKING) if case.packed else torch.zeros_like(ids)
    positions = torch.arange(LENGTH) - document_starts
    return TensorBatch(ids, ids.roll(-1, 1), weights, positions, document_starts)


def own_batches(case: Case, here: World, step: int) -> list[TensorBatch]:
    """This process's micro-batches of a step."""
    mine = make_batch(case, step).split(N_ROWS // here.n_readers)[here.reader]
    return mine.part(here.own_part).split(case.micro_rows)


def train(case: Case, watch: Callable[[Trainee], None] | None = None) -> dict[str, Tensor]:
    """Train on the layout of `case`; return all losses and whole gradients by `step.name`."""
    found: dict[str, Tensor] = {}
    config = MeshConfig.model_validate(case.mesh)
    with world(config) as here:
        model = make_model(case)
        objective = Objective(model, NextToken(chunk_rows=24, **case.loss))
        compilation._COMPILER = case.compiler or compilation._COMPILER
        compiled = "blocks" if case.compiler else "none"
        placed = place(model, objective, model.layers, here.mesh, case.dtype, config, compiled)
        optimizer = Optimizer(placed.masters, PLAIN_MOMENTUM, case.dtype)
        trainee = Trainee(objective, placed, optimizer, here)
        update = optimizer.step

        def record(factor: float, gradient_factor: float) -> None:
            for name, master in placed.masters.items():
                assert master.grad is not None, name
                found[f"{step}.{name}"] = whole(master.grad).clone()
            update(factor, gradient_factor)

        optimizer.step = record
        for step in range(N_STEPS):
            report = train_step(trainee, own_batches(case, here, step), 1.0, 1e9)
            assert not report.skipped, report.skipped
            found[f"{step}.loss"] = torch.tensor(report.loss, dtype=torch.float64)
            found[f"{step}.norm"] = torch.tensor(report.grad_norm, dtype=torch.float64)
        if watch:
            watch(trainee)
    return found


def train_all(cases: Sequence[Case], folder: Path) -> None:
    """Train every case on this process and its peers; the first one writes what it found."""
    for case in cases:
        found = train(case)
        if torch.distributed.get_rank() == 0:
            save_file(found, folder / f"{case.name}.safetensors")


def differences(case: Case, folder: Path) -> dict[str, float]:
    """Return the largest difference from one process by tensor, relative to its largest element."""
    alone = train(Case(**{**vars(case), "mesh": {}, "compiler": ""}))
    together = load_file(folder / f"{case.name}.safetensors")
    assert alone.keys() == together.keys()
    return {
        name: float((together[name] - exact).abs().max() / exact.abs().max().clamp_min(1e-30))
        for name, exact in alone.items()
    }
