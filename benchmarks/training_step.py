"""A training step of a dense model with 12.6 M matmul parameters, rows of 512 tokens, against three peers.

    training_step_fp32, training_step_bf16 [--threads N] [--rounds N] [--modes eager,compiled]

Peers: Llama of Hugging Face's transformers, GPT of nanochat, Llama 3 of torchtitan with an adapter to torch's own
attention on the CPU; each with its own loss, on the same shape, vocabulary and number of tokens (nanochat's two-matrix
MLP makes 1.1 % fewer parameters; every side says how many it has). All clip the gradient to norm 1 and take torch's
fused AdamW. transformers and torchtitan keep weights in the step's precision, nanochat and ours fp32 masters. Ours is
the whole step of `codeflow.train.loop`, each row one document; with Muon it is beside, not compared.

Every side is a process of its own that makes a step when told to. A first step, which compiles, is not counted; then
sides take turns, step by step; the fastest counts. `compiled`: blocks by our field `compile=blocks`, torchtitan's by
its own way, transformers' and nanochat's models whole. MFU is each side's own arithmetic over the fastest matrix
product of that precision measured between the rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks._peers import PEERS, environment, nanochat_source
from benchmarks._transformers import SHAPE
from codeflow.model.config import Compilation, ModelConfig
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

ROWS, CONTEXT_TOKENS, ROUNDS = 4, 512, 5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TARGETS = {"fp32": 1.0, "bf16": 1.15}
NAMES = {"transformers": "Hugging Face Llama", "nanochat": "nanochat GPT", "torchtitan": "torchtitan Llama 3"}
OWN = ("ours", "ours_with_muon")


def make_batch() -> TensorBatch:
    """Return rows of random tokens, each row one document."""
    ids = torch.randint(16, SHAPE["vocab_size"], (ROWS, CONTEXT_TOKENS))
    positions = torch.arange(CONTEXT_TOKENS, dtype=torch.int32).repeat(ROWS, 1)
    return TensorBatch(ids, ids.roll(-1, 1), torch.ones(ids.shape), positions, torch.zeros_like(positions))


def make_trainee(
    shape: dict[str, Any],
    precision: str,
    here: World,
    matrices: Literal["muon", "adamw"],
    compilation: Compilation = "none",
) -> Trainee:
    """Return a model of this shape, ready for a step."""
    model, dtype = LoopCoder(ModelConfig.model_validate(shape)), DTYPES[precision]
    objective = Objective(model, NextToken())
    placed = place(model, objective, model.layers, here.mesh, dtype, compilation=compilation)
    return Trainee(objective, placed, Optimizer(placed.masters, OptimizerConfig(matrices=matrices), dtype), here)


def ours(precision: str, n_threads: int, matrices: Literal["muon", "adamw"], compilation: Compilation) -> None:
    """Be one side: say what it is, then make a step for each line read and print its times."""
    torch.set_num_threads(n_threads)
    torch.manual_seed(0)
    batch = make_batch()
    with kept_memory(), world(MeshConfig()) as here:
        trainee = make_trainee(SHAPE, precision, here, matrices, compilation)
        named = trainee.placed.masters.items()
        matrix_sizes = [p.numel() for name, p in named if p.dim() == 2 and "embed_tokens" not in name]
        print(json.dumps({"n_matmul_parameters": sum(matrix_sizes)}), flush=True)
        for _ in sys.stdin:
            started, cpu = time.perf_counter(), time.process_time()
            report = train_step(trainee, [batch], 1.0, 1.0)
            times = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
            print(json.dumps({**times, "loss": report.loss, "without_gradient": []}), flush=True)


class Side:
    """A process that makes a step when told to."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name, self.steps = name, list[dict[str, Any]]()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PEERS.parents[1]
        )
        self.n_matmul_parameters = int(self._answer()["n_matmul_parameters"])

    def step(self) -> None:
        """Have a step made. Ends the benchmark for a step that is none: no finite loss, or weights left out."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        found = self._answer()
        if not found["loss"] < 100 or found["without_gradient"]:
            sys.exit(f"{self.name} made no training step: {found}")
        self.steps.append(found)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} has ended; its words are above")
        return json.loads(line)

    def best(self, measure: str = "seconds") -> float:
        """Return the fastest step, without the first."""
        return min(step[measure] for step in self.steps[1:])

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def commands(precision: str, n_threads: int, compiled: bool) -> dict[str, list[str]]:
    """Return the command of every side."""
    settings: dict[str, Any] = {"rows": ROWS, "context_tokens": CONTEXT_TOKENS, "n_threads": n_threads}
    settings |= {"dtype": {"fp32": "float32", "bf16": "bfloat16"}[precision], "model": SHAPE, "compiled": compiled}
    pythons: dict[str, Path] = {
        "transformers": environment("transformers"),
        "nanochat": environment("nanochat"),
        "torchtitan": environment("torchtitan", alone=["torchtitan==0.3.0"]),
    }
    settings["source"] = str(nanochat_source())
    # by the runner and not by this file: a script's own folder would come before the standard library
    own = [sys.executable, "-m", "benchmarks", f"training_step_{precision}", "--threads", str(n_threads)]
    own += ["--modes", "compiled" if compiled else "eager", "--side"]
    found = {"ours": [*own, "adamw"], "ours_with_muon": [*own, "muon"]}
    if compiled:
        del found["ours_with_muon"]
    for peer, python in pythons.items():
        found[peer] = [str(python), str(PEERS / peer / "train_step.py"), json.dumps(settings)]
    return found


def measure(precision: str, n_threads: int, rounds: int, compiled: bool) -> dict[str, Any]:
    """Return the row of one mode."""
    torch.set_num_threads(n_threads)
    sides: list[Side] = []
    peak = 0.0
    try:
        for name, command in commands(precision, n_threads, compiled).items():
            sides.append(Side(name, command))
            sides[-1].step()
        for _ in range(rounds):
            peak = max(peak, measured_peak_flops(DTYPES[precision]))
            for side in sides:
                side.step()
    finally:
        for side in sides:
            side.stop()
    return _row({side.name: side for side in sides}, peak)


def _row(sides: Mapping[str, Side], peak: float) -> dict[str, Any]:
    mine, flops = sides["ours"], training_flops_per_token(ModelConfig.model_validate(SHAPE), CONTEXT_TOKENS)
    peers = {}
    for name, side in sides.items():
        own_flops = flops + 6 * (side.n_matmul_parameters - mine.n_matmul_parameters)
        rate = ROWS * CONTEXT_TOKENS / side.best()
        row: dict[str, Any] = {"tokens_per_second": round(rate), "mfu": round(rate * own_flops / peak, 3)}
        row |= {"matmul_parameters": side.n_matmul_parameters, "first_step_seconds": round(side.steps[0]["seconds"], 1)}
        if name not in OWN:
            row["name"] = NAMES[name]
            row["ratio"] = round(side.best() / mine.best(), 3)
            row["cpu_ratio"] = round(side.best("cpu_seconds") / mine.best("cpu_seconds"), 3)
        peers[name] = row
    return {**peers, "peak_gflops": round(peak / 1e9, 1)}


def main() -> None:
    """Run all sides in turn and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("precision", choices=sorted(TARGETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--modes", default="eager,compiled")
    parser.add_argument("--side", choices=["muon", "adamw"], help=argparse.SUPPRESS)  # what our own process runs
    arguments = parser.parse_args()
    modes = arguments.modes.split(",")
    if set(modes) - {"eager", "compiled"}:
        parser.error(f"--modes {arguments.modes}: name eager, compiled, or both")
    if arguments.side:
        ours(arguments.precision, arguments.threads, arguments.side, "blocks" if "compiled" in modes else "none")
        return
    found = {
        mode: measure(arguments.precision, arguments.threads, arguments.rounds, mode == "compiled") for mode in modes
    }
    closest = {mode: min((row[peer]["ratio"], peer) for peer in NAMES) for mode, row in found.items()}
    mode = min(closest, key=lambda mode: closest[mode])
    ratio, peer = closest[mode]
    row = {
        "name": f"training_step_{arguments.precision}",
        "ours": found[mode]["ours"]["tokens_per_second"],
        "peer": found[mode][peer]["tokens_per_second"],
        "peer_name": f"{NAMES[peer]}, {mode}, the best of three" + (" in the worse of two modes" * (len(modes) > 1)),
        "ratio": ratio,
        "unit": "tokens/s",
        "bound": f">= {TARGETS[arguments.precision]} x the best peer",
        "within_bound": ratio >= TARGETS[arguments.precision],
        **found,
        "n_threads": arguments.threads,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
