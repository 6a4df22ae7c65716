"""The shape of a model: one frozen config for dense and looped decoders, named as in public checkpoints.

Importing this module does not import torch. `loop_num` = 1 is the dense decoder.
"""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from codeflow.core.config import Config
from codeflow.core.errors import UserError, suggest

Checkpointing = Literal["none", "full", "selective"]  # of activations: what the backward pass computes again
Compilation = Literal["none", "blocks"]  # what of a model torch.compile makes into code of its own


class ResearchOptions(Config):
    """Variants of the loop paper that the release does not have; all off is the released model.

    They act from the second loop on. Decoding over caches and the released format know none of them: such a model
    trains, is measured by whole passes, and is exported under a model type of its own.
    """

    reinject_embedding: bool = False  # each later loop starts from hidden + embedding (LoopCoder eq. 1)
    shift: bool = False  # each later loop starts from the hidden states moved by one position (eq. 1)
    gate_input: Literal["query", "query_before_rope", "hidden"] = "query"  # what the gate's logits are made of
    gate_per_element: bool = False  # a gate for each element of a head's output instead of one per head (eq. 4, 5)
    strict_local_mask: bool = False  # local attention sees the keys before the token, not its own (eq. 3)

    @property
    def active(self) -> dict[str, bool | str]:
        """The options that are on, with their values."""
        defaults = type(self)()
        return {name: value for name, value in self if value != getattr(defaults, name)}

    def __str__(self) -> str:
        return ", ".join(f"research.{name}={value}" for name, value in self.active.items())


class ModelConfig(Config):
    """Fields and defaults of the public release (LoopCoder §2); shapes are counts, `head_dim` is per head."""

    vocab_size: PositiveInt = 76800
    hidden_size: PositiveInt = 5120
    intermediate_size: PositiveInt = 27648
    num_hidden_layers: PositiveInt = 14
    num_attention_heads: PositiveInt = 40
    num_key_value_heads: PositiveInt = 8
    head_dim: PositiveInt = 128
    hidden_act: Literal["silu"] = "silu"
    max_position_embeddings: PositiveInt = 131072
    initializer_range: PositiveFloat = 0.02
    rms_norm_eps: PositiveFloat = 1e-5
    rope_theta: PositiveFloat = 500000.0
    rope_scaling: None = None
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    attention_dropout: Literal[0] = 0
    tie_word_embeddings: bool = False
    loop_num: PositiveInt = 1  # passes over the shared layers
    loop_window_size: PositiveInt = 64  # tokens a later loop sees of itself, the current one included
    research: ResearchOptions = ResearchOptions()

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if heads % groups:
            raise ValueError(
                f"num_attention_heads={heads} is not divisible by num_key_value_heads={groups}; "
                "every key/value head serves the same number of query heads"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd; rotary embeddings turn pairs, so make it even")
        if self.research.active and not self.looped:
            raise ValueError(f"{self.research} acts from the second loop on, and loop_num=1 has none; set loop_num=2")
        return self

    @property
    def looped(self) -> bool:
        """True when the layers run more than once, so that gates and local attention exist."""
        return self.loop_num > 1

    def check_decodable(self) -> None:
        """Raise UserError when a research option is on that decoding over caches does not know."""
        if self.research.active:
            raise UserError(
                f"{self.research}: research options have no decoding over caches; "
                "evaluate the model by whole forward passes, or train without them"
            )

    def check_vocabulary(self, tokenizer_vocab_size: int) -> None:
        """Raise UserError when the tokenizer has ids that this model has no embedding for."""
        if tokenizer_vocab_size > self.vocab_size:
            raise UserError(
                f"vocab_size={self.vocab_size} is smaller than the tokenizer's {tokenizer_vocab_size} ids; "
                f"set vocab_size to at least {tokenizer_vocab_size}"
            )


PRESETS = {
    "7b": ModelConfig(num_hidden_layers=14),
    "14b": ModelConfig(num_hidden_layers=28),
    "40b": ModelConfig(num_hidden_layers=80),
    "loop_40b": ModelConfig(num_hidden_layers=80, loop_num=2, loop_window_size=64),
}


def preset(name: str) -> ModelConfig:
    """Return a published shape: 7b, 14b, 40b or loop_40b. Raises UserError for another name."""
    if name not in PRESETS:
        raise UserError(f"no model preset '{name}'{suggest(name, PRESETS)}")
    return PRESETS[name]
