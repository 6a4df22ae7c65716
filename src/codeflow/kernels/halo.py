"""The rows before a rank's chunks, from the ranks that hold them, point to point: what a window needs across borders.

Only the last `width` rows before each chunk travel, and their gradients back; nothing is gathered whole. A window
longer than a chunk takes its rows from several of them.

Every rank of the group must call these functions in the same order.

Legend: B rows, S positions of a rank, X whatever follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from codeflow.kernels.payload import UNWATCHED, PayloadWatch
from codeflow.kernels.zigzag import Piece, Zigzag


def with_halo(
    x: Tensor, width: int, zigzag: Zigzag, group: dist.ProcessGroup, watch: PayloadWatch = UNWATCHED
) -> tuple[Tensor, Tensor]:
    """Return both chunks of x (B, S, X), each behind the `width` rows before it (fewer at the row's begin)."""
    return _Halo.apply(x, width, zigzag, _Ranks(group, watch))  # pyright: ignore[reportReturnType]


class _Halo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        x, width, zigzag, ranks = inputs
        ctx.width, ctx.zigzag, ctx.ranks = width, zigzag, ranks
        own = dict(zip(zigzag.chunks(), x.chunk(2, 1), strict=True))
        before: dict[int, list[Tensor]] = {chunk: [] for chunk in own}
        moves = [_Move(zigzag.owner(piece.source), zigzag.owner(piece.chunk), piece) for piece in zigzag.pieces(width)]
        for piece, rows in _moved(moves, lambda piece: own[piece.source][:, _within(piece, zigzag)], x, ranks):
            before[piece.chunk].append(rows)
        return tuple(torch.cat([*before[chunk], own[chunk]], 1) for chunk in own)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        zigzag = ctx.zigzag
        whole = dict(zip(zigzag.chunks(), gradients, strict=True))
        d_own = {chunk: part[:, -zigzag.chunk_length :].clone() for chunk, part in whole.items()}

        def behind_own(piece: Piece) -> Tensor:
            part = whole[piece.chunk]
            begin = (piece.chunk + 1) * zigzag.chunk_length - part.shape[1]
            return part[:, piece.first - begin : piece.end - begin]

        pieces = zigzag.pieces(ctx.width)
        moves = [_Move(zigzag.owner(piece.chunk), zigzag.owner(piece.source), piece) for piece in pieces]
        for piece, rows in _moved(moves, behind_own, gradients[0], ctx.ranks):
            d_own[piece.source][:, _within(piece, zigzag)] += rows
        return torch.cat([d_own[chunk] for chunk in zigzag.chunks()], 1), None, None, None


class _Ranks(NamedTuple):
    """The ranks that share the rows, and who watches what they send."""

    group: dist.ProcessGroup
    watch: PayloadWatch


class _Move(NamedTuple):
    """A piece, or its gradient, on its way between ranks, which may be one."""

    sender: int
    receiver: int
    piece: Piece


def _moved(
    moves: Sequence[_Move], take: Callable[[Piece], Tensor], like: Tensor, ranks: _Ranks
) -> list[tuple[Piece, Tensor]]:
    """Do all moves, the same list on every rank, and return what came to this one; `take` gives what it sends."""
    group, watch = ranks
    came: list[tuple[Piece, Tensor]] = []
    claimed: list[tuple[Tensor, Tensor, int]] = []  # what came, its fingerprint on departure, from whom
    transfers: list[dist.P2POp] = []
    for sender, receiver, piece in moves:
        sends = receives = None
        if group.rank() == sender:
            sends = take(piece).contiguous()
        elif group.rank() == receiver:
            receives = like.new_empty((like.shape[0], piece.end - piece.first, *like.shape[2:]))
        if sends is not None and sender == receiver:
            came.append((piece, sends))
        elif sends is not None:
            parts = [sends, watch.claim(sends)] if watch.active else [sends]
            transfers += [dist.P2POp(dist.isend, part, group=group, group_peer=receiver) for part in parts]
        elif receives is not None:
            came.append((piece, receives))
            parts = [receives]
            if watch.active:
                parts.append(torch.empty(2, dtype=torch.int64, device=like.device))
                claimed.append((receives, parts[1], sender))
            transfers += [dist.P2POp(dist.irecv, part, group=group, group_peer=sender) for part in parts]
    for work in dist.batch_isend_irecv(transfers) if transfers else []:
        work.wait()
    for rows, claim, sender in claimed:
        watch.check(rows, claim, sender, group)
    return came


def _within(piece: Piece, zigzag: Zigzag) -> slice:
    """Return the piece's rows as places within the chunk that holds them."""
    begin = piece.source * zigzag.chunk_length
    return slice(piece.first - begin, piece.end - begin)
