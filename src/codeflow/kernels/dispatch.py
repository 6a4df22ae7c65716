"""Choose the attention back end: `reference` (plain, any device and dtype) or `cpu` (products of blocks)."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from codeflow.core.errors import UserError, suggest
from codeflow.kernels import cpu, reference
from codeflow.kernels.documents import Documents

_BACKENDS: dict[str, ModuleType] = {"reference": reference, "cpu": cpu}


def default_backend(device: torch.device) -> str:
    """Return the name of the back end used on `device`; record it with the run.

    The `cpu` one is made of torch calls that run on every device, so it serves accelerators as well.
    """
    return "cpu"


def causal_attention(q: Tensor, k: Tensor, v: Tensor, documents: Documents | None, backend: str) -> Tensor:
    """Plain causal attention within documents: q (B, T, H, D), k and v (B, T, G, D) -> (B, T, H, D)."""
    return _backend(backend).causal_attention(q, k, v, documents)


def gated_attention(
    q: Tensor,
    global_kv: tuple[Tensor, Tensor],
    local_kv: tuple[Tensor, Tensor],
    gate_logits: Tensor,
    documents: Documents | None,
    window: int,
    backend: str,
    strict: bool = False,
) -> Tensor:
    """Attention of a later loop (LoopCoder §2): g * causal(q, K1, V1) + (1 - g) * window(q, K2, V2).

    q (B, T, H, D) after RoPE; K, V (B, T, G, D); gate_logits (B, T, H), or (B, T, H, D) for a gate per element.
    The window holds the last `window` positions, the current one included; `strict` leaves it out, and a query that
    then sees nothing gets zero from the window. Gradients flow into K1 and V1.
    """
    return _backend(backend).gated_attention(q, global_kv, local_kv, gate_logits, documents, window, strict)


def _backend(name: str) -> ModuleType:
    if name not in _BACKENDS:
        raise UserError(f"no attention back end '{name}'{suggest(name, _BACKENDS)}")
    return _BACKENDS[name]
