"""Small models for the tests of this room."""

from __future__ import annotations

import torch

from codeflow.model.config import ModelConfig
from codeflow.model.looped import LoopCoder

SHAPE = ModelConfig(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    initializer_range=0.2,
)


def changed(**fields: object) -> ModelConfig:
    """Return SHAPE with other fields."""
    return ModelConfig.model_validate(SHAPE.model_dump() | fields)


def make_model(config: ModelConfig, dtype: torch.dtype = torch.float32) -> LoopCoder:
    """Return a model whose gates and norms are random as well, so that losing one shows."""
    model = LoopCoder(config, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate_projection" in name:
                parameter.normal_(generator=generator)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5, generator=generator)
    return model.to(dtype)


def make_ids(n_rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Return random ids (n_rows, length)."""
    return torch.randint(0, SHAPE.vocab_size, (n_rows, length), generator=torch.Generator().manual_seed(seed))
