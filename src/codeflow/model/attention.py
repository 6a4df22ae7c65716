"""Self-attention of one layer: plain in the first loop, gated global and local attention in later ones.

Legend: B rows, T positions, C hidden size, H query heads, G key/value heads, D head dim, E gated elements (1 or D).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from codeflow.kernels.dispatch import Backend, causal_attention, gated_attention, shared_kv
from codeflow.kernels.documents import Documents
from codeflow.model.config import ModelConfig
from codeflow.model.projection import Projection
from codeflow.model.rope import Rotation, rotate

KeyValue = tuple[Tensor, Tensor]  # keys after RoPE and values, each (B, T, G, D)


class _HeadLogits(torch.autograd.Function):
    """The sum over c of source[b, t, h, c] * weight[h, c]; einsum's own backward makes an outer product of matrices."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return torch.einsum("bthc,hc->bth", *inputs)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor]:
        source, weight = ctx.saved_tensors
        return gradients[0][..., None] * weight, torch.einsum("bth,bthc->hc", gradients[0], source)


class GateProjection(nn.Module):
    """Gate logits per token and query head, from q after RoPE in the released model; zero at first, so that g = 0.5.

    Of a head's query (D) or, as a research option, of the hidden state (C); one logit per head or one per element.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.research = config.research
        gates = (config.num_attention_heads, *([config.head_dim] if self.research.gate_per_element else []))
        inputs = config.hidden_size if self.research.gate_input == "hidden" else config.head_dim
        self.weight = nn.Parameter(torch.zeros(*gates, inputs))
        self.bias = nn.Parameter(torch.zeros(gates))

    def forward(self, source: Tensor) -> Tensor:
        """Return logits (B, T, H), or (B, T, H, D) per element, of queries (B, T, H, D) or hidden states (B, T, C)."""
        hidden = self.research.gate_input == "hidden"
        if self.research.gate_per_element:
            return torch.einsum("btc,hec->bthe" if hidden else "bthc,hec->bthe", source, self.weight) + self.bias
        if hidden:
            return torch.einsum("btc,hc->bth", source, self.weight) + self.bias
        logits = _HeadLogits.apply(source, self.weight)
        assert isinstance(logits, Tensor)
        return logits + self.bias


class SelfAttention(nn.Module):
    """Projections of one layer; the same weights serve every loop."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        size, head_dim = config.hidden_size, config.head_dim
        self.q_proj = Projection(size, config.num_attention_heads * head_dim)
        self.k_proj = Projection(size, config.num_key_value_heads * head_dim)
        self.v_proj = Projection(size, config.num_key_value_heads * head_dim)
        self.o_proj = Projection(config.num_attention_heads * head_dim, size)

    def project(self, x: Tensor, turn: Rotation) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return q (B, T, H, D), k and v (B, T, G, D) of x (B, T, C), RoPE applied to q and k; and q before RoPE."""
        split = (-1, self.config.head_dim)
        q, k, v = (proj(x).unflatten(-1, split) for proj in (self.q_proj, self.k_proj, self.v_proj))
        return rotate(q, turn), rotate(k, turn), v, q

    def forward(
        self,
        x: Tensor,
        turn: Rotation,
        documents: Documents | None,
        backend: Backend,
        gate: GateProjection | None = None,
        global_kv: KeyValue | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """Return the attention's output (B, T, C) and this loop's keys and values.

        `global_kv` are the first loop's keys and values of this layer; None means that this is the first loop.
        """
        inputs = self.prepare(x, turn, gate if global_kv is not None else None)
        mixed, kv = self.attend(*inputs, documents, backend, global_kv)
        return self.o_proj(mixed.flatten(-2)), kv

    def prepare(
        self, x: Tensor, turn: Rotation, gate: GateProjection | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return what attention takes: q, k, v, and with `gate`, in a later loop, its logits."""
        q, k, v, plain_q = self.project(x, turn)
        if gate is None:
            return q, k, v, None
        return q, k, v, gate({"query": q, "query_before_rope": plain_q, "hidden": x}[self.config.research.gate_input])

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gate_logits: Tensor | None,
        documents: Documents | None,
        backend: Backend,
        global_kv: KeyValue | None,
    ) -> tuple[Tensor, KeyValue]:
        """Return what the heads found (B, T, H, D), and this loop's keys and values."""
        if global_kv is None:
            k, v = shared_kv(k, v, backend)
            return causal_attention(q, k, v, documents, backend), (k, v)
        assert gate_logits is not None, "a later loop needs gates"
        window, strict = self.config.loop_window_size, self.config.research.strict_local_mask
        return gated_attention(q, global_kv, (k, v), gate_logits, documents, window, backend, strict), (k, v)
