"""One pre-norm decoder layer: attention and SwiGLU, each added to the residual stream.

Legend: B rows, T positions, C hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from codeflow.kernels.documents import Documents
from codeflow.model.attention import GateProjection, KeyValue, SelfAttention
from codeflow.model.config import ModelConfig
from codeflow.model.rope import Rotation


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dim, computed in fp32 (fp64 for fp64 inputs)."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised x, same shape and dtype."""
        return torch.nn.functional.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """A layer that every loop runs; `gate_projection` exists when the model is looped."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config)
        self.gate_projection = GateProjection(config) if config.looped else None

    def forward(
        self,
        x: Tensor,
        turn: Rotation,
        documents: Documents | None,
        backend: str,
        global_kv: KeyValue | None = None,
        residual_scale: float = 1.0,
    ) -> tuple[Tensor, KeyValue]:
        """Run the layer on x (B, T, C); returns the new x and this loop's keys and values.

        `residual_scale` multiplies what both branches add; 1.0 is the released model.
        """
        attended, kv = self.self_attn(
            self.input_layernorm(x), turn, documents, backend, self.gate_projection, global_kv
        )
        x = x + (attended if residual_scale == 1.0 else residual_scale * attended)
        grown = self.mlp(self.post_attention_layernorm(x))
        return x + (grown if residual_scale == 1.0 else residual_scale * grown), kv
