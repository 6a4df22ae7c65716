"""Norm and SwiGLU between matrix products, with a backward of their own that needs their inputs alone.

torch's rms_norm keeps two fp32 copies of its input on a CPU, and silu(gate) * up keeps silu(gate) beside both. Here the
norm keeps its input, which the residual stream shares, and one number per token, as torch's fused norm does, which runs
elsewhere; SwiGLU keeps gate and up. On a CPU passes run over blocks that stay in its cache. Results have torch's bits,
the norm's gradients aside, whose sums are taken in another order.

Legend: N tokens, C hidden size, F intermediate size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import rms_norm as torch_rms_norm
from torch.nn.functional import silu

_BLOCK_ELEMENTS = 1 << 17  # of one tensor, about: 512 KiB in fp32
_STRIDE_ROWS = 64  # a block is a whole number of vector registers, so that its bits are those of one pass over all


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return x / rms(x) * weight over the last dim (..., C), computed in fp32 (fp64 for fp64); dtype of x."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():  # the compiler chooses by itself what is kept
        return torch_rms_norm(x, weight.shape, weight, epsilon)
    normed = _RMSNorm.apply(x, weight, epsilon)
    assert isinstance(normed, Tensor)
    return normed


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up, all (..., F)."""
    if torch.compiler.is_compiling():
        return silu(gate) * up
    grown = _SwiGLU.apply(gate, up)
    assert isinstance(grown, Tensor)
    return grown


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same rows of all tensors (..., X), on a CPU a few at a time, each as (n, X)."""
    if tensors[0].device.type != "cpu":
        yield tensors
        return
    n_rows = _STRIDE_ROWS * max(1, _BLOCK_ELEMENTS // tensors[0].shape[-1] // _STRIDE_ROWS)
    yield from zip(*(x.reshape(-1, x.shape[-1]).split(n_rows) for x in tensors), strict=True)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, weight, epsilon = inputs
        wide = torch.promote_types(x.dtype, torch.float32)
        normed = torch.empty_like(x, memory_format=torch.contiguous_format)
        factors = x.new_empty((*x.shape[:-1], 1), dtype=wide)
        for block, factor, out in _blocks(x, factors, normed):
            block = block.to(wide)
            torch.rsqrt(block.square().mean(-1, keepdim=True) + epsilon, out=factor)
            out.copy_((block * factor).mul_(weight))
        ctx.save_for_backward(x, weight, factors)
        return normed

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        x, weight, factors = ctx.saved_tensors
        d_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        d_weight = torch.zeros_like(weight, dtype=factors.dtype)
        for block, factor, gradient, out in _blocks(x, factors, gradients[0], d_x):
            unit = block * factor  # in fp32, as all that follows
            by_weight = unit * gradient
            d_weight += by_weight.sum(0)
            lost = by_weight.mul_(weight).mean(-1, keepdim=True)
            out.copy_((gradient * weight.to(factor.dtype)).sub_(unit.mul_(lost)).mul_(factor))
        return d_x, d_weight.to(weight.dtype), None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        ctx.save_for_backward(*inputs)
        grown = torch.empty_like(inputs[0], memory_format=torch.contiguous_format)
        for gate, up, out in _blocks(*inputs, grown):
            torch.mul(silu(gate), up, out=out)
        return grown

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor]:
        inputs = ctx.saved_tensors
        d_gate, d_up = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs)
        for gate, up, gradient, out_gate, out_up in _blocks(*inputs, gradients[0], d_gate, d_up):
            torch.mul(gradient, silu(gate), out=out_up)
            torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=out_gate)
        return d_gate, d_up
