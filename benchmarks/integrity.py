"""What the checks for silent errors cost a training step: 12.6 M matmul parameters, 4 rows of 512 tokens, one process.

    integrity [--precision fp32] [--threads N]

Three kinds of steps take turns: without checks, with every check, with its pass made again. The fastest of each counts.
The overhead is that of the default intervals: what a checked step costs more, divided by `every_steps`, and what a
repeated pass costs more, divided by `recompute_every_steps`, of a step without checks.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import torch

from benchmarks._transformers import SHAPE
from benchmarks.training_step import CONTEXT_TOKENS, DTYPES, ROWS, make_batch, make_trainee
from codeflow.parallel.config import IntegrityConfig, MeshConfig
from codeflow.parallel.integrity import Integrity, Watched
from codeflow.parallel.mesh import world
from codeflow.train.allocator import kept_memory
from codeflow.train.loop import train_step

DEFAULT = IntegrityConfig()
BOUND = 0.01
KINDS = {
    "plain": IntegrityConfig(every_steps=None, recompute_every_steps=None),
    "checked": IntegrityConfig(every_steps=1, recompute_every_steps=None),
    "again": IntegrityConfig(every_steps=None, recompute_every_steps=1),
}


def seconds_by_kind(precision: str, n_threads: int, rounds: int, folder: Path) -> dict[str, float]:
    """Return the fastest step of each kind; a looped model's second loop costs its checks nothing."""
    torch.set_num_threads(n_threads)
    torch.manual_seed(0)
    batch = make_batch()
    best = dict.fromkeys(KINDS, float("inf"))
    with kept_memory(), world(MeshConfig()) as here:
        trainee = make_trainee(SHAPE, precision, here, "muon")
        root, masters = trainee.objective, trainee.placed.masters
        watched = Watched(masters, trainee.optimizer.tensors, root, root.model.layers)
        watches = {kind: Integrity(config, watched, here, folder) for kind, config in KINDS.items()}
        trainees = {kind: dataclasses.replace(trainee, watch=watch) for kind, watch in watches.items()}
        for number in range(1, rounds + 2):
            for kind, watch in watches.items():
                watch.start(number - 1)
                started = time.perf_counter()
                watch.begin(number, 1)
                train_step(trainees[kind], [batch], 1.0, 1.0)
                if number > 1:  # the first round prepares kernels and memory
                    best[kind] = min(best[kind], time.perf_counter() - started)
    return best


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        best = seconds_by_kind(options.precision, options.threads, options.rounds, Path(folder))
    assert DEFAULT.every_steps
    assert DEFAULT.recompute_every_steps
    checked = best["checked"] / best["plain"] - 1
    again = best["again"] / best["plain"] - 1
    overhead = checked / DEFAULT.every_steps + again / DEFAULT.recompute_every_steps
    row = {
        "name": "integrity",
        "ours": round(overhead, 5),
        "unit": "of a step, at the default intervals",
        "bound": f"<= {BOUND}",
        "within_bound": overhead <= BOUND,
        "checked_step_costs_more": round(checked, 4),
        "step_with_a_pass_again_costs_more": round(again, 4),
        "step_seconds": round(best["plain"], 3),
        "precision": options.precision,
        "tokens": ROWS * CONTEXT_TOKENS,
        "n_threads": options.threads,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
