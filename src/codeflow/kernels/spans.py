"""Attention of a chunk of queries to spans of keys that come one after the other, as a ring brings them.

Per query the highest score, the sum of weights and the weighted sum of values are kept while spans come (online
softmax); at the end they give the output and the log-sum-exp over all spans. With that log-sum-exp the backward of each
span stands alone: weights = exp(score - lse), and the gradients of queries add up over the spans.

Products are made for tiles of queries against the keys that some of them see, so masks are made only where documents,
the window or the diagonal cut through a tile. Softmax and sums are fp32 (fp64 for fp64 inputs). Runs on any device.

Legend: B rows, C queries of the chunk, K keys of a span, G key/value heads, R query heads per key/value head, D head
dim. Queries come scaled by 1 / sqrt(D) as (B, G, C, R, D), keys and values as (B, G, K, D).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from codeflow.kernels.documents import Documents

_TILE = 128  # positions of queries whose scores exist at one time
_LOWEST_SCORE = -1e30  # finite, so that a tile without visible keys gives no NaN
_making_products = [True]


@contextmanager
def without_products() -> Iterator[None]:
    """Leave the products of all tiles out while the block runs: for steps on tensors without data, which hold and send
    what they otherwise would.
    """
    _making_products.append(False)
    try:
        yield
    finally:
        _making_products.pop()


@dataclass(frozen=True)
class Sight:
    """What the queries at the positions `first` .. `first` + C - 1 of a row see: key p iff lowest <= p <= query."""

    first: int
    lowest: Tensor  # (B or 1, C) int64, growing along the chunk
    strict: bool  # the query's own position is hidden too
    ranges: tuple[tuple[int, int], ...]  # per tile, over all rows: smallest and largest of `lowest`

    @classmethod
    def of(
        cls, first: int, n_queries: int, documents: Documents | None, window: int | None, strict: bool, like: Tensor
    ) -> Sight:
        """Return the sight of a chunk: causal, within documents (of whole rows), within the last `window` positions."""
        if documents is None:
            return _sight_of_whole_rows(first, n_queries, window, strict, like.device)
        key = ("sight", first, n_queries, window, strict)
        return documents.once(
            key, lambda: _sight(first, documents.starts[:, first : first + n_queries], window, strict)
        )

    def tiles(self, first_key: int, n_keys: int) -> Iterator[tuple[slice, slice, Tensor | None]]:
        """Return the parts of a span that are seen: queries, keys, and which pairs (B or 1, c, k); None means all."""
        n_queries, device = self.lowest.shape[1], self.lowest.device
        if not _making_products[-1]:
            return
        for begin, (low, high) in zip(range(0, n_queries, _TILE), self.ranges, strict=True):
            end = min(begin + _TILE, n_queries)
            start = max(low, first_key)
            stop = min(self.first + end - self.strict, first_key + n_keys)
            if start >= stop:
                continue
            visible = None
            if high > start or stop > self.first + begin + 1 - self.strict:
                keys = torch.arange(start, stop, device=device)
                last = torch.arange(self.first + begin, self.first + end, device=device)[:, None] - int(self.strict)
                visible = (keys >= self.lowest[:, begin:end, None]) & (keys <= last)
            yield slice(begin, end), slice(start - first_key, stop - first_key), visible


@lru_cache(32)
def _sight_of_whole_rows(first: int, n_queries: int, window: int | None, strict: bool, device: torch.device) -> Sight:
    return _sight(first, torch.zeros((1, n_queries), dtype=torch.int64, device=device), window, strict)


def _sight(first: int, starts: Tensor, window: int | None, strict: bool) -> Sight:
    here = torch.arange(first, first + starts.shape[1], device=starts.device)
    lowest = starts if window is None else torch.maximum(starts, here - window + 1)
    lows = lowest[:, ::_TILE].amin(0).tolist()
    highs = torch.cat([lowest[:, _TILE - 1 :: _TILE], lowest[:, -1:]], 1).amax(0).tolist()
    return Sight(first, lowest, strict, tuple(zip(lows, highs, strict=False)))


class Running:
    """A chunk's attention while spans of keys come."""

    def __init__(self, queries: Tensor, sight: Sight) -> None:
        """Start with queries (B, G, C, R, D) that have met no key yet."""
        wide = torch.promote_types(queries.dtype, torch.float32)
        self._queries, self._sight = queries, sight
        self._output = torch.zeros_like(queries, dtype=wide)
        self._total = queries.new_zeros((*queries.shape[:-1], 1), dtype=wide)
        self._top = torch.full_like(self._total, _LOWEST_SCORE)

    def meet(self, keys: Tensor, values: Tensor, first_key: int) -> None:
        """Take in a span whose keys lie at `first_key` and the positions after it."""
        for rows, seen, visible in self._sight.tiles(first_key, keys.shape[2]):
            scores = _scores(self._queries[:, :, rows], keys[:, :, seen], visible)
            before = self._top[:, :, rows]
            top = torch.maximum(before, scores.amax(-1, keepdim=True))
            shrink = (before - top).exp_()
            weights = scores.sub_(top).exp_()
            self._total[:, :, rows] = self._total[:, :, rows] * shrink + weights.sum(-1, keepdim=True)
            added = _product(weights.to(values.dtype), values[:, :, seen])
            self._output[:, :, rows] = self._output[:, :, rows] * shrink + added
            self._top[:, :, rows] = top

    def finish(self) -> tuple[Tensor, Tensor]:
        """Return the output (B, G, C, R, D) in the queries' dtype and the log-sum-exp (B, G, C, R, 1).

        A query that saw nothing has output 0 and log-sum-exp +inf, so that its weights are 0 in the backward too.
        """
        blind = self._total == 0
        total = self._total.masked_fill_(blind, 1.0)
        lse = (self._top + total.log()).masked_fill_(blind, torch.inf)
        return self._output.div_(total).to(self._queries.dtype), lse


class Reversing:
    """A chunk's backward while spans of keys come, in any order."""

    def __init__(self, queries: Tensor, sight: Sight, output: Tensor, lse: Tensor, d_output: Tensor) -> None:
        """`output` and `lse` are what `Running.finish` returned, over all spans."""
        self._queries, self._sight, self._lse, self._d_output = queries, sight, lse, d_output
        self._terms = (d_output.to(lse.dtype) * output.to(lse.dtype)).sum(-1, keepdim=True)
        self.d_queries = torch.zeros_like(queries, dtype=lse.dtype)

    def meet(self, keys: Tensor, values: Tensor, first_key: int, d_keys: Tensor, d_values: Tensor) -> None:
        """Add a span's part to `d_queries`, and this chunk's part to the span's `d_keys` and `d_values` (fp32)."""
        dtype = keys.dtype
        for rows, seen, visible in self._sight.tiles(first_key, keys.shape[2]):
            q, d_out = self._queries[:, :, rows], self._d_output[:, :, rows]
            k, v = keys[:, :, seen], values[:, :, seen]
            weights = _scores(q, k, visible).sub_(self._lse[:, :, rows]).exp_()
            d_weights = _product(d_out, v.mT).to(weights.dtype)
            d_scores = d_weights.sub_(self._terms[:, :, rows]).mul_(weights).to(dtype)
            self.d_queries[:, :, rows] += _product(d_scores, k)
            d_keys[:, :, seen] += d_scores.flatten(2, 3).mT @ q.flatten(2, 3)
            d_values[:, :, seen] += weights.to(dtype).flatten(2, 3).mT @ d_out.flatten(2, 3)


def _scores(queries: Tensor, keys: Tensor, visible: Tensor | None) -> Tensor:
    """Return scores (B, G, c, R, k) in fp32 or fp64, -inf where hidden."""
    scores = _product(queries, keys.mT).to(torch.promote_types(queries.dtype, torch.float32))
    return scores if visible is None else scores.masked_fill_(~visible[:, None, :, None], -torch.inf)


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Return x (B, G, c, R, m) @ y (B, G, m, k): all query heads of a key/value head in one product."""
    return (x.flatten(2, 3) @ y).unflatten(2, x.shape[2:4])


def heads_first(x: Tensor, n_kv_heads: int, scale: float = 1.0) -> Tensor:
    """Copy (B, C, H, D) to (B, G, C, R, D), times `scale`."""
    view = x.unflatten(2, (n_kv_heads, -1)).permute(0, 2, 1, 3, 4)
    return torch.mul(view, scale).contiguous()


def heads_last(x: Tensor) -> Tensor:
    """Copy (B, G, C, R, D) to (B, C, H, D)."""
    return x.permute(0, 2, 1, 3, 4).flatten(2, 3)


def span_attention(q: Tensor, k: Tensor, v: Tensor, sight: Sight, first_key: int) -> Tensor:
    """Attention of one chunk to one span: q (B, C, H, D), k and v (B, K, G, D) from `first_key` on -> (B, C, H, D)."""
    output = _Span.apply(q, k, v, sight, first_key)
    assert isinstance(output, Tensor)
    return output


class _Span(torch.autograd.Function):
    """Keeps its inputs, output and log-sum-exp for the backward."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        q, k, v, sight, first_key = inputs
        running = Running(heads_first(q, k.shape[2], q.shape[-1] ** -0.5), sight)
        running.meet(k.transpose(1, 2), v.transpose(1, 2), first_key)
        output, lse = running.finish()
        output = heads_last(output)
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.sight, ctx.first_key = sight, first_key
        return output

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, v, output, lse = ctx.saved_tensors
        n_kv_heads, scale = k.shape[2], q.shape[-1] ** -0.5
        first = [heads_first(x, n_kv_heads) for x in (output, gradients[0])]
        reversing = Reversing(heads_first(q, n_kv_heads, scale), ctx.sight, first[0], lse, first[1])
        keys, values = (x.transpose(1, 2).contiguous() for x in (k, v))
        d_keys, d_values = (torch.zeros_like(x, dtype=lse.dtype) for x in (keys, values))
        reversing.meet(keys, values, ctx.first_key, d_keys, d_values)
        d_q = heads_last(reversing.d_queries * scale).to(q.dtype)
        return d_q, d_keys.transpose(1, 2).to(k.dtype), d_values.transpose(1, 2).to(v.dtype), None, None
