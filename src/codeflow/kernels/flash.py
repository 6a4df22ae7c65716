"""The `flash` back end: FlashAttention 4, 3 or 2, the newest installed, for the global part; window and gate behind.

Rows go in as sequences of one variable-length call, a document each, so no mask is made. The window and the gate are
one more kernel, that of the `triton` back end without its global part. Kept for the backward beside the inputs: the
global output A, B * T * H * D * 2 bytes, which FlashAttention and the gate share, and the log-sum-exps.

Legend: B rows, T positions, H query heads, G key/value heads, D head dim.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from codeflow.core.errors import UserError
from codeflow.kernels import triton_fused
from codeflow.kernels.documents import Documents

_INTERFACES = ("flash_attn.cute", "flash_attn_interface", "flash_attn")  # FlashAttention 4, 3, 2


def causal_attention(q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
    """Causal attention within documents: q (B, T, H, D), k and v (B, T, G, D), bf16 or fp16 -> (B, T, H, D)."""
    if q.element_size() != 2:
        raise UserError(f"the attention back end 'flash' takes bf16 or fp16, not {q.dtype}; use 'triton' or 'cpu'")
    edges, longest = _sequences(q, documents)
    found = _variable_length()(
        *(x.flatten(0, 1) for x in (q, k, v)),
        cu_seqlens_q=edges,
        cu_seqlens_k=edges,
        max_seqlen_q=longest,
        max_seqlen_k=longest,
        causal=True,
    )
    output = found[0] if isinstance(found, tuple) else found  # versions 3 and 4 may return the log-sum-exps as well
    return output.view(q.shape)


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
    return triton_fused.window_and_gate(global_part, q, local_kv, gate_logits, documents, window, strict)


def _sequences(q: Tensor, documents: Documents | None) -> tuple[Tensor, int]:
    """Return the int32 edges of all documents in the flattened rows, 0 first, and the longest one's length."""
    if documents is None:
        n_rows, length = q.shape[:2]
        return torch.arange(0, (n_rows + 1) * length, length, dtype=torch.int32, device=q.device), length
    return documents.once("sequences", lambda: _edges(documents)), documents.longest


def _edges(documents: Documents) -> Tensor:
    edges = torch.tensor((0, *documents.lengths), dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return edges.to(documents.starts.device)


@cache
def _variable_length() -> Callable[..., Any]:
    """Return the newest installed FlashAttention's function for sequences of different lengths."""
    for name in _INTERFACES:
        try:
            return importlib.import_module(name).flash_attn_varlen_func
        except ImportError:
            continue
    raise UserError(
        f"the attention back end 'flash' needs FlashAttention, and none of {', '.join(_INTERFACES)} can be imported; "
        "install flash-attn, or use 'triton'"
    )
