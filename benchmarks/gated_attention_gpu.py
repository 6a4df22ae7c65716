"""On a GPU: the fused Triton operation against a pair of FlexAttention calls and a gate, forward and backward.

bf16, 40 query and 8 key/value heads, D = 128, window 64, one row of 4k, 8k and 32k positions. Time is the median of
several runs by CUDA events, memory the peak above what the inputs hold. One JSON line per length; needs a GPU and says
so where there is none. FlexAttention is compiled, with a block mask per attention made before the clock starts.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor

LENGTHS, N_HEADS, N_KV_HEADS, HEAD_DIM, WINDOW, RUNS = (4096, 8192, 32768), 40, 8, 128, 64, 10


def make_pair(length: int) -> Callable[..., Tensor]:
    """Return the peer for this length: two compiled FlexAttention calls and a gate."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def causal(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return i >= j

    def window(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & (i - j < WINDOW)

    masks = [create_block_mask(seen, None, None, length, length, device="cuda") for seen in (causal, window)]

    @torch.compile
    def pair(q: Tensor, k1: Tensor, v1: Tensor, k2: Tensor, v2: Tensor, gate_logits: Tensor) -> Tensor:
        q, k1, v1, k2, v2 = (x.transpose(1, 2) for x in (q, k1, v1, k2, v2))
        whole = flex_attention(q, k1, v1, block_mask=masks[0], enable_gqa=True)
        local = flex_attention(q, k2, v2, block_mask=masks[1], enable_gqa=True)
        gate = gate_logits.float().sigmoid().transpose(1, 2)[..., None]
        return (gate * whole + (1 - gate) * local).to(q.dtype).transpose(1, 2)

    return pair


def fused(q: Tensor, k1: Tensor, v1: Tensor, k2: Tensor, v2: Tensor, gate_logits: Tensor) -> Tensor:
    """Ours."""
    from codeflow.kernels.triton_fused import gated_attention

    return gated_attention(q, (k1, v1), (k2, v2), gate_logits, None, WINDOW)


def measure(run: Callable[..., Tensor], inputs: list[Tensor], upstream: Tensor) -> dict[str, float]:
    """Return median milliseconds of forward and backward, and the peak of memory above the inputs, in MiB."""
    torch.autograd.grad(run(*inputs), inputs, upstream)  # compiles and tunes
    torch.cuda.synchronize()
    forward, backward, held = [], [], torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(RUNS):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        events[0].record()
        output = run(*inputs)
        events[1].record()
        torch.autograd.grad(output, inputs, upstream)
        events[2].record()
        torch.cuda.synchronize()
        del output
        forward.append(events[0].elapsed_time(events[1]))
        backward.append(events[1].elapsed_time(events[2]))
    peak = torch.cuda.max_memory_allocated() - held
    median = statistics.median
    return {"forward_ms": median(forward), "backward_ms": median(backward), "peak_mib": peak / 2**20}


def main() -> None:
    """Print one JSON line per length."""
    if not torch.cuda.is_available():
        sys.exit("gated_attention_gpu needs a CUDA GPU and Triton; there is no GPU here, so nothing was measured")
    import triton

    generator = torch.Generator("cuda").manual_seed(0)
    for length in LENGTHS:
        heads = [N_HEADS, *[N_KV_HEADS] * 4]
        shapes = [*((1, length, n, HEAD_DIM) for n in heads), (1, length, N_HEADS)]
        inputs = [
            torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16).requires_grad_()
            for shape in shapes
        ]
        upstream = torch.randn(shapes[0], generator=generator, device="cuda", dtype=torch.bfloat16)
        pair = make_pair(length)
        difference = float((fused(*inputs) - pair(*inputs)).float().norm() / pair(*inputs).float().norm())
        assert difference < 2e-2, difference
        ours, peer = measure(fused, inputs, upstream), measure(pair, inputs, upstream)
        total = [side["forward_ms"] + side["backward_ms"] for side in (ours, peer)]
        row = {
            "benchmark": "gated_attention_gpu",
            "length": length,
            "ours": ours,
            "peer": peer,
            "peer_name": "two FlexAttention calls and a gate, torch.compile",
            "ratio": total[1] / total[0],
            "ratio_of": "seconds of forward and backward, peer / ours",
            "bound": ">= 1.0",
            "within_bound": total[1] >= total[0],
            "device": torch.cuda.get_device_name(),
            "versions": {"torch": torch.__version__, "triton": triton.__version__},
        }
        print(json.dumps(row))


if __name__ == "__main__":
    main()
