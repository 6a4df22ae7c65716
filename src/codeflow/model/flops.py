"""Exact parameter counts, floating-point operations and cache bytes of a shape, loops counted. Does not import torch.

An operation is one multiplication or one addition. Counted: matrix products, attention's two products over the keys
that are visible, gates. Not counted: norms, rotations, softmax, the mix (below 1 % at any published shape).
"""

from __future__ import annotations

from dataclasses import dataclass

from codeflow.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Parameters by part. `head` is 0 when it is tied to the embedding."""

    embedding: int
    attention: int
    mlp: int
    norms: int
    gates: int
    head: int

    @property
    def total(self) -> int:
        """All parameters: what a checkpoint holds."""
        return self.embedding + self.attention + self.mlp + self.norms + self.gates + self.head


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Return the exact number of parameters; looping adds only gates."""
    c, layers = config, config.num_hidden_layers
    q_size, kv_size = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    table = c.vocab_size * c.hidden_size
    return ParameterCount(
        embedding=table,
        attention=layers * c.hidden_size * (2 * q_size + 2 * kv_size),
        mlp=layers * 3 * c.hidden_size * c.intermediate_size,
        norms=(2 * layers + 1) * c.hidden_size,
        gates=layers * (gate_weights(c) + gate_biases(c)) if c.looped else 0,
        head=0 if c.tie_word_embeddings else table,
    )


def gate_biases(config: ModelConfig) -> int:
    """Return how many gates a layer has for each token: one per head, or per element of a head's output."""
    return config.num_attention_heads * (config.head_dim if config.research.gate_per_element else 1)


def gate_weights(config: ModelConfig) -> int:
    """Return the elements of a layer's gate matrix: every gate reads a head's query, or the hidden state."""
    return gate_biases(config) * (config.hidden_size if config.research.gate_input == "hidden" else config.head_dim)


def _visible(length: int, window: int) -> int:
    """Return the number of (query, key) pairs of a causal row whose queries see `window` keys at most."""
    full = min(length, window)
    return full * (full + 1) // 2 + (length - full) * window


def forward_flops(config: ModelConfig, length: int) -> int:
    """Return operations of one forward pass, logits included, over a row of `length` tokens of one document."""
    c, count = config, count_parameters(config)
    passes = c.loop_num
    products = passes * (count.attention + count.mlp) + c.vocab_size * c.hidden_size
    heads = c.num_attention_heads * c.head_dim
    pairs = passes * _visible(length, length) + (passes - 1) * _visible(length, c.loop_window_size)
    gates = (passes - 1) * c.num_hidden_layers * gate_weights(c)
    return 2 * length * (products + gates) + 4 * c.num_hidden_layers * heads * pairs


def training_flops(config: ModelConfig, length: int, recomputed: bool = False) -> int:
    """Return operations of forward and backward over a row; `recomputed` adds the forward of activation checkpointing.

    The backward of a product is two products of its size.
    """
    return (4 if recomputed else 3) * forward_flops(config, length)


def training_flops_per_token(config: ModelConfig, length: int) -> float:
    """Return operations of forward and backward per token of rows of `length` tokens of one document."""
    return training_flops(config, length) / length


def decode_flops(config: ModelConfig, position: int) -> int:
    """Return operations of decoding the one token at `position` (0-based) over a cache."""
    c, count = config, count_parameters(config)
    seen = position + 1
    heads = c.num_attention_heads * c.head_dim
    keys = c.loop_num * seen + (c.loop_num - 1) * min(seen, c.loop_window_size)
    gates = (c.loop_num - 1) * c.num_hidden_layers * gate_weights(c)
    products = c.loop_num * (count.attention + count.mlp) + c.vocab_size * c.hidden_size + gates
    return 2 * products + 4 * c.num_hidden_layers * heads * keys


@dataclass(frozen=True, slots=True)
class CacheBytes:
    """Bytes of keys and values of one sequence: `first` grows with the context, `later` stops at the window."""

    first: int
    later: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.first + self.later


def cache_bytes(config: ModelConfig, length: int, item_bytes: int = 2) -> CacheBytes:
    """Return the KV cache of one sequence with room for `length` tokens; `item_bytes` is 2 for bf16."""
    c = config
    per_token = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * item_bytes
    return CacheBytes(length * per_token, (c.loop_num - 1) * min(length, c.loop_window_size) * per_token)
