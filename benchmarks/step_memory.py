"""Peak memory of training steps at a vocabulary of 76,800 and rows of 2,048 tokens, against Hugging Face's Trainer.

    step_memory_bf16 (default), step_memory_fp32

A Llama-shaped model with 8 layers of width 320 on both sides, two steps of one row; each side in a process of its own,
whose peak resident memory counts, libraries included. Ours has fp32 masters and AdamW beside its working copy, as the
Trainer has, and keeps freed memory, as a phase does; its loss makes the logits in chunks. What both libraries take
before a model exists is printed beside, and the least that ours could take: that, and weights, masters, gradients and
moments, without activations and without a loss. `sparing` is ours with the field `spare_memory`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks._transformers import PEER, SHAPE, peer_python

ROWS, CONTEXT_TOKENS, STEPS, TARGET = 1, 2048, 2, 0.5
MODEL = {**SHAPE, "vocab_size": 76_800, "max_position_embeddings": CONTEXT_TOKENS}


def ours(precision: str, spare: bool) -> dict[str, int]:
    """Train in this process and return its peak memory."""
    from codeflow.core.freed_memory import sparing
    from codeflow.model.config import ModelConfig
    from codeflow.model.looped import LoopCoder
    from codeflow.parallel.config import MeshConfig
    from codeflow.parallel.mesh import world
    from codeflow.parallel.place import place
    from codeflow.train.allocator import kept_memory
    from codeflow.train.config import OptimizerConfig
    from codeflow.train.loop import Trainee, train_step
    from codeflow.train.losses import NextToken, Objective, TensorBatch
    from codeflow.train.optimizer import Optimizer

    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    with kept_memory(), sparing(spare), world(MeshConfig()) as here:
        model = LoopCoder(ModelConfig.model_validate(MODEL))
        objective = Objective(model, NextToken())
        placed = place(model, objective, model.layers, here.mesh, dtype)
        optimizer = Optimizer(placed.masters, OptimizerConfig(matrices="adamw"), dtype)
        trainee = Trainee(objective, placed, optimizer, here)
        ids = torch.randint(16, MODEL["vocab_size"], (ROWS, CONTEXT_TOKENS))
        positions = torch.arange(CONTEXT_TOKENS, dtype=torch.int32).repeat(ROWS, 1)
        batch = TensorBatch(ids, ids.roll(-1, 1), torch.ones(ids.shape), positions, torch.zeros_like(positions))
        for _ in range(STEPS):
            train_step(trainee, [batch], 1.0, 1.0)
        masters = sum(master.nbytes for master in placed.masters.values())
        working = sum(p.nbytes for p in model.parameters()) if dtype != torch.float32 else 0  # in fp32 they are one
        state = 2 * masters + working + sum(tensor.nbytes for tensor in optimizer.tensors().values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_bytes": 1024 * peak, "before_bytes": 1024 * before, "state_bytes": state}


def _run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run both sides and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("precision", nargs="?", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--only-ours", choices=["default", "sparing"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_ours:
        print(json.dumps(ours(arguments.precision, arguments.only_ours == "sparing")))
        return
    settings = {"rows": ROWS, "context_tokens": CONTEXT_TOKENS, "n_threads": 1, "steps": STEPS, "model": MODEL}
    settings |= {"dtype": {"fp32": "float32", "bf16": "bfloat16"}[arguments.precision]}
    python = str(peer_python("requirements-trainer"))
    own = [sys.executable, "-m", "benchmarks", f"step_memory_{arguments.precision}", "--only-ours"]
    mine, sparing = (_run([*own, how]) for how in ("default", "sparing"))
    peer = _run([python, str(PEER / "trainer_memory.py"), json.dumps(settings)])
    least = mine["before_bytes"] + mine["state_bytes"]
    ratio = mine["peak_bytes"] / peer["peak_bytes"]
    row = {
        "name": f"step_memory_{arguments.precision}",
        "ours": round(mine["peak_bytes"] / 2**20),
        "peer": round(peer["peak_bytes"] / 2**20),
        "peer_name": "Hugging Face Llama by Trainer, sdpa",
        "ratio": round(ratio, 3),
        "ours_sparing": round(sparing["peak_bytes"] / 2**20),
        "ratio_sparing": round(sparing["peak_bytes"] / peer["peak_bytes"], 3),
        "unit": "MiB of peak resident memory",
        "bound": f"<= {TARGET} x the peer",
        "within_bound": ratio <= TARGET,
        "ours_before_mib": round(mine["before_bytes"] / 2**20),
        "peer_before_mib": round(peer["before_bytes"] / 2**20),
        "least_mib": round(least / 2**20),
        "least_to_ours": round(least / mine["peak_bytes"], 3),
        "least_to_sparing": round(least / sparing["peak_bytes"], 3),
        "least_to_peer": round(least / peer["peak_bytes"], 3),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
