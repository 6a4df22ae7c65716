"""Attention on CPU: torch's flash kernel where the mask is causal, blocks of the window's size where it is local.

Packed rows are a loop over documents (consecutive ones of equal length in one call), so no dense mask is made.
A window is cut into blocks that see themselves and their predecessor: T * 2W scores instead of T * T.

Legend: B rows, T positions, H query heads, G key/value heads, D head dim, W window, N blocks per row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from codeflow.kernels.documents import Documents, block_mask
from codeflow.kernels.reference import mix as mix  # the same arithmetic is already the fast one


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
    longest = documents.longest if documents else length
    if longest <= window:
        return causal_attention(q, k, v, documents)
    if documents is None:
        starts = torch.zeros(1, length, dtype=torch.int64, device=q.device)
        visible = block_mask(starts, window).expand(n_rows, -1, -1, -1)
    else:
        visible = documents.block_mask(window)
    n_blocks = visible.shape[1]
    fill = n_blocks * window - length
    q = pad(q, (0, 0, 0, 0, 0, fill)).view(n_rows * n_blocks, window, n_heads, head_dim)
    k, v = (_with_predecessor(x, window, fill) for x in (k, v))
    output = scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=visible.reshape(n_rows * n_blocks, 1, window, 2 * window),
        enable_gqa=k.shape[2] != n_heads,
    )
    return output.transpose(1, 2).reshape(n_rows, n_blocks * window, n_heads, head_dim)[:, :length]


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if q.shape[1] == 1:  # a lone token sees itself only
        return v.repeat_interleave(q.shape[2] // v.shape[2], dim=2)
    output = scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        is_causal=True,
        enable_gqa=k.shape[2] != q.shape[2],
    )
    return output.transpose(1, 2)


def _with_predecessor(x: Tensor, window: int, fill: int) -> Tensor:
    """Cut (B, T, G, D) into blocks and put each one's predecessor before it: (B * N, 2W, G, D)."""
    blocks = pad(x, (0, 0, 0, 0, window, fill)).unflatten(1, (-1, window))  # (B, N + 1, W, G, D)
    return torch.cat([blocks[:, :-1], blocks[:, 1:]], dim=2).flatten(0, 1)
