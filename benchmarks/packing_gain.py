"""Useful tokens per second of one update: documents in packed rows against one document a row, padded.

    packing_gain_fp32 (default), packing_gain_bf16 [--documents N] [--context T] [--threads N]

Lengths are those of the standard library's modules (a token per four bytes), cut to the context: as many as there are
documents, at equal steps of their distribution, in an order that has nothing to do with them. Both sides train on the
same tokens with the same model and the same step. The padded side has batches of eight documents, each padded to the
batch's longest; its padding takes part in the layers and not in the loss. One layer, since a further one costs either
side the same; processor time, after a batch that does not count. Beside it the operations of the padded rows over those
of the documents alone: of what was timed, of all modules, and of all in a layer of width 5,120 at 8k and at 32k. That
is no strict bound: long rows leave the processor's cache.
"""

from __future__ import annotations

import argparse
import json
import random
import sysconfig
import time
from pathlib import Path

import numpy as np
import torch

from codeflow.model.config import ModelConfig
from codeflow.model.flops import training_flops
from codeflow.model.looped import LoopCoder
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.mesh import world
from codeflow.parallel.place import place
from codeflow.tokens.batch import DOCUMENT_START, LOSS, batch_from_rows
from codeflow.tokens.best_fit import best_fit_rows
from codeflow.train.allocator import kept_memory
from codeflow.train.config import OptimizerConfig
from codeflow.train.loop import Trainee, train_step
from codeflow.train.losses import NextToken, Objective, TensorBatch
from codeflow.train.optimizer import Optimizer

BATCH, TARGET, BYTES_PER_TOKEN = 8, 3.0, 4
VOCABULARY = 2048
WIDE = ModelConfig(  # one layer of a large model; its head is left out of the count, one layer would overrate it
    vocab_size=16,
    hidden_size=5120,
    intermediate_size=27_648,
    num_hidden_layers=1,
    num_attention_heads=40,
    num_key_value_heads=8,
    head_dim=128,
)


def lengths(n_documents: int | None, context_tokens: int) -> list[int]:
    """Return so many lengths in tokens at equal steps of all modules' (None: all), shuffled with a fixed seed."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in root.rglob("*.py") if "site-packages" not in path.parts]
    sizes = sorted(size for path in paths if (size := path.stat().st_size // BYTES_PER_TOKEN) > 1)
    if n_documents is not None:
        sizes = [sizes[int((i + 0.5) * len(sizes) / n_documents)] for i in range(n_documents)]
    random.Random(0).shuffle(sizes)
    return [min(size, context_tokens) for size in sizes]


def groups(sizes: list[int]) -> list[list[int]]:
    """Return the documents of each padded batch."""
    return [sizes[i : i + BATCH] for i in range(0, len(sizes), BATCH)]


def padded_work(sizes: list[int], shape: ModelConfig) -> float:
    """Return the operations of padded batches over those of the documents alone; the head runs on no padding."""
    head = 6 * shape.vocab_size * shape.hidden_size
    useful = sum(training_flops(shape, size) for size in sizes)
    spent = sum(len(part) * (training_flops(shape, max(part)) - head * max(part)) for part in groups(sizes))
    return (spent + head * sum(sizes)) / useful


def rows_of(documents: list[list[int]], length: int) -> TensorBatch:
    """Return rows of `length` with these document lengths; what is left over is padding."""
    ids = np.random.default_rng(0).integers(16, VOCABULARY, (len(documents), length), dtype=np.uint32)
    flags = np.zeros(ids.shape, np.uint8)
    for row, sizes in enumerate(documents):
        place = 0
        for size in sizes:
            flags[row, place : place + size] = LOSS
            flags[row, place] |= DOCUMENT_START
            place += size
    return TensorBatch.of(batch_from_rows(ids, flags))


def padded(sizes: list[int]) -> list[TensorBatch]:
    """Return batches of documents in this order, each as long as its longest."""
    return [rows_of([[size] for size in part], max(part)) for part in groups(sizes)]


def packed(sizes: list[int], context_tokens: int) -> list[TensorBatch]:
    """Return the same documents best-fit in rows of the context, one row a batch."""
    placed, n_rows = best_fit_rows(np.array(sizes, np.int64), context_tokens)
    rows = [[size for size, at in zip(sizes, placed.tolist(), strict=True) if at == row] for row in range(n_rows)]
    return [rows_of([row], context_tokens) for row in rows]


def seconds_of(sides: dict[str, list[TensorBatch]], shape: ModelConfig, dtype: torch.dtype) -> dict[str, float]:
    """Return the processor seconds that an update takes on each side's batches."""
    with kept_memory(), world(MeshConfig()) as here:
        model = LoopCoder(shape)
        objective = Objective(model, NextToken())
        placed = place(model, objective, model.layers, here.mesh, dtype)
        trainee = Trainee(objective, placed, Optimizer(placed.masters, OptimizerConfig(matrices="adamw"), dtype), here)
        found: dict[str, float] = {}
        train_step(trainee, sides["packed"][:1], 1.0, 1.0)
        for side, batches in sides.items():
            started = time.process_time()
            train_step(trainee, batches, 1.0, 1.0)
            found[side] = time.process_time() - started
    return found


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("precision", nargs="?", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.precision]
    sizes = lengths(arguments.documents, arguments.context)
    shape = ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=704,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=arguments.context,
    )
    sides = {"packed": packed(sizes, arguments.context), "padded": padded(sizes)}
    weights = {side: sum(batch.weight for batch in found) for side, found in sides.items()}
    assert weights["packed"] == weights["padded"], weights
    seconds = seconds_of(sides, shape, dtype)
    places = {side: sum(batch.ids.numel() for batch in found) for side, found in sides.items()}
    ratio, most = seconds["padded"] / seconds["packed"], padded_work(sizes, shape)
    row = {
        "name": f"packing_gain_{arguments.precision}",
        "ours": round(weights["packed"] / seconds["packed"]),
        "peer": round(weights["padded"] / seconds["padded"]),
        "peer_name": f"one document a row, {BATCH} rows padded to the longest, the same step",
        "ratio": round(ratio, 2),
        "unit": "useful tokens/s of processor time",
        "bound": f">= {TARGET} x the peer",
        "within_bound": ratio >= TARGET,
        "padded_operations_per_useful_one": round(most, 2),
        "of_that_reached": round(ratio / most, 2),
        "the_same_of_all_modules": round(padded_work(lengths(None, arguments.context), shape), 2),
        "of_all_in_a_wide_layer_8k": round(padded_work(lengths(None, 8192), WIDE), 2),
        "of_all_in_a_wide_layer_32k": round(padded_work(lengths(None, 32_768), WIDE), 2),
        "places_per_useful_token": {side: round(n / weights[side], 2) for side, n in places.items()},
        "documents": len(sizes),
        "context_tokens": arguments.context,
        "n_threads": arguments.threads,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
