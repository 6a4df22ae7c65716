"""The rows before a rank's chunks, from the ranks that hold them, point to point: what a window needs across borders.

Only the last `width` rows before each chunk travel, and their gradients back; nothing is gathered whole. A window
longer than a chunk takes its rows from several of them.

Every rank of the group must call these functions in the same order.

Legend: B rows, S positions of a rank, X whatever follows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from codeflow.kernels.zigzag import Zigzag


def with_halo(x: Tensor, width: int, zigzag: Zigzag, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Return both chunks of x (B, S, X), each behind the `width` rows before it (fewer at the row's begin)."""
    return _Halo.apply(x, width, zigzag, group)  # pyright: ignore[reportReturnType]


class _Halo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        x, width, zigzag, group = inputs
        ctx.width, ctx.zigzag, ctx.group = width, zigzag, group
        own = dict(zip(zigzag.chunks(), x.chunk(2, 1), strict=True))
        found: dict[int, list[Tensor]] = {chunk: [] for chunk in own}
        ops: list[dist.P2POp] = []
        for source, chunk, first, end in zigzag.pieces(width):
            sender, receiver = zigzag.owner(source), zigzag.owner(chunk)
            if zigzag.rank not in (sender, receiver):
                continue
            piece = own[source][:, _within(source, first, end, zigzag)] if sender == zigzag.rank else None
            if receiver == zigzag.rank:
                shape = (x.shape[0], end - first, *x.shape[2:])
                found[chunk].append(x.new_empty(shape) if piece is None else piece)
                if piece is None:
                    ops.append(dist.P2POp(dist.irecv, found[chunk][-1], group=group, group_peer=sender))
            elif piece is not None:
                ops.append(dist.P2POp(dist.isend, piece.contiguous(), group=group, group_peer=receiver))
        _finish(ops)
        return tuple(torch.cat([*found[chunk], own[chunk]], 1) for chunk in own)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        width, zigzag, group = ctx.width, ctx.zigzag, ctx.group
        whole = dict(zip(zigzag.chunks(), gradients, strict=True))
        begins = {chunk: max(0, chunk * zigzag.chunk_length - width) for chunk in whole}
        d_own = {chunk: part[:, -zigzag.chunk_length :].clone() for chunk, part in whole.items()}
        arriving: list[tuple[int, slice, Tensor]] = []
        ops: list[dist.P2POp] = []
        for source, chunk, first, end in zigzag.pieces(width):
            owner, sender = zigzag.owner(source), zigzag.owner(chunk)  # gradients go the other way
            piece = whole[chunk][:, first - begins[chunk] : end - begins[chunk]] if sender == zigzag.rank else None
            if owner == zigzag.rank:
                like = d_own[source]
                got = like.new_empty((like.shape[0], end - first, *like.shape[2:])) if piece is None else piece
                arriving.append((source, _within(source, first, end, zigzag), got))
                if piece is None:
                    ops.append(dist.P2POp(dist.irecv, got, group=group, group_peer=sender))
            elif piece is not None:
                ops.append(dist.P2POp(dist.isend, piece.contiguous(), group=group, group_peer=owner))
        _finish(ops)
        for source, rows, got in arriving:
            d_own[source][:, rows] += got
        return torch.cat([d_own[chunk] for chunk in zigzag.chunks()], 1), None, None, None


def _within(chunk: int, first: int, end: int, zigzag: Zigzag) -> slice:
    """Return the positions first .. end of the row as places within their chunk."""
    begin = chunk * zigzag.chunk_length
    return slice(first - begin, end - begin)


def _finish(ops: list[dist.P2POp]) -> None:
    """Start all transfers and wait for them."""
    for work in dist.batch_isend_irecv(ops) if ops else []:
        work.wait()
