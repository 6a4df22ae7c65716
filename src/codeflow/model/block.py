"""One pre-norm decoder layer: attention and SwiGLU, each added to the residual stream.

Legend: B rows, T positions, C hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from codeflow.kernels.dispatch import Backend
from codeflow.kernels.documents import Documents
from codeflow.model.attention import GateProjection, KeyValue, SelfAttention
from codeflow.model.checkpointing import recomputed
from codeflow.model.config import ModelConfig
from codeflow.model.elementwise import rms_norm, swiglu
from codeflow.model.projection import Projection
from codeflow.model.rope import Rotation

Tap = Callable[[str, Tensor], Tensor]  # (name within the block, weight) -> the weight to compute with


def _itself(x: Tensor) -> Tensor:
    return x


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dim, computed in fp32 (fp64 for fp64 inputs)."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor, use: Callable[[Tensor], Any] = _itself) -> Any:
        """Return the normalised x, same shape and dtype, or what `use` makes of it, for which it need not be kept."""
        return recomputed(self._normed, (x, self.weight), use)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight, self.epsilon)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Projection(config.hidden_size, config.intermediate_size)
        self.up_proj = Projection(config.hidden_size, config.intermediate_size)
        self.down_proj = Projection(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        return recomputed(swiglu, (self.gate_proj(x), self.up_proj(x)), self.down_proj)


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
        backend: Backend,
        global_kv: KeyValue | None = None,
        residual_scale: float = 1.0,
        tap: Tap | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """Run the layer on x (B, T, C); returns the new x and this loop's keys and values.

        `residual_scale` multiplies what both branches add; 1.0 is the released model. `tap` stands between this run
        and the weights that all loops share.
        """
        if tap is not None:
            with tapped(self, tap):
                return self.forward(x, turn, documents, backend, global_kv, residual_scale)
        attended, kv = self.input_layernorm(
            x, lambda normed: self.self_attn(normed, turn, documents, backend, self.gate_projection, global_kv)
        )
        return self.finish(x, attended, None if residual_scale == 1.0 else residual_scale), kv

    def finish(self, x: Tensor, attended: Tensor, scale: float | Tensor | None) -> Tensor:
        """Return x (B, T, C) plus the attention's output and what the MLP makes of that; `scale` multiplies both."""
        x = x + (attended if scale is None else scale * attended)
        grown = self.post_attention_layernorm(x, self.mlp)
        return x + (grown if scale is None else scale * grown)


@contextmanager
def tapped(block: Block, tap: Tap) -> Iterator[None]:
    """Let the block compute with `tap(name, weight)` in place of each shared weight; gates belong to later loops only.

    An attribute of the instance hides the parameter of its name, whatever sharding has put there for this run.
    """
    hidden: list[tuple[nn.Module, str]] = []
    try:
        for prefix, module in block.named_modules():
            for leaf, weight in module._parameters.items():
                if weight is not None and not isinstance(module, GateProjection):
                    module.__dict__[leaf] = tap(f"{prefix}.{leaf}", weight)
                    hidden.append((module, leaf))
        yield
    finally:
        for module, leaf in hidden:
            del module.__dict__[leaf]
