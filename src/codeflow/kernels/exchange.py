"""Rows that several ranks share, exchanged for heads, and back: each rank gets whole rows of its part of the heads.

An all-to-all (Jacobs et al. 2023, DeepSpeed-Ulysses) in place of a ring: a rank that holds some positions (of `Zigzag`)
of all heads sends every other rank that one's heads, and holds afterwards all positions, in order, of its own. The
backward of either way is the other one; nothing is summed between ranks, so the values are those of one process.

Several tensors travel as one message, of which each rank gets an equal part. Every rank of the group must call these
functions in the same order.

Legend: B rows, S positions of a rank, T of the whole row, n ranks, H heads (a multiple of n, any number per tensor).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from codeflow.kernels.payload import PayloadWatch
from codeflow.kernels.zigzag import Zigzag

_CLAIMED_COLUMNS = 1024  # at most: a fingerprint has keys for every column and every row


@dataclass(frozen=True)
class Exchange:
    """Between whom what is exchanged, and who watches it."""

    zigzag: Zigzag
    group: dist.ProcessGroup
    watch: PayloadWatch = field(default_factory=PayloadWatch)

    def to_heads(self, *rows: Tensor) -> tuple[Tensor, ...]:
        """Return (B, T, H / n, ...), in order of the row, for each (B, S, H, ...); all of one dtype."""
        return _ToHeads.apply(self, *rows)  # pyright: ignore[reportReturnType]

    def to_rows(self, heads: Tensor) -> Tensor:
        """Return (B, S, H, ...), this rank's positions of all heads, of (B, T, H / n, ...)."""
        rows = _ToRows.apply(self, heads)
        assert isinstance(rows, Tensor)
        return rows


class _ToHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        exchange, *rows = inputs
        ctx.exchange = exchange
        return tuple(_heads(exchange, rows))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        return None, *_rows(ctx.exchange, gradients)


class _ToRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        ctx.exchange, heads = inputs
        return _rows(ctx.exchange, [heads])[0]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        return None, _heads(ctx.exchange, gradients)[0]


def _heads(exchange: Exchange, rows: Sequence[Tensor]) -> list[Tensor]:
    """Exchange each (B, S, H, ...) for (B, T, H / n, ...)."""
    n, zigzag = exchange.group.size(), exchange.zigzag
    shapes = [torch.Size((*x.shape[:2], x.shape[2] // n, *x.shape[3:])) for x in rows]
    message = _empty(rows, n)
    for x, parts in zip(rows, _parts(message, shapes), strict=True):
        parts.copy_(x.unflatten(2, (n, -1)).movedim(2, 0))
    found: list[Tensor] = []
    for x, parts in zip(rows, _parts(_exchanged(message, exchange), shapes), strict=True):
        heads = x.new_empty((x.shape[0], zigzag.length, *parts.shape[3:]))
        for owner, part in enumerate(parts):
            for first, chunk in zip(zigzag.firsts(owner), part.chunk(2, 1), strict=True):
                heads[:, first : first + zigzag.chunk_length] = chunk
        found.append(heads)
    return found


def _rows(exchange: Exchange, heads: Sequence[Tensor]) -> list[Tensor]:
    """Exchange each (B, T, H / n, ...) for (B, S, H, ...)."""
    n, zigzag = exchange.group.size(), exchange.zigzag
    shapes = [torch.Size((x.shape[0], x.shape[1] // n, *x.shape[2:])) for x in heads]
    message = _empty(heads, n)
    for x, parts in zip(heads, _parts(message, shapes), strict=True):
        for owner, part in enumerate(parts):
            for first, chunk in zip(zigzag.firsts(owner), part.chunk(2, 1), strict=True):
                chunk.copy_(x[:, first : first + zigzag.chunk_length])
    return [parts.movedim(0, 2).flatten(2, 3) for parts in _parts(_exchanged(message, exchange), shapes)]


def _empty(tensors: Sequence[Tensor], n: int) -> Tensor:
    """Return room for a message of all tensors: a row for each rank."""
    assert len({x.dtype for x in tensors}) == 1, "one message, one dtype"
    return tensors[0].new_empty((n, sum(x.numel() for x in tensors) // n))


def _parts(message: Tensor, shapes: Sequence[torch.Size]) -> Iterator[Tensor]:
    """Yield each tensor's part of a message as a view (n, *shape)."""
    begin = 0
    for shape in shapes:
        yield message[:, begin : begin + shape.numel()].unflatten(1, shape)
        begin += shape.numel()


def _exchanged(message: Tensor, exchange: Exchange) -> Tensor:
    """Send row r of `message` to rank r; return what came, row r from rank r."""
    group, watch = exchange.group, exchange.watch
    came = torch.empty_like(message)
    dist.all_to_all_single(came, message, group=group)
    if watch.active:
        columns = math.gcd(message.shape[1], _CLAIMED_COLUMNS)
        claims = torch.stack([watch.claim(part.view(-1, columns)) for part in message])
        claimed = torch.empty_like(claims)
        dist.all_to_all_single(claimed, claims, group=group)
        for sender in range(group.size()):
            if sender != group.rank():
                watch.check(came[sender].view(-1, columns), claimed[sender], sender, group)
    return came
