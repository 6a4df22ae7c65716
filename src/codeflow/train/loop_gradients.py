"""What each loop sends back: the norm of its contribution to the shared weights' gradient, reported and bounded.

Training a looped model from scratch is unstable because gradients grow through the unrolled loops (LoopCoder §3); the
paper's remedy is to watch and bound each iteration. The gradient of a shared weight is the sum of one contribution per
loop. Those of the later loops are kept apart here, in fp32, over all micro-batches and processes, and added to the
masters' gradients at the end of the step, scaled where they exceed the bound; what remains is the first loop's.

Costs one fp32 gradient of the layers for each later loop, on each process.

Gates belong to the later loops alone; their gradients are neither measured nor bounded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codeflow.parallel.mesh import World
from codeflow.parallel.place import laid_out_like, total_norm, whole


@dataclass(frozen=True)
class LoopReport:
    """Norms of one step, equal on every process. Index 0 is the first loop; `border_norms[0]` is between 1 and 2."""

    norms: tuple[float, ...]  # of each loop's contribution, before bounding
    border_norms: tuple[float, ...]  # of the loss's gradient by the hidden states that enter each later loop
    factors: tuple[float, ...]  # what each contribution was multiplied with

    def values(self) -> dict[str, float]:
        """Return the report as one row of metrics; factors only where one is below 1."""
        row = {f"loop_{i}": norm for i, norm in enumerate(self.norms, start=1)}
        row |= {f"border_{i}_{i + 1}": norm for i, norm in enumerate(self.border_norms, start=1)}
        return row | {f"factor_{i}": factor for i, factor in enumerate(self.factors, start=1) if factor < 1}


class LoopGradients:
    """Keeps the loops' contributions of one step apart. Give it to a model as its `loop_tap`."""

    def __init__(self, n_loops: int, bound: float | None = None) -> None:
        """`bound`: largest norm of a loop's contribution; None: report only."""
        self._n_loops, self._bound = n_loops, bound
        self._clear()

    def _clear(self) -> None:
        self._parts: list[dict[str, Tensor]] = [{} for _ in range(self._n_loops - 1)]
        self._squares = [0.0] * (self._n_loops - 1)

    def weight(self, loop: int, name: str, weight: Tensor) -> Tensor:
        """Return `weight` such that `loop`'s gradient comes here and not to it."""
        if not weight.requires_grad:
            return weight
        diverted = _Divert.apply(weight, self._parts[loop - 1], name)
        assert isinstance(diverted, Tensor)
        return diverted

    def border(self, loop: int, gradient: Tensor) -> None:
        """Count the gradient (B, T, C) by the hidden states that enter `loop`."""
        self._squares[loop - 1] += float(gradient.float().square().sum())

    @torch.no_grad()
    def settle(self, masters: Mapping[str, nn.Parameter], world: World) -> LoopReport:
        """Add all contributions to the masters' gradients and forget them. Every process calls it, after its passes."""
        shared = [name for name in masters if name in self._parts[0]]
        grads = [masters[name].grad for name in shared]
        first = [grad for grad in grads if grad is not None]
        later = [[_reduced(part[name], masters[name], world) for name in shared] for part in self._parts]
        contributions = [first, *later]
        norms = tuple(total_norm(tensors).item() for tensors in contributions)
        factors = tuple(min(1.0, self._bound / norm) if self._bound and norm > 0 else 1.0 for norm in norms)
        for tensors, factor in zip(contributions, factors, strict=True):
            for tensor in tensors if factor != 1.0 else ():
                tensor.mul_(factor)
        for part in later:
            for name, contribution in zip(shared, part, strict=True):
                master = masters[name]
                master.grad = contribution if master.grad is None else master.grad.add_(contribution)
        squares = world.sum_all(*self._squares)
        self._clear()
        return LoopReport(norms, tuple(square**0.5 for square in squares), factors)


def _reduced(contribution: Tensor, master: Tensor, world: World) -> Tensor:
    """Return the sum over all processes in the layout of `master`."""
    return laid_out_like(world.sum_contributions(whole(contribution)), master)


class _Divert(torch.autograd.Function):
    """The weight itself; in the backward pass its gradient goes into `part[name]`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, part: dict[str, Tensor], name: str) -> Tensor:
        ctx.part, ctx.name = part, name
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        part, name = ctx.part, ctx.name
        if name in part:
            part[name] += gradients[0]
        else:
            part[name] = gradients[0].to(torch.promote_types(gradients[0].dtype, torch.float32), copy=True)
        return None, None, None
