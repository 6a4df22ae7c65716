"""Configuration of the dense code model for transformers 4.55 and later (remote code of an exported checkpoint)."""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

from transformers import LlamaConfig


class IQuestCoderConfig(LlamaConfig):
    """The shape of a Llama decoder under the dense release's name."""

    model_type = "iquestcoder"
