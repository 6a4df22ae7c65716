"""Window attention in blocks against dense-mask scaled_dot_product_attention: S = 2048, W = 64, forward and backward.

Runs alternate; the best CPU seconds of each side count (process time, so a busy machine disturbs less). The argument
is the dtype: `window_attention_bf16` or `window_attention_fp32` (default). Both results are compared first.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from codeflow.kernels import cpu, reference

N_ROWS, LENGTH, N_HEADS, HEAD_DIM, WINDOW, ROUNDS, TARGET = 1, 2048, 4, 64, 64, 7, 4.0


def dense(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """The peer: torch's attention with the window as a dense mask."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None]).transpose(1, 2)


def step(attention: Callable[..., Tensor], inputs: list[Tensor], extra: object, upstream: Tensor) -> list[Tensor]:
    """Return the output and the gradients."""
    output = attention(*inputs, *extra) if isinstance(extra, tuple) else attention(*inputs, extra)
    return [output.detach(), *torch.autograd.grad(output, inputs, upstream)]


def main() -> None:
    """Print one JSON line."""
    name = sys.argv[1] if len(sys.argv) > 1 else "fp32"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    shape = (N_ROWS, LENGTH, N_HEADS, HEAD_DIM)
    *inputs, upstream = (torch.randn(shape, generator=generator).to(dtype) for _ in range(4))
    inputs = [x.requires_grad_() for x in inputs]
    visible = reference.mask(LENGTH, None, WINDOW, torch.device("cpu"))
    sides = {
        "ours": lambda: step(cpu.window_attention, inputs, (None, WINDOW), upstream),
        "peer": lambda: step(dense, inputs, visible, upstream),
    }
    difference = max(
        float((a - b).float().norm() / b.float().norm()) for a, b in zip(sides["ours"](), sides["peer"](), strict=True)
    )
    assert difference < (1e-5 if dtype == torch.float32 else 2e-2), difference
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(ROUNDS):
        for side, work in sides.items():
            started = time.process_time()
            work()
            best[side] = min(best[side], time.process_time() - started)
    ratio = best["peer"] / best["ours"]
    result = {
        "benchmark": "window_attention",
        "unit": "ms, forward and backward, one thread",
        "ours": round(best["ours"] * 1e3, 2),
        "peer": round(best["peer"] * 1e3, 2),
        "peer_name": "torch scaled_dot_product_attention, dense mask",
        "ratio": round(ratio, 2),
        "ratio_of": "seconds, peer / ours",
        "dtype": name,
        "shape": {"rows": N_ROWS, "length": LENGTH, "heads": N_HEADS, "head_dim": HEAD_DIM, "window": WINDOW},
        "largest_relative_difference": difference,
        "target": {"ratio_at_least": TARGET},
        "met": ratio >= TARGET,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
