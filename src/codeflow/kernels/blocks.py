"""Softmax attention as batched matrix products over blocks of queries, forward and backward, for the `cpu` back end.

A block of queries meets only keys it may see. `Causal`: all of the document up to the block's end; documents of similar
length are padded to one length and share their products, because many small products cost more than a few with some
padding. `Band`: a block and the window before it, all blocks in one product. The backward recomputes the weights from
q, k and v: neither weights nor outputs are stored.

Softmax is computed in fp32 inside; for bf16 inputs the scores and weights between the products are rounded to bf16, as
in every eager bf16 implementation. On CPUs with bf16 instructions this is 2 to 3 times torch's own flash kernel.

Legend: G key/value heads, R query heads per key/value head, N rows * positions, D head dim, n = batch of a product.
Queries come scaled by 1 / sqrt(D) as (G, N, R, D), keys and values as (G, N, D).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from codeflow.kernels.documents import Documents

_QUERY_BLOCK = 128  # positions; at 64 the products are too small, at 256 the wasted upper triangle costs more
_SMALLEST_BAND = 16  # positions
_SHORT_KEYS = 256  # rows up to this are quicker in torch's fp32 softmax than in its bf16 one
_PAIRS_PER_CALL = 6000  # a product's fixed cost, in query-key pairs of four heads; 2000 to 12000 are equally good
_PAIRS_PER_POSITION = 64  # what moving a position costs


class Gradients(NamedTuple):
    """Of the scaled queries, keys and values; `terms` (..., terms_dim) is rowsum(dO * O), dO * O, or empty."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    terms: Tensor


class Attention(Protocol):
    """Which keys each query sees, as blocks."""

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the output (G, N, R, D)."""
        ...

    def backward(self, inputs: Sequence[Tensor], d_output: Tensor, terms_dim: int = 0) -> Gradients:
        """Return the gradients for inputs (queries, keys, values) and d_output (G, N, R, D).

        `terms_dim` is the last dim of the terms asked for: 1 for row sums, D for each element, 0 for none.
        """
        ...


@dataclass(frozen=True)
class _Group:
    """`n` documents padded to `length`: `positions` (n * length) is where they lie, `padding` indexes what is none."""

    length: int
    positions: Tensor
    padding: Tensor


class Causal:
    """All earlier positions of the document, and the query's own unless `strict` (then only first ones see theirs)."""

    def __init__(self, documents: Documents | None, like: Tensor, strict: bool = False) -> None:
        """`like` (B, T, ...) gives length, dtype and device. Rows of one document each need no groups."""
        triangle = torch.full((_QUERY_BLOCK, _QUERY_BLOCK), -torch.inf, dtype=like.dtype, device=like.device)
        self._later = triangle.triu(0 if strict else 1)  # added to the scores of a block's own keys
        self._first = self._later.clone()
        self._first[0, 0] = 0
        self._length = like.shape[1]
        self._groups: list[_Group] = []
        if documents is not None:
            self._group(documents, like.device)

    def _group(self, documents: Documents, device: torch.device) -> None:
        lengths = torch.tensor(documents.lengths)
        starts = lengths.cumsum(0) - lengths
        back = torch.empty(int(lengths.sum()), dtype=torch.int64)
        offset = 0
        for shortest, longest in _length_ranges(documents.lengths):
            chosen = (shortest <= lengths) & (lengths <= longest)
            last = lengths[chosen, None] - 1
            within = torch.arange(longest).expand(len(last), -1)
            real = within <= last
            positions = starts[chosen, None] + torch.minimum(within, last)
            back[positions[real]] = offset + real.flatten().nonzero().flatten()
            padding = (~real).flatten().nonzero().flatten()
            self._groups.append(_Group(longest, positions.flatten().to(device), padding.to(device)))
            offset += within.numel()
        self._back = back.to(device)  # where each position lies among the groups

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `Attention`."""
        repeats = queries.shape[2]
        if not self._groups:
            return self._forward(_rows(self._length, queries, keys, values), repeats).view(queries.shape)
        outputs = []
        for group in self._groups:
            inputs = [x.index_select(1, group.positions) for x in (queries, keys, values)]
            output = self._forward(_rows(group.length, *inputs), repeats)
            outputs.append(output.view(inputs[0].shape))
        return torch.cat(outputs, 1).index_select(1, self._back)

    def backward(self, inputs: Sequence[Tensor], d_output: Tensor, terms_dim: int = 0) -> Gradients:
        """See `Attention`."""
        queries, keys, values = inputs
        shapes = [queries.shape, keys.shape, values.shape, (*queries.shape[:3], terms_dim)]
        repeats = queries.shape[2]
        if not self._groups:
            *rows, d_rows = _rows(self._length, *inputs, d_output)
            parts = self._backward(rows, d_rows, repeats, terms_dim)
            return Gradients(*(x.view(shape) for x, shape in zip(parts, shapes, strict=True)))
        found: list[list[Tensor]] = [[] for _ in shapes]
        for group in self._groups:
            *taken, d_taken = (x.index_select(1, group.positions) for x in (*inputs, d_output))
            d_taken.index_fill_(1, group.padding, 0)
            *rows, d_rows = _rows(group.length, *taken, d_taken)
            parts = self._backward(rows, d_rows, repeats, terms_dim)
            for pieces, part, shape in zip(found, parts, shapes, strict=True):
                pieces.append(part.view(shape[0], len(group.positions), *shape[2:]))
        return Gradients(*(torch.cat(pieces, 1).index_select(1, self._back) for pieces in found))

    def _forward(self, inputs: Sequence[Tensor], repeats: int) -> Tensor:
        queries, keys, values = inputs
        output = torch.empty_like(queries)
        for start, end in _query_blocks(keys.shape[1]):
            rows = slice(start * repeats, end * repeats)
            weights = self._weights(queries[:, rows], keys[:, :end], repeats)
            torch.bmm(weights, values[:, :end], out=output[:, rows])
        return output

    def _backward(self, inputs: Sequence[Tensor], d_output: Tensor, repeats: int, terms_dim: int) -> Gradients:
        queries, keys, values = inputs
        blocks = _query_blocks(keys.shape[1])
        d_queries = torch.empty_like(queries)
        terms = _empty_terms(queries, terms_dim)
        d_keys, d_values = keys, values
        for start, end in reversed(blocks):
            rows = slice(start * repeats, end * repeats)
            seen = (queries[:, rows], keys[:, :end], values[:, :end])
            weights = self._weights(*seen[:2], repeats)
            parts = _product_gradients(seen, weights, d_output[:, rows], d_queries[:, rows], terms[:, rows])
            if end == keys.shape[1]:  # the last block comes first and reaches all keys
                d_keys, d_values = parts if len(blocks) == 1 else (_wide(x) for x in parts)  # sums are taken in fp32
            else:
                d_keys[:, :end] += parts[0]
                d_values[:, :end] += parts[1]
        return Gradients(d_queries, d_keys.to(keys.dtype), d_values.to(values.dtype), terms)

    def _weights(self, queries: Tensor, keys: Tensor, repeats: int) -> Tensor:
        """Return softmax weights (n, rows, seen); the last keys are the queries' own positions."""
        scores = torch.bmm(queries, keys.mT)
        n_own = queries.shape[1] // repeats
        hidden = self._first if n_own == keys.shape[1] else self._later
        own = scores[..., -n_own:].unflatten(1, (n_own, repeats))
        own += hidden[:n_own, None, :n_own]
        return _softmax(scores)


class Band:
    """The last `window` positions of the document: blocks of S >= W queries meet S + W keys, W positions a window."""

    def __init__(self, starts: Tensor, window: int, dtype: torch.dtype, strict: bool) -> None:
        """`starts` (N,): for each position of all rows in one line the one its document starts at."""
        self._n_positions, self._window = len(starts), window
        self._block = max(window, _SMALLEST_BAND)
        n_blocks = -(-len(starts) // self._block)
        query = torch.arange(n_blocks * self._block, device=starts.device).view(n_blocks, self._block, 1)
        key = query[:, :1] - window + torch.arange(self._block + window, device=starts.device)
        first = pad(starts, (0, query.numel() - len(starts)), value=len(starts)).view_as(query)
        visible = (key < query if strict else key <= query) & (key > query - window) & (key >= first)
        lone = (first == query) | (query >= len(starts)) | torch.full_like(visible, strict and window == 1)
        visible |= lone & (key == query)  # who sees nothing sees itself: the caller sets the output to zero
        bias = torch.zeros(visible.shape, dtype=dtype, device=starts.device)
        self._bias = bias.masked_fill_(~visible, -torch.inf)[:, :, None]  # (blocks, S, 1, S + W)
        self._keys = key.flatten().clamp(0, len(starts) - 1)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `Attention`."""
        q, k, v = self._blocks(queries, keys, values)
        return self._line(torch.bmm(self._weights(q, k), v), queries)

    def backward(self, inputs: Sequence[Tensor], d_output: Tensor, terms_dim: int = 0) -> Gradients:
        """See `Attention`."""
        q, k, v = self._blocks(*inputs)
        (d_out,) = self._blocks(d_output)
        d_queries, terms = torch.empty_like(q), _empty_terms(q, terms_dim)
        weights = self._weights(q, k)
        d_keys, d_values = (
            self._sum(x, inputs[1]) for x in _product_gradients((q, k, v), weights, d_out, d_queries, terms)
        )
        return Gradients(self._line(d_queries, d_output), d_keys, d_values, self._line(terms, d_output))

    def _weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        scores = torch.bmm(queries, keys.mT)
        view = scores.view(-1, self._bias.shape[0], self._block, queries.shape[1] // self._block, keys.shape[1])
        view += self._bias
        return _softmax(scores)

    def _blocks(self, queries: Tensor, *keys_and_values: Tensor) -> list[Tensor]:
        """Cut (G, N, R, D) into (G * blocks, S * R, D), and (G, N, D) into (G * blocks, S + W, D)."""
        n_heads, n_positions, repeats, head_dim = queries.shape
        fill = -n_positions % self._block
        q = pad(queries, (0, 0, 0, 0, 0, fill)) if fill else queries
        found = [q.view(-1, self._block * repeats, head_dim)]
        for x in keys_and_values:
            found.append(x.index_select(1, self._keys).view(-1, self._block + self._window, head_dim))
        return found

    def _line(self, blocks: Tensor, like: Tensor) -> Tensor:
        """Put (G * blocks, S * R, X) back into (G, N, R, X)."""
        n_heads, n_positions, repeats, _ = like.shape
        n_blocks = len(self._bias)
        return blocks.view(n_heads, n_blocks * self._block, repeats, blocks.shape[-1])[:, :n_positions]

    def _sum(self, blocks: Tensor, like: Tensor) -> Tensor:
        """Add what each position got in its own block and as predecessor of the next one: -> (G, N, D)."""
        n_heads, n_positions, head_dim = like.shape
        before, own = blocks.view(n_heads, -1, self._window + self._block, head_dim).split(
            [self._window, self._block], dim=2
        )
        own = own.contiguous()
        own[:, :-1, self._block - self._window :] += before[:, 1:]
        return own.flatten(1, 2)[:, :n_positions]


def _product_gradients(
    inputs: Sequence[Tensor], weights: Tensor, d_output: Tensor, d_queries: Tensor, terms: Tensor
) -> tuple[Tensor, Tensor]:
    """Fill `d_queries` and `terms`; return the gradients of keys and values. All (n, rows or keys, D)."""
    queries, keys, values = inputs
    d_weights = torch.bmm(d_output, values.mT)
    if terms.shape[-1] == 1:
        torch.sum(weights * d_weights, -1, keepdim=True, dtype=terms.dtype, out=terms)
    elif terms.shape[-1]:
        torch.mul(d_output, torch.bmm(weights, values), out=terms)
    d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
    torch.bmm(d_scores, keys, out=d_queries)
    return torch.bmm(d_scores.mT, queries), torch.bmm(weights.mT, d_output)


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over the last dim, in fp32 inside (fp64 for fp64)."""
    if scores.dtype in (torch.float32, torch.float64) or scores.shape[-1] > _SHORT_KEYS:
        return scores.softmax(-1)
    return scores.softmax(-1, dtype=torch.float32).to(scores.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _empty_terms(queries: Tensor, terms_dim: int) -> Tensor:
    return queries.new_empty((*queries.shape[:2], terms_dim), dtype=torch.promote_types(queries.dtype, torch.float32))


def _query_blocks(length: int) -> list[tuple[int, int]]:
    """Cut 0..length into equal blocks of at most _QUERY_BLOCK positions."""
    n_blocks = -(-length // _QUERY_BLOCK)
    return list(itertools.pairwise(length * i // n_blocks for i in range(n_blocks + 1)))


def _rows(length: int, *tensors: Tensor) -> list[Tensor]:
    """View each (G, n * length, [R,] D) as (G * n, length * R, D)."""
    return [x.view(x.shape[0] * (x.shape[1] // length), -1, x.shape[-1]) for x in tensors]


def _length_ranges(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Split the lengths into ranges, each to be padded to its longest, at the least cost of pairs, moves and calls."""
    counts = sorted(Counter(lengths).items())
    best: list[tuple[float, int]] = [(0.0, 0)]  # of the shortest lengths: cost, start of the last range
    for end in range(1, len(counts) + 1):
        longest = counts[end - 1][0]
        blocks = _query_blocks(longest)
        each = sum((stop - start) * stop for start, stop in blocks) + _PAIRS_PER_POSITION * longest
        n_documents, options = 0, []
        for start in range(end - 1, -1, -1):
            n_documents += counts[start][1]
            options.append((best[start][0] + _PAIRS_PER_CALL * len(blocks) + n_documents * each, start))
        best.append(min(options))
    ranges, end = [], len(counts)
    while end:
        start = best[end][1]
        ranges.append((counts[start][0], counts[end - 1][0]))
        end = start
    return ranges
