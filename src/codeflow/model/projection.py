"""Matrices that map one vector to another; no bias."""

from __future__ import annotations

from torch import Tensor, nn

from codeflow.kernels.wide import linear


class Projection(nn.Linear):
    """x @ weight.T, by the quickest product of this machine."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map (..., inputs) to (..., outputs)."""
        return linear(x, self.weight)
