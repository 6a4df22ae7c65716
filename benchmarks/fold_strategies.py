"""Dense-to-loop folds compared: held-out loss at step 0 and after a short run, beside the dense model trained as long.

    fold_strategies [--dense-steps N] [--steps N] [--seeds N]

Bytes of the standard library's modules, every tenth file held out; a byte model of 4 layers is trained, folded by each
strategy and trained on with the same batches. Losses in nats per byte; one JSON line. No bound: it is a comparison.
"""

from __future__ import annotations

import argparse
import copy
import json
import sysconfig
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from codeflow.model.config import ModelConfig
from codeflow.model.fold import FoldSettings, Strategy, fold
from codeflow.model.looped import LoopCoder
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.mesh import World, world
from codeflow.parallel.place import place
from codeflow.train.allocator import kept_memory
from codeflow.train.config import OptimizerConfig
from codeflow.train.loop import Trainee, train_step
from codeflow.train.losses import NextToken, Objective, TensorBatch
from codeflow.train.optimizer import Optimizer

ROWS, CONTEXT_TOKENS, HELD_OUT_ROWS = 8, 128, 128
SHAPE = ModelConfig(
    vocab_size=256,
    hidden_size=96,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=3,
    num_key_value_heads=3,
    head_dim=32,
    max_position_embeddings=CONTEXT_TOKENS,
)


def read_bytes() -> tuple[Tensor, Tensor]:
    """Return the training bytes and the held-out ones."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    parts = [[p.read_bytes() for i, p in enumerate(paths) if (i % 10 == 0) == held_out] for held_out in (False, True)]
    train, held_out = (torch.frombuffer(bytearray(b"".join(part)), dtype=torch.uint8).long() for part in parts)
    return train, held_out


def draw(data: Tensor, n_rows: int, generator: torch.Generator) -> TensorBatch:
    """Return random rows, each one document."""
    begins = torch.randint(len(data) - CONTEXT_TOKENS - 1, (n_rows, 1), generator=generator)
    span = data[begins + torch.arange(CONTEXT_TOKENS + 1)]
    positions = torch.arange(CONTEXT_TOKENS, dtype=torch.int32).repeat(n_rows, 1)
    ones = torch.ones(n_rows, CONTEXT_TOKENS)
    return TensorBatch(span[:, :-1], span[:, 1:].contiguous(), ones, positions, torch.zeros_like(positions))


def train(model: LoopCoder, data: Tensor, n_steps: int, seed: int, here: World) -> LoopCoder:
    """Train `model` on `n_steps` batches that depend on the seed alone."""
    objective = Objective(model, NextToken())
    placed = place(model, objective, model.layers, here.mesh, torch.float32)
    trainee = Trainee(objective, placed, Optimizer(placed.masters, OptimizerConfig(), torch.float32), here)
    generator = torch.Generator().manual_seed(seed)
    for step in range(n_steps):
        train_step(trainee, [draw(data, ROWS, generator)], 1.0 - step / n_steps, 1.0)
    return model


@torch.no_grad()
def loss(model: LoopCoder, batch: TensorBatch) -> float:
    """Return nats per byte."""
    return float(NextToken()(model, batch, 1.0 / batch.weight))


def compare(seed: int, arguments: argparse.Namespace, here: World) -> dict[str, tuple[float, float]]:
    """Return the losses at step 0 and after the run, of the dense model and of each fold."""
    data, held_out = read_bytes()
    judge = draw(held_out, HELD_OUT_ROWS, torch.Generator().manual_seed(0))
    dense = train(LoopCoder(SHAPE, seed=seed), data, arguments.dense_steps, seed, here)
    models = {"dense": copy.deepcopy(dense)}
    models |= {name: fold(dense, FoldSettings(strategy=name, loop_window_size=32)) for name in get_args(Strategy)}
    before = {name: loss(model, judge) for name, model in models.items()}
    after = {n: loss(train(m, data, arguments.steps, seed + 1000, here), judge) for n, m in models.items()}
    return {name: (before[name], after[name]) for name in models}


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dense-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with kept_memory(), world(MeshConfig()) as here:
        runs = [compare(seed, arguments, here) for seed in range(arguments.seeds)]
    losses = {
        name: {"step_0": [round(run[name][0], 3) for run in runs], "after": [round(run[name][1], 3) for run in runs]}
        for name in runs[0]
    }
    row = {"name": "fold_strategies", "unit": "nats per held-out byte, by seed", "losses": losses}
    print(json.dumps(row | {"dense_steps": arguments.dense_steps, "steps": arguments.steps}))


if __name__ == "__main__":
    main()
