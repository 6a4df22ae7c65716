"""A training step of L layers looped twice against one of our dense model with 2L layers: equal matrix products.

    loop_against_dense_fp32, loop_against_dense_bf16 [--threads N] [--rounds N]

The looped model attends once more per layer of its second loop (64 tokens) and mixes by gates; it has half the
parameters to update. Steps of both alternate in one process, so that both meet the same machine; the fastest of each
counts, by the wall clock and by processor time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks._transformers import SHAPE
from benchmarks.training_step import CONTEXT_TOKENS, ROWS, make_batch, make_trainee
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.mesh import world
from codeflow.train.allocator import kept_memory
from codeflow.train.loop import train_step

BOUND, WINDOW = 0.95, 64


def main() -> None:
    """Time both and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("precision", choices=["fp32", "bf16"], nargs="?", default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    half = {"num_hidden_layers": SHAPE["num_hidden_layers"] // 2, "loop_num": 2, "loop_window_size": WINDOW}
    shapes = {"looped": SHAPE | half, "dense": SHAPE}
    wall, processor = ({name: float("inf") for name in shapes} for _ in range(2))
    with kept_memory(), world(MeshConfig()) as here:
        trainees = {name: make_trainee(shape, arguments.precision, here, "adamw") for name, shape in shapes.items()}
        batch = make_batch()
        for i in range(arguments.rounds + 1):
            for name, trainee in trainees.items():
                started, used = time.perf_counter(), time.process_time()
                train_step(trainee, [batch], 1.0, 1.0)
                if i:  # the first step prepares kernels and memory
                    wall[name] = min(wall[name], time.perf_counter() - started)
                    processor[name] = min(processor[name], time.process_time() - used)
    n_tokens, ratio = ROWS * CONTEXT_TOKENS, wall["dense"] / wall["looped"]
    row = {
        "name": f"loop_against_dense_{arguments.precision}",
        "ours": round(n_tokens / wall["looped"]),
        "peer": round(n_tokens / wall["dense"]),
        "peer_name": "our dense model with twice the layers",
        "ratio": round(ratio, 3),
        "unit": "tokens/s",
        "bound": f">= {BOUND} x the dense model",
        "within_bound": ratio >= BOUND,
        "cpu_ratio": round(processor["dense"] / processor["looped"], 3),
        "n_threads": arguments.threads,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
