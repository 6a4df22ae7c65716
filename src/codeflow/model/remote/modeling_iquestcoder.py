"""The dense code model for transformers 4.55 and later (remote code of an exported checkpoint): a Llama decoder."""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

from transformers import LlamaForCausalLM, LlamaModel

from .configuration_iquestcoder import IQuestCoderConfig


class IQuestCoderModel(LlamaModel):
    """Embedding, layers, the final norm."""

    config_class = IQuestCoderConfig


class IQuestCoderForCausalLM(LlamaForCausalLM):
    """The model with its language head."""

    config_class = IQuestCoderConfig
