"""Products of bf16 matrices on a processor without bf16 instructions: made in fp32, and rounded once.

oneDNN makes them, too, from widened operands with sums in fp32, but at a quarter of the speed (2048 x 320 times
320 x 872 on AVX-512, one thread: 30 GFLOP/s against 142 in fp32), so a pass that widens the operands pays for itself
many times. What is kept for the backward pass, and its memory, stays in bf16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from codeflow.core.processor import multiplies_bf16

_BLOCK = 4096  # rows or columns that are widened at one time
_SLOW_BF16 = not multiplies_bf16()


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the precision in which products of such a tensor are made: its own, or fp32."""
    return torch.float32 if _SLOW_BF16 and x.dtype == torch.bfloat16 and x.device.type == "cpu" else x.dtype


def product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Return left (N, I) @ right (I, O) in their dtype, in `out` if given; what is widened at one time is a part."""
    found = left.new_empty(left.shape[0], right.shape[1]) if out is None else out
    if product_dtype(left) == left.dtype:
        return torch.mm(left, right, out=found)
    for columns, into in zip(right.split(_BLOCK, 1), found.split(_BLOCK, 1), strict=True):
        total = torch.zeros(into.shape)
        for part, rows in zip(left.split(_BLOCK, 1), columns.split(_BLOCK), strict=True):
            total.addmm_(part.float(), rows.float())
        into.copy_(total)
    return found


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left (N, I) @ right (I, O) to `total` (N, O), which is fp32 for bf16 operands."""
    if product_dtype(left) == left.dtype:
        total += left @ right
    else:
        total.addmm_(left.float(), right.float())


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Return x (..., I) @ weight (O, I).T in the dtype of x, with gradients in theirs."""
    if product_dtype(x) == x.dtype:
        return torch.nn.functional.linear(x, weight)
    product = _WideLinear.apply(x, weight)
    assert isinstance(product, Tensor)
    return product


class _WideLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        x, weight = inputs
        ctx.save_for_backward(x, weight)
        return torch.nn.functional.linear(x.float(), weight.float()).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        d_product = gradients[0].float()
        d_x = (d_product @ weight.float()).to(x.dtype) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return d_x, None
        return d_x, (d_product.flatten(0, -2).T @ x.float().flatten(0, -2)).to(weight.dtype)
