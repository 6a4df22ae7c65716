"""Attention on CPU as batched matrix products over blocks of queries, with its own backward.

A block of queries meets only the keys it may see: all earlier ones (causal), or its own and its predecessor block
(window, T * 2W scores instead of T * T). Packed rows are a loop over documents, consecutive ones of equal length in
one call. The backward recomputes the weights from q, k, v: neither weights nor outputs are stored.

Softmax is computed in fp32 inside; for bf16 inputs the scores and weights between the products are rounded to bf16, as
in every eager bf16 implementation. On CPUs with bf16 instructions this is 2 to 3 times torch's own flash kernel.

Legend: B rows, T positions, H = G * R query heads, G key/value heads, D head dim, W window, N blocks per row,
n = batch of a matrix product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from codeflow.kernels.documents import Documents, block_mask
from codeflow.kernels.reference import mix as mix  # plain arithmetic; nothing to gain from blocks

_QUERY_BLOCK = 128  # positions; at 64 the products are too small, at 256 the wasted upper triangle costs more


def causal_attention(q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
    """Causal attention within documents: q (B, T, H, D), k and v (B, T, G, D) -> (B, T, H, D)."""
    if documents is None:
        return _causal(q, k, v)
    # One split and one cat: their backward is one cat and one split, where slicing would fill whole zero tensors.
    parts = zip(documents.runs, *(x.flatten(0, 1).split(documents.sizes) for x in (q, k, v)), strict=True)
    outputs = [_causal(*(x.unflatten(0, run) for x in qkv)).flatten(0, 1) for run, *qkv in parts]
    return torch.cat(outputs).view(q.shape)


def window_attention(q: Tensor, k: Tensor, v: Tensor, documents: Documents | None, window: int) -> Tensor:
    """Causal attention to the last `window` positions of the document, the current one included."""
    n_rows, length, n_heads, head_dim = q.shape
    if (documents.longest if documents else length) <= window:
        return causal_attention(q, k, v, documents)
    if documents is None:
        visible = block_mask(torch.zeros(1, length, dtype=torch.int64, device=q.device), window)
        visible = visible.expand(n_rows, -1, -1, -1)
    else:
        visible = documents.block_mask(window)
    n_blocks = visible.shape[1]
    fill = n_blocks * window - length
    queries = pad(q, (0, 0, 0, 0, 0, fill)).view(n_rows * n_blocks, window, n_heads, head_dim)
    keys, values = (_with_predecessor(x, window, fill) for x in (k, v))
    output = _attend(queries, keys, values, visible.flatten(0, 1))
    return output.reshape(n_rows, n_blocks * window, n_heads, head_dim)[:, :length]


def _with_predecessor(x: Tensor, window: int, fill: int) -> Tensor:
    """Cut (B, T, G, D) into blocks and put each one's predecessor before it: (B * N, 2W, G, D)."""
    blocks = pad(x, (0, 0, 0, 0, window, fill)).unflatten(1, (-1, window))  # (B, N + 1, W, G, D)
    return torch.cat([blocks[:, :-1], blocks[:, 1:]], dim=2).flatten(0, 1)


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if q.shape[1] == 1:  # a lone token sees itself only
        return v.repeat_interleave(q.shape[2] // v.shape[2], dim=2)
    return _attend(q, k, v, None)


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """Attention of q (B, S, H, D) to k and v (B, Z, G, D); `visible` (B, S, Z) bool, None for causal (S = Z)."""
    n_kv_heads = k.shape[2]
    repeats = q.shape[2] // n_kv_heads
    queries = q.unflatten(2, (n_kv_heads, repeats)).transpose(1, 2).flatten(2, 3).flatten(0, 1)  # (B*G, S*R, D)
    keys, values = (x.transpose(1, 2).flatten(0, 1) for x in (k, v))  # (B*G, Z, D)
    if visible is None:
        bias = None
    else:
        spread = visible[:, None, :, None].expand(-1, n_kv_heads, -1, repeats, -1)
        bias = torch.zeros(spread.shape, dtype=q.dtype).masked_fill_(~spread, -torch.inf)
        bias = bias.view(*queries.shape[:2], -1)
    output = _Attend.apply(queries, keys, values, bias, repeats)
    assert isinstance(output, Tensor)
    return output.view(q.shape[0], n_kv_heads, q.shape[1], repeats, -1).transpose(1, 2).flatten(2, 3)


class _Attend(torch.autograd.Function):
    """queries (n, S*R, D), keys and values (n, Z, D), bias (n, S*R, Z) added to the scores or None for causal."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        queries, keys, values, bias, repeats = inputs
        ctx.save_for_backward(queries, keys, values, bias)
        ctx.repeats = repeats
        output = torch.empty_like(queries)
        for rows, seen in _blocks(queries, keys, bias, repeats):
            weights = _weights(queries[:, rows], keys[:, :seen], bias, repeats)
            torch.bmm(weights, values[:, :seen], out=output[:, rows])
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, bias = ctx.saved_tensors
        scale = queries.shape[-1] ** -0.5
        d_output = gradients[0].contiguous()
        d_queries = torch.empty_like(queries)
        wide = torch.promote_types(keys.dtype, torch.float32)
        blocks = _blocks(queries, keys, bias, ctx.repeats)
        # Sums over several blocks are taken in fp32; a single block needs no sum.
        d_keys, d_values = (torch.zeros(keys.shape, dtype=wide) for _ in range(2)) if len(blocks) > 1 else (None, None)
        for rows, seen in blocks:
            weights = _weights(queries[:, rows], keys[:, :seen], bias, ctx.repeats)
            d_weights = torch.bmm(d_output[:, rows], values[:, :seen].mT)
            d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            torch.bmm(d_scores, keys[:, :seen], out=d_queries[:, rows])
            block_d_keys = torch.bmm(d_scores.mT, queries[:, rows])
            block_d_values = torch.bmm(weights.mT, d_output[:, rows])
            if d_keys is None or d_values is None:
                d_keys, d_values = block_d_keys, block_d_values
            else:
                d_keys[:, :seen] += block_d_keys
                d_values[:, :seen] += block_d_values
        assert d_keys is not None
        assert d_values is not None
        return d_queries.mul_(scale), d_keys.mul_(scale).to(keys.dtype), d_values.to(values.dtype), None, None


def _blocks(queries: Tensor, keys: Tensor, bias: Tensor | None, repeats: int) -> list[tuple[slice, int]]:
    """Return for each block of queries its rows and how many keys it may see."""
    if bias is not None:
        return [(slice(0, queries.shape[1]), keys.shape[1])]
    length = keys.shape[1]
    ends = [min(start + _QUERY_BLOCK, length) for start in range(0, length, _QUERY_BLOCK)]
    starts = range(0, length, _QUERY_BLOCK)
    return [(slice(start * repeats, end * repeats), end) for start, end in zip(starts, ends, strict=True)]


def _weights(queries: Tensor, keys: Tensor, bias: Tensor | None, repeats: int) -> Tensor:
    """Return softmax weights (n, rows, seen). Without a bias the last rows / R keys are the queries' own positions."""
    scores = torch.bmm(queries * queries.shape[-1] ** -0.5, keys.mT)
    if bias is not None:
        scores += bias
    else:
        n_own = queries.shape[1] // repeats
        hidden = torch.full((n_own, n_own), -torch.inf, dtype=scores.dtype).triu_(1)
        own = scores[..., -n_own:].unflatten(1, (n_own, repeats))
        own += hidden[:, None]
    return scores.softmax(-1)
