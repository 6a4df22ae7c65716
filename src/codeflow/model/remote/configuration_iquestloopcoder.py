"""Configuration of the looped code model for transformers 4.55 and later (remote code of an exported checkpoint)."""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

from transformers import PretrainedConfig


class IQuestLoopCoderConfig(PretrainedConfig):
    """Shape of a decoder whose layers run `loop_num` times, later loops with a local window."""

    model_type = "iquestloopcoder"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(self, **fields: object) -> None:
        """Take the released values as defaults; unknown fields go to the parent."""
        defaults = {
            "vocab_size": 76800,
            "hidden_size": 5120,
            "intermediate_size": 27648,
            "num_hidden_layers": 80,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "hidden_act": "silu",
            "max_position_embeddings": 131072,
            "initializer_range": 0.02,
            "rms_norm_eps": 1e-5,
            "use_cache": True,
            "rope_theta": 500000.0,
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "loop_num": 2,
            "loop_window_size": 64,
        }
        rope = fields.get("rope_parameters")
        if isinstance(rope, dict) and "rope_theta" in rope:  # how transformers 5 writes it
            defaults["rope_theta"] = rope["rope_theta"]
        own = {name: fields.pop(name, value) for name, value in defaults.items()}
        super().__init__(**fields)
        for name, value in own.items():
            setattr(self, name, value)
