"""Softmax attention as batched matrix products over blocks of queries, forward and backward, for the `cpu` back end.

A block of queries meets only keys it may see. `Causal`: all of the document up to the block's end; documents of similar
length are padded to one length and share their products, because many small products cost more than a few with some
padding. `Band`: a block and the window before it, all blocks in one product. The backward recomputes the weights from
q, k and v: neither weights nor outputs are stored.

Softmax is computed in fp32 inside (`softmax`); for bf16 inputs the scores and weights between the products are rounded
to bf16, as in every eager bf16 implementation. On CPUs with bf16 instructions this is 3 to 4 times torch's own flash
kernel.

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
from codeflow.kernels.softmax import KeyRanges

_QUERY_BLOCK = 128  # positions; at 64 the products are too small, at 256 the wasted upper triangle costs more
_SMALLEST_BAND = 16  # positions
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
        """`like` (B, T, ...) gives length and device. Rows of one document each need no groups."""
        self._strict, self._device = strict, like.device
        self._ranges: dict[tuple[int, int], KeyRanges] = {}  # by the first query of a block and the one after it
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
            weights = self._seen(start, end).softmax(torch.bmm(queries[:, rows], keys[:, :end].mT))
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
            parts = _product_gradients(
                seen, self._seen(start, end), d_output[:, rows], d_queries[:, rows], terms[:, rows]
            )
            if end == keys.shape[1]:  # the last block comes first and reaches all keys
                d_keys, d_values = parts if len(blocks) == 1 else (_wide(x) for x in parts)  # sums are taken in fp32
            else:
                d_keys[:, :end] += parts[0]
                d_values[:, :end] += parts[1]
        return Gradients(d_queries, d_keys.to(keys.dtype), d_values.to(values.dtype), terms)

    def _seen(self, start: int, end: int) -> KeyRanges:
        """Return what queries start..end of a document see of its keys 0..end."""
        if (start, end) not in self._ranges:
            last = torch.arange(start, end, device=self._device) + (0 if self._strict else 1)
            if start == 0:
                last[0] = 1
            self._ranges[start, end] = KeyRanges(torch.zeros_like(last)[None], last[None], shared=start)
        return self._ranges[start, end]


class Band:
    """The last `window` positions of the document: blocks of S queries meet S + W keys, W positions a window."""

    def __init__(self, starts: Tensor, window: int, strict: bool) -> None:
        """`starts` (N,): for each position of all rows in one line the one its document starts at."""
        self._n_positions, self._window = len(starts), window
        self._block = max(window, _SMALLEST_BAND)
        self._n_blocks = -(-len(starts) // self._block)
        query = torch.arange(self._n_blocks * self._block, device=starts.device).view(self._n_blocks, self._block)
        start = pad(starts, (0, query.numel() - len(starts)), value=len(starts)).view_as(query)
        # who sees nothing sees itself: the caller sets the output to zero
        lone = (start == query) | (query >= len(starts)) | (strict and window == 1)
        begin = torch.where(lone, query, torch.maximum(query - window + 1, start))
        end = torch.where(lone, query + 1, query if strict else query + 1)
        left = query[:, :1] - window  # of a block's keys
        self._ranges = KeyRanges(begin - left, end - left)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `Attention`."""
        q, k, v = self._blocks(queries, keys, values)
        return self._line(torch.bmm(self._ranges.softmax(torch.bmm(q, k.mT)), v), queries)

    def backward(self, inputs: Sequence[Tensor], d_output: Tensor, terms_dim: int = 0) -> Gradients:
        """See `Attention`."""
        q, k, v = self._blocks(*inputs)
        (d_out,) = self._blocks(d_output)
        d_queries, terms = torch.empty_like(q), _empty_terms(q, terms_dim)
        parts = _product_gradients((q, k, v), self._ranges, d_out, d_queries, terms)
        d_keys, d_values = (self._sum(x, inputs[1]) for x in parts)
        return Gradients(self._line(d_queries, d_output), d_keys, d_values, self._line(terms, d_output))

    def _blocks(self, queries: Tensor, *keys_and_values: Tensor) -> list[Tensor]:
        """Cut (G, N, R, D) into (G * blocks, S * R, D), and (G, N, D) into (G * blocks, S + W, D)."""
        fill = -queries.shape[1] % self._block
        q = pad(queries, (0, 0, 0, 0, 0, fill)) if fill else queries
        found = [q.view(-1, self._block * queries.shape[2], queries.shape[3])]
        return [*found, *map(self._overlapping, keys_and_values)]

    def _overlapping(self, x: Tensor) -> Tensor:
        """Lay the heads of x (G, N, D) in one line; blocks and the windows before them are views of it.

        A head's first window are zeros or the head before it, which the ranges hide.
        """
        n_heads, n_positions, size = x.shape
        length = self._n_blocks * self._block
        line = x.new_empty((self._window + n_heads * length, size))
        line[: self._window] = 0
        heads = line[self._window :].view(n_heads, length, size)
        heads[:, :n_positions] = x
        heads[:, n_positions:] = 0
        shape = (n_heads * self._n_blocks, self._block + self._window, size)
        return line.as_strided(shape, (self._block * size, size, 1))

    def _line(self, blocks: Tensor, like: Tensor) -> Tensor:
        """Put (G * blocks, S * R, X) back into (G, N, R, X)."""
        n_heads, n_positions, repeats, _ = like.shape
        return blocks.view(n_heads, self._n_blocks * self._block, repeats, blocks.shape[-1])[:, :n_positions]

    def _sum(self, blocks: Tensor, like: Tensor) -> Tensor:
        """Add what each position got in its own block and in the window of the next: -> (G, N, D)."""
        n_heads, n_positions, head_dim = like.shape
        size, window = self._block, self._window
        parts = blocks.view(n_heads, self._n_blocks, window + size, head_dim)
        own, seen_again = parts[:, :, window:], size - window  # the first position that the next block sees
        total = own.new_empty(own.shape)
        total[:, :, :seen_again] = own[:, :, :seen_again]
        total[:, -1, seen_again:] = own[:, -1, seen_again:]
        torch.add(own[:, :-1, seen_again:], parts[:, 1:, :window], out=total[:, :-1, seen_again:])
        return total.flatten(1, 2)[:, :n_positions]


def _product_gradients(
    inputs: Sequence[Tensor], ranges: KeyRanges, d_output: Tensor, d_queries: Tensor, terms: Tensor
) -> tuple[Tensor, Tensor]:
    """Fill `d_queries` and `terms`; return the gradients of keys and values. All (n, rows or keys, D)."""
    queries, keys, values = inputs
    weights = ranges.softmax(torch.bmm(queries, keys.mT))
    if terms.shape[-1] > 1:
        torch.mul(d_output, torch.bmm(weights, values), out=terms)
    sums = terms[..., 0] if terms.shape[-1] == 1 else None
    d_scores = ranges.backward(weights, torch.bmm(d_output, values.mT), sums)
    torch.bmm(d_scores, keys, out=d_queries)
    return torch.bmm(d_scores.mT, queries), torch.bmm(weights.mT, d_output)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _empty_terms(queries: Tensor, terms_dim: int) -> Tensor:
    return queries.new_empty((*queries.shape[:2], terms_dim), dtype=torch.promote_types(queries.dtype, torch.float32))


def _query_blocks(length: int) -> list[tuple[int, int]]:
    """Cut 0..length into equal blocks of at most _QUERY_BLOCK positions."""
    n_blocks = -(-length // _QUERY_BLOCK)
    return list(itertools.pairwise(length * i // n_blocks for i in range(n_blocks + 1)))


def _rows(length: int, *tensors: Tensor) -> list[Tensor]:
    """View each (G, n * length, [R,] D) as (G * n, length * R, D), or copy it where its heads do not come first."""
    return [x.reshape(x.shape[0] * (x.shape[1] // length), -1, x.shape[-1]) for x in tensors]


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
