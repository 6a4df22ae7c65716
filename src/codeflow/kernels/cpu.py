"""The `cpu` back end: attention from batched products of blocks, with a backward of its own. Runs on any device.

The gated operation keeps its inputs for the backward and nothing else. Its backward recomputes the weights of both
attentions and gets from them, beside the gradients of q, k and v, the terms D_A = rowsum(dA * A) = g rowsum(dO * A) and
D_B = (1 - g) rowsum(dO * B); the gate logit's gradient is then (1 - g) D_A - g D_B. Nothing is subtracted that was
rounded as a sum before, so small gates lose no digits. With a gate per element the terms are not summed.

Legend: B rows, T positions, H = G * R query heads, G key/value heads, D head dim, W window, N = B * T.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from codeflow.kernels.arrays import as_array, compiled_functions, compiling_pays
from codeflow.kernels.blocks import Attention, Band, Causal
from codeflow.kernels.documents import Documents
from codeflow.kernels.wide import product_dtype


def causal_attention(q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
    """Causal attention within documents: q (B, T, H, D), k and v (B, T, G, D) -> (B, T, H, D)."""
    return _apply(_Plain, q, k, v, _causal(q, documents))


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents | None, window: int, strict: bool = False
) -> Tensor:
    """Causal attention to the last `window` positions of the document; see `reference.window_attention`."""
    return _apply(_Plain, q, k, v, _local(q, documents, window, strict))


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
    views = (_causal(q, documents), _local(q, documents, window, strict))
    return _apply(_Gated, q, *global_kv, *local_kv, gate_logits, *views)


def _apply(function: type[torch.autograd.Function], *inputs: Any) -> Tensor:
    output = function.apply(*inputs)
    assert isinstance(output, Tensor)
    return output


@dataclass(frozen=True)
class _View:
    """What an attention sees; `blind` (N,) marks queries that see nothing and get zero, None when there are none."""

    attention: Attention
    blind: Tensor | None = None

    def dark(self, x: Tensor) -> Tensor:
        """Set x (G, N, R, D) to zero where queries see nothing."""
        return x if self.blind is None else x.masked_fill_(self.blind[:, None, None], 0)


def _causal(q: Tensor, documents: Documents | None) -> _View:
    if documents is None:
        return _causal_rows(q.shape[1], q.device)
    return documents.once("causal", lambda: _View(Causal(documents, q)))


def _local(q: Tensor, documents: Documents | None, window: int, strict: bool) -> _View:
    longest = q.shape[1] if documents is None else documents.longest
    window = min(window, longest + 1)
    if window >= longest and not strict:
        return _causal(q, documents)
    if documents is None:
        return _local_rows(q.shape[:2], window, strict, q.device)
    return documents.once(("local", window, strict), lambda: _make_local(documents.starts, documents, window, strict))


@lru_cache(8)
def _causal_rows(length: int, device: torch.device) -> _View:
    return _View(Causal(None, torch.empty((1, length), device=device)))


@lru_cache(8)
def _local_rows(shape: tuple[int, int], window: int, strict: bool, device: torch.device) -> _View:
    starts = torch.zeros(shape, dtype=torch.int64, device=device)
    return _make_local(starts, None, window, strict)


def _make_local(starts: Tensor, documents: Documents | None, window: int, strict: bool) -> _View:
    n_rows, length = starts.shape
    here = torch.arange(length, device=starts.device)
    blind = ((starts == here) | (window == 1)).flatten() if strict else None
    if window > (length if documents is None else documents.longest):
        return _View(Causal(documents, starts, strict), blind)
    in_line = starts + length * torch.arange(n_rows, device=starts.device)[:, None]
    return _View(Band(in_line.flatten(), window, strict), blind)


def _heads_first(x: Tensor, n_kv_heads: int, scale: float | None = None) -> Tensor:
    """Copy (B, T, H, X) to (G, N, R, X), times `scale`, in the precision of products."""
    view = x.unflatten(2, (n_kv_heads, -1)).permute(2, 0, 1, 3, 4)
    copy = torch.empty(view.shape, dtype=product_dtype(x), device=x.device)
    return (copy.copy_(view) if scale is None else torch.mul(view.to(copy.dtype), scale, out=copy)).flatten(1, 2)


def _kv_heads_first(x: Tensor) -> Tensor:
    """View (B, T, G, D) as (G, N, D), in the precision of products."""
    return x.permute(2, 0, 1, 3).flatten(1, 2).to(product_dtype(x))


def _heads_last(x: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Copy (G, N, R, X) to (B, T, H, X), or (G, N, D) to (B, T, G, D); `shape` and `dtype` are the result's."""
    return x.unflatten(1, shape[:2]).movedim(0, 2).to(dtype).reshape(shape)


class _Plain(torch.autograd.Function):
    """One attention; keeps its inputs for the backward."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        q, k, v, view = inputs
        ctx.save_for_backward(q, k, v)
        ctx.view = view
        queries = _heads_first(q, k.shape[2], q.shape[-1] ** -0.5)
        output = view.dark(view.attention.forward(queries, *map(_kv_heads_first, (k, v))))
        return _heads_last(output, q.shape, q.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        inputs = (_heads_first(q, k.shape[2], scale), *map(_kv_heads_first, (k, v)))
        found = ctx.view.attention.backward(inputs, ctx.view.dark(_heads_first(gradients[0], k.shape[2])))
        d_q = _heads_last(found.queries, q.shape, q.dtype).mul_(scale)
        d_k, d_v = (_heads_last(x, k.shape, k.dtype) for x in (found.keys, found.values))
        return d_q, d_k, d_v, None


class _Gated(torch.autograd.Function):
    """g * causal(q, K1, V1) + (1 - g) * local(q, K2, V2); see the module's text for the backward."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        q, k1, v1, k2, v2, gate_logits, whole, local = inputs
        ctx.save_for_backward(q, k1, v1, k2, v2, gate_logits)
        ctx.views = whole, local
        gate = _gate(gate_logits, k1.shape[2])
        queries = _heads_first(q, k1.shape[2], q.shape[-1] ** -0.5)
        global_part = whole.attention.forward(queries, *map(_kv_heads_first, (k1, v1)))
        local_part = local.dark(local.attention.forward(queries, *map(_kv_heads_first, (k2, v2))))
        return _mix(global_part, local_part, gate, q)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k1, v1, k2, v2, gate_logits = ctx.saved_tensors
        whole, local = ctx.views
        scale = q.shape[-1] ** -0.5
        gate = _gate(gate_logits, k1.shape[2])
        queries = _heads_first(q, k1.shape[2], scale)
        d_global, d_local = _unmix(gradients[0], gate, queries)
        first = whole.attention.backward((queries, *map(_kv_heads_first, (k1, v1))), d_global, gate.shape[-1])
        d_local = local.dark(d_local)
        second = local.attention.backward((queries, *map(_kv_heads_first, (k2, v2))), d_local, gate.shape[-1])
        d_q = _heads_last(first.queries.add_(second.queries), q.shape, q.dtype).mul_(scale)
        d_logits = (1 - gate) * first.terms - gate * second.terms
        d_logits = _heads_last(d_logits, q.shape[:3] + gate.shape[-1:], gate_logits.dtype).view(gate_logits.shape)
        parts = zip((k1, v1, k2, v2), (first.keys, first.values, second.keys, second.values), strict=True)
        return d_q, *(_heads_last(found, x.shape, x.dtype) for x, found in parts), d_logits, None, None


def _gate(gate_logits: Tensor, n_kv_heads: int) -> Tensor:
    """Return g (G, N, R, 1 or D), fp32 or fp64, of logits (B, T, H) or (B, T, H, D)."""
    logits = gate_logits[..., None] if gate_logits.dim() == 3 else gate_logits
    wide = torch.promote_types(logits.dtype, torch.float32)
    return _heads_first(logits, n_kv_heads).to(wide).sigmoid()


def _mix(wide: Tensor, near: Tensor, gate: Tensor, like: Tensor) -> Tensor:
    """Return gate * wide + (1 - gate) * near, shaped as `like` (B, T, H, D); both parts (G, N, R, D)."""
    if not compiling_pays(wide):
        mixed = torch.lerp(near.to(gate.dtype), wide.to(gate.dtype), gate)
        return _heads_last(mixed, like.shape, like.dtype)
    out = wide.new_empty((wide.shape[1], wide.shape[0], *wide.shape[2:]))
    compiled_functions().mix(as_array(wide), as_array(near.contiguous()), gate.numpy(), as_array(out))
    return out.view(like.shape).to(like.dtype)


def _unmix(d_mixed: Tensor, gate: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of `_mix` by its parts, shaped as `like` (G, N, R, D), for d_mixed (B, T, H, D)."""
    if not compiling_pays(like):
        d_heads = _heads_first(d_mixed, like.shape[0])
        return (gate * d_heads).to(like.dtype), ((1 - gate) * d_heads).to(like.dtype)
    d_wide, d_near = torch.empty_like(like), torch.empty_like(like)
    d_heads = d_mixed.to(like.dtype, memory_format=torch.contiguous_format).view(
        like.shape[1], like.shape[0], *like.shape[2:]
    )
    compiled_functions().unmix(as_array(d_heads), gate.numpy(), as_array(d_wide), as_array(d_near))
    return d_wide, d_near
