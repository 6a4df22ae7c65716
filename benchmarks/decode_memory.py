"""Memory of a decode of 32k tokens: what the caches of the first and the second loop and the process hold on the way.

The tiny recipe's size with one key/value head, looped twice, window 64, fp32, one row, token by token in the continuous
batch. The caches' bytes are those of their tensors; "first loop, written" counts the blocks that hold tokens. What the
process takes in addition is its resident memory.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import torch

from benchmarks.generation import SIZES
from codeflow.model.batching import ContinuousBatch, Request
from codeflow.model.generate import GenerateSettings
from codeflow.model.kv_cache import BLOCK_TOKENS, blocks_of
from codeflow.model.looped import LoopCoder

N_TOKENS, N_PROMPT = 32768, 64
AT = (1024, 4096, 16384, N_TOKENS)
CHANGES = {"loop_num": 2, "loop_window_size": 64, "num_key_value_heads": 1, "max_position_embeddings": N_TOKENS}


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Print one JSON line."""
    torch.set_num_threads(1)
    config = SIZES["tiny"].model_copy(update=CHANGES)
    batch = ContinuousBatch(LoopCoder(config), 1)
    cache = batch.decoder.cache
    batch.submit(Request(list(range(16, 16 + N_PROMPT)), GenerateSettings(max_new_tokens=N_TOKENS)))
    points, n_tokens, started = [], N_PROMPT, time.process_time()
    while made := batch.step():
        n_tokens += len(made)
        if n_tokens in AT:
            point = {
                "tokens": n_tokens,
                "later_loop_bytes": cache.local_bytes,
                "first_loop_bytes_written": cache.global_bytes // cache.n_blocks * blocks_of(n_tokens),
                "resident_bytes": resident_bytes(),
                "cpu_seconds": round(time.process_time() - started, 1),
            }
            points.append(point)
    grown = points[-1]["resident_bytes"] - points[0]["resident_bytes"]
    written = points[-1]["first_loop_bytes_written"] - points[0]["first_loop_bytes_written"]
    slot = cache.global_bytes // cache.n_blocks // BLOCK_TOKENS  # what one token takes in one loop
    result = {
        "benchmark": "decode_memory",
        "points": points,
        "later_loop_tokens": cache.local_bytes / slot,
        "window": config.loop_window_size,
        "process_grew_by": grown,
        "first_loop_grew_by": written,
        "met": len({point["later_loop_bytes"] for point in points}) == 1
        and cache.local_bytes <= config.loop_window_size * slot,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
