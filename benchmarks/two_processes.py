"""Two processes of one thread against one of two threads, on the same update: the cost of parallel training.

    two_processes_fp32 (default), two_processes_bf16 [--rounds N]

The model of `training_step`, eight rows of 512 tokens an update. Two processes are replicas, or shards by FSDP2, of
four rows each (gloo). Sides run in turn, each in processes of its own; the fastest step counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks._transformers import SHAPE
from codeflow.model.config import ModelConfig
from codeflow.model.looped import LoopCoder
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.launch import launch
from codeflow.parallel.mesh import world
from codeflow.parallel.place import place
from codeflow.train.allocator import kept_memory
from codeflow.train.config import OptimizerConfig
from codeflow.train.loop import Trainee, train_step
from codeflow.train.losses import NextToken, Objective, TensorBatch
from codeflow.train.optimizer import Optimizer

ROWS, CONTEXT_TOKENS, STEPS, TARGET = 8, 512, 4, 0.9
SIDES = {"one": {}, "replicas": {"data": 2}, "shards": {"shard": 2}}


def work(mesh: dict[str, int], precision: str, n_threads: int) -> None:
    """Train some steps on this process; the first one prints the fastest's seconds."""
    torch.set_num_threads(n_threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    config = MeshConfig.model_validate(mesh)
    with kept_memory(), world(config) as here:
        model = LoopCoder(ModelConfig.model_validate(SHAPE))
        objective = Objective(model, NextToken())
        placed = place(model, objective, model.layers, here.mesh, dtype, config)
        optimizer = Optimizer(placed.masters, OptimizerConfig(matrices="adamw"), dtype)
        trainee = Trainee(objective, placed, optimizer, here)
        n_rows = ROWS // here.n_readers
        ids = torch.randint(16, SHAPE["vocab_size"], (n_rows, CONTEXT_TOKENS))
        positions = torch.arange(CONTEXT_TOKENS, dtype=torch.int32).repeat(n_rows, 1)
        batch = TensorBatch(ids, ids.roll(-1, 1), torch.ones(ids.shape), positions, torch.zeros_like(positions))
        best = float("inf")
        for _ in range(STEPS):
            here.barrier()
            started = time.perf_counter()
            train_step(trainee, [batch], 1.0, 1.0)
            here.barrier()
            best = min(best, time.perf_counter() - started)
        if here.is_first:
            print(json.dumps(best), flush=True)


def main() -> None:
    """Run all sides in turn and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("precision", nargs="?", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--side", choices=sorted(SIDES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        from benchmarks.two_processes import work as importable  # what a rank can import, unlike this script

        mesh = SIDES[arguments.side]
        if mesh:
            launch(MeshConfig.model_validate(mesh), importable, mesh, arguments.precision, 1)
        else:
            importable(mesh, arguments.precision, 2)
        return
    command = [sys.executable, "-m", "benchmarks", f"two_processes_{arguments.precision}", "--side"]
    seconds = dict.fromkeys(SIDES, float("inf"))
    for _ in range(arguments.rounds):
        for side in SIDES:
            root = Path(__file__).parents[1]
            done = subprocess.run([*command, side], capture_output=True, text=True, check=False, cwd=root)
            if done.returncode:
                sys.exit(done.stderr)
            seconds[side] = min(seconds[side], float(done.stdout.splitlines()[-1]))
    n_tokens = ROWS * CONTEXT_TOKENS
    ratio = seconds["one"] / seconds["replicas"]
    row = {
        "name": f"two_processes_{arguments.precision}",
        "ours": round(n_tokens / seconds["replicas"]),
        "peer": round(n_tokens / seconds["one"]),
        "peer_name": "one process with two threads",
        "ratio": round(ratio, 3),
        "unit": "tokens/s",
        "bound": f">= {TARGET} x one process",
        "within_bound": ratio >= TARGET,
        "shards": round(n_tokens / seconds["shards"]),
        "ratio_of_shards": round(seconds["one"] / seconds["shards"], 3),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
