"""Selective activation checkpointing: what is cheap to make is made again in the backward pass, the rest is kept.

A norm, and the product of silu(gate) and up, are read by matrix products, which keep their input for the backward pass.
Under `selectively` neither that input nor what made it is kept; the inputs of the cheap function are, which are kept
anyway (the residual stream, the projections). No matrix product and no attention runs twice, nothing is communicated
again. RoPE keeps nothing in any case (`model.rope`). Autograd's graph is that of a pass that keeps everything, and the
same operations run on the same values, so gradients have the same bits. Source: Korthikanti et al. 2022, with another
choice of what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Used = TypeVar("Used")
_selecting = [False]


@contextmanager
def selectively(on: bool = True) -> Iterator[None]:
    """Let `recomputed` forget what it makes while the block runs; `on=False` changes nothing."""
    _selecting.append(on)
    try:
        yield
    finally:
        _selecting.pop()


def recomputed(make: Callable[..., Tensor], inputs: tuple[Tensor, ...], use: Callable[[Tensor], Used]) -> Used:
    """Return use(make(*inputs)); under `selectively` the made tensor is not kept for the backward pass of `use`.

    `make` is a cheap, deterministic function of its inputs alone, whose result is a tensor of its own; neither its
    inputs nor its result are changed later.
    """
    if not (_selecting[-1] and torch.is_grad_enabled()):
        return use(make(*inputs))
    again = _Again(make, inputs)
    with saved_tensors_hooks(again.forget, again.remember):
        made = make(*inputs)
    storage, dtype = made.untyped_storage()._cdata, made.dtype  # not data_ptr(): tensors without data have none

    def pack(kept: Tensor) -> Tensor | _View:
        if kept.untyped_storage()._cdata == storage and kept.dtype == dtype:
            return _View(again, tuple(kept.shape), kept.stride(), int(kept.storage_offset()))
        return kept.detach()  # an operation that keeps its own output would keep itself alive

    with saved_tensors_hooks(pack, _unpack):
        return use(made)


class _Again:
    """What is needed to make a tensor again, which happens once, when the backward pass first asks for a part of it."""

    def __init__(self, make: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
        self._make = make
        self._inputs = [x.detach().requires_grad_(x.requires_grad) for x in inputs]
        self._n_forgotten = 0
        self._made: Tensor | None = None
        self._parts: list[Tensor] = []  # what autograd keeps of the making, in its order

    def forget(self, part: Tensor) -> int:
        """Return the place of what autograd wants to keep of the making; it is not kept."""
        self._n_forgotten += 1
        return self._n_forgotten - 1

    def remember(self, place: int) -> Tensor:
        """Return what was forgotten."""
        self.made()
        return self._parts[place]

    def made(self) -> Tensor:
        """Return the tensor, without a graph."""
        if self._made is None:

            def collect(part: Tensor) -> Tensor:
                self._parts.append(part.detach())
                return self._parts[-1]

            with torch.enable_grad(), saved_tensors_hooks(collect, lambda part: part):
                self._made = self._make(*self._inputs).detach()
            assert len(self._parts) == self._n_forgotten, "made otherwise than before"
        return self._made


class _View:
    """A view of a tensor that is made again."""

    def __init__(self, again: _Again, shape: tuple[int, ...], stride: tuple[int, ...], offset: int) -> None:
        self._again, self._geometry = again, (shape, stride, offset)

    def tensor(self) -> Tensor:
        return self._again.made().as_strided(*self._geometry)


def _unpack(packed: Tensor | _View) -> Tensor:
    return packed if isinstance(packed, Tensor) else packed.tensor()
