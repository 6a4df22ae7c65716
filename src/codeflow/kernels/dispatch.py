"""Choose the attention back end, by name or by device.

    reference   the definition with dense masks, any device, fp64 too; keeps everything
    cpu         batched products of blocks, any device; keeps nothing beside its inputs
    triton      one fused kernel, GPU; keeps the log-sum-exps, and in 16 bits the global output
    flash       FlashAttention 4, 3 or 2, window and gate fused behind it, GPU, 16 bits; keeps the same

The last two need the extra `triton`; bytes are measured by `memory.saved_bytes`. A back end may also be given as an
object: those of rows which several ranks share are in `parallel.context`.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor

from codeflow.core.errors import UserError, suggest
from codeflow.kernels.documents import Documents


class AttentionBackend(Protocol):
    """The two operations, and what loops share, as an object."""

    def shared_kv(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first loop's keys and values (B, T, G, D) in the form that this object's operations take."""
        ...

    def causal_attention(self, q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
        """See `causal_attention` of this module; k and v come from `shared_kv`."""
        ...

    def gated_attention(
        self,
        q: Tensor,
        global_kv: tuple[Tensor, Tensor],
        local_kv: tuple[Tensor, Tensor],
        gate_logits: Tensor,
        documents: Documents | None,
        window: int,
        strict: bool = False,
    ) -> Tensor:
        """See `gated_attention` of this module; `global_kv` comes from `shared_kv`, `local_kv` does not."""
        ...


Backend = str | AttentionBackend
_BACKENDS = {"reference": "reference", "cpu": "cpu", "triton": "triton_fused", "flash": "flash"}


def default_backend(device: torch.device) -> str:
    """Return the name of the back end used on `device`; record it with the run.

    `triton` on CUDA devices where Triton is installed; else `cpu`, whose torch calls run on every device.
    """
    return "triton" if device.type == "cuda" and find_spec("triton") else "cpu"


def shared_kv(k: Tensor, v: Tensor, backend: Backend) -> tuple[Tensor, Tensor]:
    """Return the first loop's keys and values (B, T, G, D) as all loops' operations take them."""
    return (k, v) if isinstance(backend, str) else backend.shared_kv(k, v)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, documents: Documents | None, backend: Backend) -> Tensor:
    """Plain causal attention within documents: q (B, T, H, D), k and v (B, T, G, D) -> (B, T, H, D)."""
    return _backend(backend).causal_attention(q, k, v, documents)


def gated_attention(
    q: Tensor,
    global_kv: tuple[Tensor, Tensor],
    local_kv: tuple[Tensor, Tensor],
    gate_logits: Tensor,
    documents: Documents | None,
    window: int,
    backend: Backend,
    strict: bool = False,
) -> Tensor:
    """Attention of a later loop (LoopCoder §2): g * causal(q, K1, V1) + (1 - g) * window(q, K2, V2).

    q (B, T, H, D) after RoPE; K, V (B, T, G, D); gate_logits (B, T, H), or (B, T, H, D) for a gate per element.
    The window holds the last `window` positions, the current one included; `strict` leaves it out, and a query that
    then sees nothing gets zero from the window. Gradients flow into K1 and V1.
    """
    return _backend(backend).gated_attention(q, global_kv, local_kv, gate_logits, documents, window, strict)


def _backend(name: Backend) -> Any:
    """Import a back end when it is first used. Raises UserError for an unknown name or a library that is missing."""
    if not isinstance(name, str):
        return name
    if name not in _BACKENDS:
        raise UserError(f"no attention back end '{name}'{suggest(name, _BACKENDS)}")
    try:
        return importlib.import_module(f"codeflow.kernels.{_BACKENDS[name]}")
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise UserError(f"the attention back end '{name}' needs Triton; pip install 'codeflow[triton]'") from error
