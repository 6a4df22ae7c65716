"""Rotary position embeddings in the rotate-half form of public checkpoints.

Legend: B rows, T positions, H heads, D head dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rotation(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, each (B or 1, T, 1, D / 2), for integer `positions` (B or 1, T).

    Angles are taken in fp64 for fp64 models and in fp32 otherwise, then rounded to `dtype`.
    """
    wide = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=wide) / head_dim
    angles = positions[..., None].to(wide) / theta**exponents
    return angles.cos()[:, :, None].to(dtype), angles.sin()[:, :, None].to(dtype)


Rotation = tuple[Tensor, Tensor]


class _Rotate(torch.autograd.Function):
    """The turn is linear and orthogonal, so its backward is the turn by the opposite angle; no activation is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _turn(x, cosine, sine)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _turn(gradients[0], cosine, -sine), None, None


def _turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn x (B, T, H, D) by `turn` = rotation(...): pair d with d + D / 2."""
    result = _Rotate.apply(x, *turn)
    assert isinstance(result, Tensor)
    return result
