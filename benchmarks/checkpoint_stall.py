"""What a checkpoint takes from training: 12.6 M matmul parameters, one process, saved in the background.

    checkpoint_stall [--precision fp32] [--threads N]

Steps follow each other and a save begins after every third one. The stall is the time for which training waits in
`Saver.save` (fingerprints and one copy in memory; the first save also makes the copy's buffers and is told apart).
Beside it: the same save at once, the slowing of the two steps during which the thread works, and what a save writes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks._transformers import SHAPE
from benchmarks.training_step import CONTEXT_TOKENS, DTYPES, ROWS, make_batch, make_trainee
from codeflow.parallel import checkpoint
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.mesh import world
from codeflow.parallel.saver import Saver
from codeflow.train.allocator import kept_memory
from codeflow.train.loop import train_step

BOUND = 0.05
EVERY_STEPS = 3


def measure(precision: str, n_threads: int, n_saves: int, folder: Path) -> dict[str, float]:
    """Return the medians in seconds, and the bytes of a save."""
    torch.set_num_threads(n_threads)
    torch.manual_seed(0)
    batch = make_batch()
    undisturbed: list[float] = []
    disturbed: list[float] = []
    with kept_memory(), world(MeshConfig()) as here:
        trainee = make_trainee(SHAPE, precision, here, "adamw")

        def state() -> dict[str, torch.Tensor]:
            masters = {f"masters.{name}": master.detach() for name, master in trainee.placed.masters.items()}
            return masters | trainee.optimizer.tensors()

        def seconds_of_a_step() -> float:
            started = time.perf_counter()
            train_step(trainee, [batch], 1.0, 1.0)
            return time.perf_counter() - started

        seconds_of_a_step()
        started = time.perf_counter()
        checkpoint.save(folder / "at-once", 0, state(), {}, here)
        at_once = time.perf_counter() - started
        saver = Saver(here)
        for number in range(n_saves):
            undisturbed.append(seconds_of_a_step())
            saver.save(folder / f"step-{number}", number, state(), {})
            disturbed += [seconds_of_a_step() for _ in range(EVERY_STEPS - 1)]
            saver.wait()
        saver.close()
        n_bytes = sum(path.stat().st_size for path in (folder / "at-once").iterdir())
    return {
        "step": statistics.median(undisturbed),
        "step_beside_a_save": statistics.median(disturbed),
        "first_stall": saver.stall_seconds[0],
        "stall": statistics.median(saver.stall_seconds[1:]),
        "at_once": at_once,
        "n_bytes": n_bytes,
    }


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--saves", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.precision, options.threads, options.saves, Path(folder))
    stall = found["stall"] / found["step"]
    row = {
        "name": "checkpoint_stall",
        "ours": round(stall, 4),
        "unit": "of a step, per save",
        "bound": f"<= {BOUND}",
        "within_bound": stall <= BOUND,
        "stall_ms": round(1e3 * found["stall"], 1),
        "first_stall_ms": round(1e3 * found["first_stall"], 1),
        "save_at_once_ms": round(1e3 * found["at_once"], 1),
        "step_ms": round(1e3 * found["step"], 1),
        "step_beside_a_save_ms": round(1e3 * found["step_beside_a_save"], 1),
        "n_bytes": found["n_bytes"],
        "precision": options.precision,
        "tokens": ROWS * CONTEXT_TOKENS,
        "n_threads": options.threads,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
