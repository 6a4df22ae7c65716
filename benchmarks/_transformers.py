"""transformers as a peer: its environment, and the shape of 12.6 M matmul parameters that all sides are timed with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks._peers import PEERS, environment

PEER = PEERS / "transformers"
SHAPE: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 320,
    "intermediate_size": 872,
    "num_hidden_layers": 8,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
}


def peer_python(requirements: str = "requirements") -> Path:
    """Return the interpreter of one of transformers' environments, made first if it is not there."""
    return environment("transformers", requirements)
