"""Attention written as its definition, with dense masks: the judge of the other back ends, in any float dtype.

Its gradients are autograd's: both attentions' outputs and all weights are kept.

Legend: B rows, T positions, H query heads, G key/value heads (H is a multiple of G), D head dim.
Source: LoopCoder §2 and the released semantics (`key j is visible to query i iff i - window < j <= i`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from codeflow.kernels.documents import Documents


def mask(
    length: int, documents: Documents | None, window: int | None, device: torch.device, strict: bool = False
) -> Tensor:
    """Return (B or 1, T, T) bool: may query i see key j (causal, same document, within `window` if given).

    `strict` hides the query's own position as well.
    """
    query = torch.arange(length, device=device).view(1, length, 1)
    key = torch.arange(length, device=device).view(1, 1, length)
    visible = key < query if strict else key <= query
    if window is not None:
        visible = visible & (key > query - window)
    if documents is not None:
        visible = visible & (key >= documents.starts[:, :, None])
    return visible


def attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) v over visible keys. q (B, T, H, D), k and v (B, T, G, D), visible (B, T, T).

    Softmax is taken in fp32, or in fp64 for fp64 inputs; the result has q's dtype. A query that sees nothing gets zero.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    repeats = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(repeats, dim=2).to(wide) for x in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q.to(wide), k) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~visible[:, None], torch.finfo(wide).min).softmax(dim=-1)
    weights = weights.masked_fill(~visible[:, None], 0.0)  # for those who see nothing
    return torch.einsum("bhts,bshd->bthd", weights, v).to(q.dtype)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
    """Causal attention within documents: q (B, T, H, D), k and v (B, T, G, D) -> (B, T, H, D)."""
    return attention(q, k, v, mask(q.shape[1], documents, None, q.device))


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents | None, window: int, strict: bool = False
) -> Tensor:
    """Causal attention to the last `window` positions of the document, the current one included unless `strict`."""
    return attention(q, k, v, mask(q.shape[1], documents, window, q.device, strict))


def mix(global_part: Tensor, local_part: Tensor, gate_logits: Tensor) -> Tensor:
    """Return g * global + (1 - g) * local with g = sigmoid(gate_logits).

    Parts (B, T, H, D), logits (B, T, H) for one gate per head or (B, T, H, D) for one per element.
    """
    wide = torch.promote_types(gate_logits.dtype, torch.float32)
    gate = gate_logits.to(wide).sigmoid()
    gate = gate[..., None] if gate.dim() == 3 else gate
    return (gate * global_part.to(wide) + (1 - gate) * local_part.to(wide)).to(global_part.dtype)


def gated_attention(
    q: Tensor,
    global_kv: tuple[Tensor, Tensor],
    local_kv: tuple[Tensor, Tensor],
    gate_logits: Tensor,
    documents: Documents | None,
    window: int,
    strict: bool = False,
) -> Tensor:
    """Attention of a later loop; see `dispatch.gated_attention`."""
    global_part = causal_attention(q, *global_kv, documents)
    local_part = window_attention(q, *local_kv, documents, window, strict)
    return mix(global_part, local_part, gate_logits)
