"""Choose the attention back end: `reference` (plain, any device and dtype) or `cpu` (flash and window blocks)."""

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
) -> Tensor:
    """Attention of a later loop (LoopCoder §2): g * causal(q, K1, V1) + (1 - g) * window(q, K2, V2).

    q (B, T, H, D) after RoPE; K, V (B, T, G, D); gate_logits (B, T, H). Gradients flow into K1 and V1.
    """
    kernel = _backend(backend)
    global_part = kernel.causal_attention(q, *global_kv, documents)
    local_part = kernel.window_attention(q, *local_kv, documents, window)
    return kernel.mix(global_part, local_part, gate_logits)


def _backend(name: str) -> ModuleType:
    if name not in _BACKENDS:
        raise UserError(f"no attention back end '{name}'{suggest(name, _BACKENDS)}")
    return _BACKENDS[name]
