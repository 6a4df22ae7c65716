"""Loading batches: tokens per second of the pure loader, and the time to the first batch at a random step.

The peer is the usual way: a shuffled list of rows and masks built row by row; it must also walk to the step on resume.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np

from codeflow.core.storage import write_text
from codeflow.tokens.batch import DOCUMENT_START, LOSS
from codeflow.tokens.loader import Loader, LoaderPlan
from codeflow.tokens.token_shard import INDEX, SetIndex, ShardIndex, TokenIndex, TokenSet

CONTEXT, ROWS_PER_SET, BATCH_ROWS, STEPS, PEER_STEPS, ROUNDS = 2048, 4096, 64, 100, 20, 3
TARGET_TOKENS_PER_SECOND, TARGET_RESUME_SECONDS = 50e6, 0.1
WEIGHTS = {"code": 0.6, "general": 0.3, "fim": 0.1}


def write_sets(folder: Path) -> None:
    """Write rows of random tokens with documents of about 300 tokens."""
    numbers = np.random.default_rng(0)
    sets = {}
    for name in WEIGHTS:
        ids = numbers.integers(16, 8192, (ROWS_PER_SET, CONTEXT), dtype=np.uint32)
        flags = np.full(ids.shape, LOSS, np.uint8)
        starts = numbers.random(ids.shape) < 1 / 300
        starts[:, 0] = True
        flags[starts] = DOCUMENT_START
        ids.tofile(folder / f"{name}-00000.ids.bin")
        flags.tofile(folder / f"{name}-00000.flags.bin")
        sets[name] = SetIndex(
            n_rows=ROWS_PER_SET,
            n_tokens=ids.size,
            n_documents=int(starts.sum()),
            n_cut_documents=0,
            n_pieces=int(starts.sum()),
            n_loss_tokens=int((~starts).sum()),
            fill=1.0,
            token_multiset_hash="0" * 16,
            shards=(ShardIndex(name=f"{name}-00000", n_rows=ROWS_PER_SET),),
        )
    index = TokenIndex(context_tokens=CONTEXT, vocab_size=8192, tokenizer_fingerprint="none", sets=sets)
    write_text(folder / INDEX, index.model_dump_json())


def throughput(plan: LoaderPlan, folder: Path, steps: int) -> float:
    """Return tokens per second over consecutive steps, the best of some rounds."""
    loader = Loader(plan, folder)
    for step in range(STEPS):  # the page cache is warm for both sides
        loader.batch(step)
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for step in range(steps):
            loader.batch(step)
        best = min(best, time.perf_counter() - started)
    return steps * plan.batch_rows * plan.context_tokens / best


def resume_seconds(plan: LoaderPlan, folder: Path) -> float:
    """Return the longest time from nothing to the batch of a random step."""
    worst = 0.0
    for step in np.random.default_rng(2).integers(0, 10**9, 10).tolist():
        started = time.perf_counter()
        Loader(plan, folder).batch(step)
        worst = max(worst, time.perf_counter() - started)
    return worst


def peer(folder: Path) -> float:
    """Return tokens per second of a loop over rows with the same five arrays."""
    sets = {name: TokenSet(folder, name) for name in WEIGHTS}
    numbers = np.random.default_rng(3)
    started = time.perf_counter()
    for _ in range(PEER_STEPS):
        rows = []
        for name in numbers.choice(list(WEIGHTS), BATCH_ROWS, p=list(WEIGHTS.values())):
            (ids,), (flags,) = sets[name].rows(numbers.integers(0, ROWS_PER_SET, 1))
            starts = np.flatnonzero(flags & DOCUMENT_START)
            ends = np.append(starts[1:], CONTEXT)
            positions = np.concatenate([np.arange(end - start) for start, end in zip(starts, ends, strict=True)])
            of_start = np.concatenate([np.full(end - start, start) for start, end in zip(starts, ends, strict=True)])
            targets = np.append(ids[1:], ids[-1]).astype(np.int64)
            weights = np.append((flags[1:] & LOSS) > 0, False).astype(np.float32)
            row = (ids.astype(np.int64), targets, weights, positions.astype(np.int32), of_start.astype(np.int32))
            rows.append(row)
        _ = [np.stack(column) for column in zip(*rows, strict=True)]
    return PEER_STEPS * BATCH_ROWS * CONTEXT / (time.perf_counter() - started)


def main() -> None:
    """Measure large and small batches, and resume."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sets(folder)
        plan = LoaderPlan(weights=dict(WEIGHTS), batch_rows=BATCH_ROWS, context_tokens=CONTEXT)
        ours = throughput(plan, folder, STEPS)
        small = throughput(LoaderPlan(weights=dict(WEIGHTS), batch_rows=8, context_tokens=CONTEXT), folder, STEPS)
        resume = resume_seconds(plan, folder)
        theirs = max(peer(folder) for _ in range(ROUNDS))
    row = {
        "name": "loader",
        "ours": round(ours / 1e6, 1),
        "peer": round(theirs / 1e6, 1),
        "peer_name": "a loop over rows in numpy, random access",
        "ratio": round(ours / theirs, 2),
        "unit": "M tokens/s",
        "bound": f">= {TARGET_TOKENS_PER_SECOND / 1e6:g} M tokens/s, resume <= {TARGET_RESUME_SECONDS} s",
        "within_bound": ours >= TARGET_TOKENS_PER_SECOND and resume <= TARGET_RESUME_SECONDS,
        "resume_seconds": round(resume, 4),
        "batch_of_8_rows": round(small / 1e6, 1),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
