"""Self-attention of one layer: plain in the first loop, gated global and local attention in later ones.

Legend: B rows, T positions, C hidden size, H query heads, G key/value heads, D head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codeflow.kernels.dispatch import causal_attention, gated_attention
from codeflow.kernels.documents import Documents
from codeflow.model.config import ModelConfig
from codeflow.model.rope import Rotation, rotate

KeyValue = tuple[Tensor, Tensor]  # keys after RoPE and values, each (B, T, G, D)


class GateProjection(nn.Module):
    """One gate logit per token and query head from q after RoPE; zero at first, so that g = 0.5."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.num_attention_heads, config.head_dim))
        self.bias = nn.Parameter(torch.zeros(config.num_attention_heads))

    def forward(self, q: Tensor) -> Tensor:
        """Return gate logits (B, T, H) of q (B, T, H, D)."""
        return torch.einsum("bthd,hd->bth", q, self.weight) + self.bias


class SelfAttention(nn.Module):
    """Projections of one layer; the same weights serve every loop."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        size, head_dim = config.hidden_size, config.head_dim
        self.q_proj = nn.Linear(size, config.num_attention_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(size, config.num_key_value_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(size, config.num_key_value_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * head_dim, size, bias=False)

    def project(self, x: Tensor, turn: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Return q (B, T, H, D), k and v (B, T, G, D) of x (B, T, C), RoPE applied to q and k."""
        split = (-1, self.config.head_dim)
        q, k, v = (proj(x).unflatten(-1, split) for proj in (self.q_proj, self.k_proj, self.v_proj))
        return rotate(q, turn), rotate(k, turn), v

    def forward(
        self,
        x: Tensor,
        turn: Rotation,
        documents: Documents | None,
        backend: str,
        gate: GateProjection | None = None,
        global_kv: KeyValue | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """Return the attention's output (B, T, C) and this loop's keys and values.

        `global_kv` are the first loop's keys and values of this layer; None means that this is the first loop.
        """
        q, k, v = self.project(x, turn)
        if global_kv is None:
            mixed = causal_attention(q, k, v, documents, backend)
        else:
            assert gate is not None, "a later loop needs gates"
            window = self.config.loop_window_size
            mixed = gated_attention(q, global_kv, (k, v), gate(q), documents, window, backend)
        return self.o_proj(mixed.flatten(-2)), (k, v)
