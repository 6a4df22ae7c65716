"""Window attention in blocks against dense-mask scaled_dot_product_attention: S = 2048, W = 64, forward and backward.

Beside it, under "gated", the gated operation of later loops against the same two attentions called one after the other
and mixed: time and the bytes that are kept for the backward. Runs alternate; the best CPU seconds of each side count.
The argument is the dtype: `window_attention_bf16` or `window_attention_fp32` (default). Results are compared first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks._alternate import best_cpu_seconds
from codeflow.kernels import cpu, reference
from codeflow.kernels.memory import saved_bytes

N_ROWS, LENGTH, N_HEADS, HEAD_DIM, WINDOW, ROUNDS, TARGET = 1, 2048, 4, 64, 64, 7, 4.0


def dense(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """The peer: torch's attention with the window as a dense mask."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None]).transpose(1, 2)


def composed(q: Tensor, k1: Tensor, v1: Tensor, k2: Tensor, v2: Tensor, gate_logits: Tensor) -> Tensor:
    """The gated operation as two attentions and a mix, whose gradients are autograd's."""
    local = cpu.window_attention(q, k2, v2, None, WINDOW)
    return reference.mix(cpu.causal_attention(q, k1, v1, None), local, gate_logits)


def fused(q: Tensor, k1: Tensor, v1: Tensor, k2: Tensor, v2: Tensor, gate_logits: Tensor) -> Tensor:
    """The gated operation."""
    return cpu.gated_attention(q, (k1, v1), (k2, v2), gate_logits, None, WINDOW)


def step(run: Callable[[], Tensor], inputs: list[Tensor], upstream: Tensor) -> list[Tensor]:
    """Return the output and the gradients."""
    output = run()
    return [output.detach(), *torch.autograd.grad(output, inputs, upstream)]


def largest_difference(left: list[Tensor], right: list[Tensor]) -> float:
    """Return the largest relative difference of two lists of tensors."""
    return max(float((a - b).float().norm() / b.float().norm()) for a, b in zip(left, right, strict=True))


def gated(dtype: torch.dtype, generator: torch.Generator, allowed: float) -> dict[str, Any]:
    """Compare the gated operation with its parts."""
    shapes = [(N_ROWS, LENGTH, N_HEADS, HEAD_DIM)] * 5 + [(N_ROWS, LENGTH, N_HEADS)]
    inputs = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]
    upstream = torch.randn(shapes[0], generator=generator).to(dtype)
    sides = {
        "ours": lambda: step(lambda: fused(*inputs), inputs, upstream),
        "composed": lambda: step(lambda: composed(*inputs), inputs, upstream),
    }
    difference = largest_difference(sides["ours"](), sides["composed"]())
    assert difference < allowed, difference
    best = best_cpu_seconds(sides, ROUNDS)
    return {
        "ours_ms": round(best["ours"] * 1e3, 2),
        "composed_ms": round(best["composed"] * 1e3, 2),
        "ratio": round(best["composed"] / best["ours"], 2),
        "ours_kept_bytes": saved_bytes(lambda: fused(*inputs), inputs),
        "composed_kept_bytes": saved_bytes(lambda: composed(*inputs), inputs),
        "one_output_bytes": upstream.numel() * upstream.element_size(),
        "largest_relative_difference": difference,
    }


def main() -> None:
    """Print one JSON line."""
    name = sys.argv[1] if len(sys.argv) > 1 else "fp32"
    dtype, allowed = {"fp32": (torch.float32, 1e-5), "bf16": (torch.bfloat16, 2e-2)}[name]
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    shape = (N_ROWS, LENGTH, N_HEADS, HEAD_DIM)
    *inputs, upstream = (torch.randn(shape, generator=generator).to(dtype) for _ in range(4))
    inputs = [x.requires_grad_() for x in inputs]
    visible = reference.mask(LENGTH, None, WINDOW, torch.device("cpu"))
    sides = {
        "ours": lambda: step(lambda: cpu.window_attention(*inputs, None, WINDOW), inputs, upstream),
        "peer": lambda: step(lambda: dense(*inputs, visible), inputs, upstream),
    }
    difference = largest_difference(sides["ours"](), sides["peer"]())
    assert difference < allowed, difference
    best = best_cpu_seconds(sides, ROUNDS)
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
        "gated": gated(dtype, generator, allowed),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
