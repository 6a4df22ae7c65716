"""Causal attention over rows that several ranks share: keys and values go around a ring, point to point.

Each rank holds the positions of `Zigzag` and meets the blocks of all ranks one after the other; while it computes with
one block the next is on its way. The backward sends keys and values around once more, and with them their gradients,
which come home after a whole turn, summed in fp32. Gradients are sums in an order that is fixed, so a run is
reproducible. `gathered_kv` is the other way: blocks go around once and stay, and their gradients go around once.

Every rank of the group must call these functions in the same order, with rows of equal packing.

Legend: B rows, S positions of a rank, T of the whole row, H query heads, G key/value heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from codeflow.kernels.documents import Documents
from codeflow.kernels.payload import UNWATCHED, PayloadWatch
from codeflow.kernels.spans import Reversing, Running, Sight, heads_first, heads_last
from codeflow.kernels.zigzag import Zigzag


@dataclass(frozen=True)
class _Link:
    """The ring that this rank is part of, and who watches what goes over it."""

    group: dist.ProcessGroup
    watch: PayloadWatch

    @property
    def previous(self) -> int:
        return (self.group.rank() - 1) % self.group.size()

    @property
    def next(self) -> int:
        return (self.group.rank() + 1) % self.group.size()


@dataclass(frozen=True)
class _Arriving:
    """A tensor on its way to this rank, and the one on its way from it, which must not change meanwhile."""

    tensor: Tensor
    sent: tuple[Tensor, ...]
    link: _Link
    works: tuple[dist.Work, ...] = ()
    claimed: Tensor | None = None  # the fingerprint that the sender took

    def wait(self) -> Tensor:
        for work in self.works:
            work.wait()
        if self.claimed is not None:
            self.link.watch.check(self.tensor, self.claimed, self.link.previous, self.link.group)
        return self.tensor


def _pass_on(x: Tensor, link: _Link) -> _Arriving:
    """Send x (contiguous) to the next rank and receive the previous one's, in the background."""
    if link.group.size() == 1:
        return _Arriving(x, (x,), link)
    sent, arriving = [x], [torch.empty_like(x)]
    if link.watch.active:
        sent.append(link.watch.claim(x))
        arriving.append(torch.empty_like(sent[1]))
    transfers = [dist.P2POp(dist.isend, part, group=link.group, group_peer=link.next) for part in sent]
    transfers += [dist.P2POp(dist.irecv, part, group=link.group, group_peer=link.previous) for part in arriving]
    claimed = arriving[1] if link.watch.active else None
    return _Arriving(arriving[0], tuple(sent), link, tuple(dist.batch_isend_irecv(transfers)), claimed)


def _circulate(block: Tensor, link: _Link) -> Iterator[tuple[int, Tensor]]:
    """Yield (owner, block) of every rank, this one's first; the next block travels while one is worked on."""
    n_ranks = link.group.size()
    for hop in range(n_ranks):
        arriving = _pass_on(block, link) if hop < n_ranks - 1 else None
        yield (link.group.rank() - hop) % n_ranks, block
        if arriving:
            block = arriving.wait()


class _Homeward:
    """Sums that follow the blocks around the ring and come home after a whole turn."""

    def __init__(self, link: _Link) -> None:
        self._link = link
        self._arriving: _Arriving | None = None

    def add(self, part: Tensor) -> None:
        """Add this rank's part (contiguous) for the block at hand, and send the sum after the block."""
        if self._arriving:
            part = part.add_(self._arriving.wait())
        self._arriving = _pass_on(part, self._link)

    def home(self) -> Tensor:
        """Return the sum over all ranks for this rank's own block."""
        assert self._arriving, "nothing was added"
        return self._arriving.wait()


def ring_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Documents | None,
    zigzag: Zigzag,
    group: dist.ProcessGroup,
    watch: PayloadWatch = UNWATCHED,
) -> Tensor:
    """Causal attention within documents: q (B, S, H, D), k and v (B, S, G, D) of this rank -> (B, S, H, D).

    `documents` describe the whole rows (B, T). Keeps its inputs, the output and the log-sum-exp for the backward.
    """
    sights = [Sight.of(first, zigzag.chunk_length, documents, None, False, q) for first in zigzag.firsts()]
    output = _Ring.apply(q, k, v, sights, zigzag, _Link(group, watch))
    assert isinstance(output, Tensor)
    return output


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        q, k, v, sights, zigzag, link = inputs
        runnings = [
            Running(heads_first(part, k.shape[2], q.shape[-1] ** -0.5), sight)
            for part, sight in zip(q.chunk(2, 1), sights, strict=True)
        ]
        for owner, block in _circulate(_packed(k, v), link):
            for (keys, values), first in zip(_chunks(block), zigzag.firsts(owner), strict=True):
                for running in runnings:
                    running.meet(keys, values, first)
        outputs, lses = zip(*(running.finish() for running in runnings), strict=True)
        output = torch.cat([heads_last(part) for part in outputs], 1)
        ctx.save_for_backward(q, k, v, output, *lses)
        ctx.sights, ctx.zigzag, ctx.link = sights, zigzag, link
        return output

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, v, output, *lses = ctx.saved_tensors
        n_kv_heads, scale = k.shape[2], q.shape[-1] ** -0.5
        queries, outputs, upstreams = (
            [heads_first(part, n_kv_heads, factor) for part in x.chunk(2, 1)]
            for x, factor in ((q, scale), (output, 1.0), (gradients[0], 1.0))
        )
        reversings = [Reversing(*parts) for parts in zip(queries, ctx.sights, outputs, lses, upstreams, strict=True)]
        homeward = _Homeward(ctx.link)
        for owner, block in _circulate(_packed(k, v), ctx.link):
            d_block = torch.zeros_like(block, dtype=lses[0].dtype)
            spans = zip(_chunks(block), _chunks(d_block), ctx.zigzag.firsts(owner), strict=True)
            for (keys, values), (d_keys, d_values), first in spans:
                for reversing in reversings:
                    reversing.meet(keys, values, first, d_keys, d_values)
            homeward.add(d_block)
        d_q = torch.cat([heads_last(x.d_queries * scale) for x in reversings], 1).to(q.dtype)
        d_k, d_v = (x.transpose(1, 2).to(k.dtype) for x in homeward.home())
        return d_q, d_k, d_v, None, None, None


def _packed(k: Tensor, v: Tensor) -> Tensor:
    """Return keys and values (B, S, G, D) as one message (2, B, G, S, D)."""
    return torch.stack([k.transpose(1, 2), v.transpose(1, 2)])


def _chunks(block: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the views (keys, values) (B, G, S / 2, D) of both chunks of a message."""
    return [(part[0], part[1]) for part in block.chunk(2, 3)]


def gathered_kv(
    k: Tensor, v: Tensor, zigzag: Zigzag, group: dist.ProcessGroup, watch: PayloadWatch = UNWATCHED
) -> tuple[Tensor, Tensor]:
    """Return the keys and values (B, T, G, D) of whole rows from this rank's (B, S, G, D), in order of the row.

    All that uses them adds to one gradient, which goes around the ring once.
    """
    return _Gathered.apply(k, v, zigzag, _Link(group, watch))  # pyright: ignore[reportReturnType]


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        k, v, zigzag, link = inputs
        ctx.zigzag, ctx.link = zigzag, link
        whole = [x.new_empty((x.shape[0], zigzag.length, *x.shape[2:])) for x in (k, v)]
        for owner, block in _circulate(torch.stack([k, v]), link):
            for x, part in zip(whole, block, strict=True):
                for first, chunk in zip(zigzag.firsts(owner), part.chunk(2, 1), strict=True):
                    x[:, first : first + zigzag.chunk_length] = chunk
        return whole[0], whole[1]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        both = torch.stack(gradients)
        wide = torch.promote_types(both.dtype, torch.float32)
        homeward, zigzag = _Homeward(ctx.link), ctx.zigzag
        for hop in range(zigzag.n_ranks):
            firsts = zigzag.firsts((zigzag.rank - hop) % zigzag.n_ranks)
            homeward.add(torch.cat([both.narrow(2, first, zigzag.chunk_length) for first in firsts], 2).to(wide))
        d_k, d_v = homeward.home().to(both.dtype)
        return d_k, d_v, None, None
