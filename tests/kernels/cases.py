"""Inputs and packings for the tests of all back ends."""

from __future__ import annotations

import torch
from torch import Tensor

from codeflow.kernels.dispatch import gated_attention
from codeflow.kernels.documents import Documents

N_HEADS, N_KV_HEADS, HEAD_DIM = 4, 2, 8
NAMES = ("output", "q", "k1", "v1", "k2", "v2", "logits")


def starts(lengths: list[list[int]]) -> Tensor:
    """document_starts (B, T) of rows packed with documents of these lengths."""
    rows = []
    for row in lengths:
        begin, values = 0, []
        for length in row:
            values += [begin] * length
            begin += length
        rows.append(values)
    return torch.tensor(rows)


def packed(lengths: list[list[int]] | None, device: str = "cpu") -> Documents | None:
    """The layout of such rows."""
    return Documents.of(starts(lengths).to(device) if lengths else None)


def make_inputs(
    n_rows: int, length: int, seed: int = 0, head_dim: int = HEAD_DIM, elementwise: bool = False
) -> list[Tensor]:
    """q, k1, v1, k2, v2, gate logits in fp64, all wanting gradients."""
    generator = torch.Generator().manual_seed(seed)
    heads = [N_HEADS, *[N_KV_HEADS] * 4]
    shapes = [(n_rows, length, h, head_dim) for h in heads]
    shapes.append((n_rows, length, N_HEADS, head_dim) if elementwise else (n_rows, length, N_HEADS))
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def gated(inputs: list[Tensor], documents: Documents | None, window: int, backend: str, strict: bool = False) -> Tensor:
    """The gated operation on `make_inputs`."""
    q, k1, v1, k2, v2, logits = inputs
    return gated_attention(q, (k1, v1), (k2, v2), logits, documents, window, backend, strict)


def gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of a fixed weighted sum of it."""
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    return [output.detach(), *torch.autograd.grad(output, inputs, upstream)]


def cast(inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Fresh leaves in another dtype."""
    return [x.detach().to(dtype).requires_grad_() for x in inputs]


def relative(ours: Tensor, exact: Tensor) -> float:
    """Norm of the difference by the norm of the exact one."""
    return float(
        (ours.detach().double() - exact.detach().double()).norm() / exact.detach().double().norm().clamp_min(1e-12)
    )
