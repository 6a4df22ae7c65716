"""A training step of a dense model with 12.6 M matmul parameters, rows of 512 tokens, against Hugging Face's Llama.

    training_step_fp32, training_step_bf16 [--threads N]

Ours is the whole step of `codeflow.train.loop`: chunked loss, clipping, fused AdamW over fp32 masters. The peer's is
Llama with sdpa attention, its own loss, clipping and fused AdamW on weights in the same precision. Both run in turn,
in processes of their own, each row one document; the fastest step of all rounds counts. Our step with Muon is beside.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any, Literal

import torch

from benchmarks._transformers import PEER, SHAPE, peer_python
from codeflow.model.config import ModelConfig
from codeflow.model.looped import LoopCoder
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.mesh import World, world
from codeflow.parallel.place import place
from codeflow.train.allocator import kept_memory
from codeflow.train.config import OptimizerConfig
from codeflow.train.loop import Trainee, train_step
from codeflow.train.losses import NextToken, Objective, TensorBatch
from codeflow.train.monitor import measured_peak_flops, training_flops_per_token
from codeflow.train.optimizer import Optimizer

ROWS, CONTEXT_TOKENS, STEPS, ROUNDS = 4, 512, 5, 3
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TARGETS = {"fp32": 1.0, "bf16": 1.15}


def make_batch() -> TensorBatch:
    """Return rows of random tokens, each row one document."""
    ids = torch.randint(16, SHAPE["vocab_size"], (ROWS, CONTEXT_TOKENS))
    positions = torch.arange(CONTEXT_TOKENS, dtype=torch.int32).repeat(ROWS, 1)
    return TensorBatch(ids, ids.roll(-1, 1), torch.ones(ids.shape), positions, torch.zeros_like(positions))


def make_trainee(shape: dict[str, Any], precision: str, here: World, matrices: Literal["muon", "adamw"]) -> Trainee:
    """Return a model of this shape, ready for a step."""
    model, dtype = LoopCoder(ModelConfig.model_validate(shape)), DTYPES[precision]
    objective = Objective(model, NextToken())
    placed = place(model, objective, model.layers, here.mesh, dtype)
    return Trainee(objective, placed, Optimizer(placed.masters, OptimizerConfig(matrices=matrices), dtype), here)


def ours(precision: str, n_threads: int, matrices: Literal["muon", "adamw"]) -> dict[str, float]:
    """Time our step in this process; return the fastest, with the measured peak and the step's operations."""
    torch.set_num_threads(n_threads)
    torch.manual_seed(0)
    batch = make_batch()
    best = {"seconds": float("inf"), "cpu_seconds": float("inf")}
    with kept_memory(), world(MeshConfig()) as here:
        trainee = make_trainee(SHAPE, precision, here, matrices)
        for _ in range(STEPS):
            started, cpu = time.perf_counter(), time.process_time()
            train_step(trainee, [batch], 1.0, 1.0)
            best["seconds"] = min(best["seconds"], time.perf_counter() - started)
            best["cpu_seconds"] = min(best["cpu_seconds"], time.process_time() - cpu)
    flops = training_flops_per_token(ModelConfig.model_validate(SHAPE), CONTEXT_TOKENS) * batch.ids.numel()
    return {**best, "peak": measured_peak_flops(DTYPES[precision]), "flops": flops}


def _run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PEER.parents[2])
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run both sides in turn and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("precision", choices=sorted(TARGETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only-ours", choices=["muon", "adamw"], help=argparse.SUPPRESS)  # what our rounds run
    arguments = parser.parse_args()
    if arguments.only_ours:
        print(json.dumps(ours(arguments.precision, arguments.threads, arguments.only_ours)))
        return
    python = peer_python()
    settings = {"rows": ROWS, "context_tokens": CONTEXT_TOKENS, "n_threads": arguments.threads, "steps": STEPS}
    settings |= {"dtype": {"fp32": "float32", "bf16": "bfloat16"}[arguments.precision], "model": SHAPE}
    # by the runner and not by this file: a script's own folder would come before the standard library
    own = [sys.executable, "-m", "benchmarks", f"training_step_{arguments.precision}"]
    own += ["--threads", str(arguments.threads), "--only-ours"]
    sides = [[*own, "adamw"], [str(python), str(PEER / "train_step.py"), json.dumps(settings)], [*own, "muon"]]
    rounds = [[_run(command) for command in sides] for _ in range(arguments.rounds)]
    seconds = [min(times["seconds"] for times in side) for side in zip(*rounds, strict=True)]
    cpu = [min(times["cpu_seconds"] for times in side) for side in zip(*rounds, strict=True)]
    peak, flops = max(mine["peak"] for mine, *_ in rounds), rounds[0][0]["flops"]
    n_tokens = ROWS * CONTEXT_TOKENS
    row = {
        "name": f"training_step_{arguments.precision}",
        "ours": round(n_tokens / seconds[0]),
        "peer": round(n_tokens / seconds[1]),
        "peer_name": "Hugging Face Llama, sdpa, eager, fused AdamW",
        "ratio": round(seconds[1] / seconds[0], 3),
        "unit": "tokens/s",
        "bound": f">= {TARGETS[arguments.precision]} x the peer",
        "within_bound": seconds[1] / seconds[0] >= TARGETS[arguments.precision],
        "mfu": round(flops / seconds[0] / peak, 3),
        "peer_mfu": round(flops / seconds[1] / peak, 3),
        "peak_gflops": round(peak / 1e9, 1),
        "cpu_ratio": round(cpu[1] / cpu[0], 3),
        "ours_with_muon": round(n_tokens / seconds[2]),
        "n_threads": arguments.threads,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
