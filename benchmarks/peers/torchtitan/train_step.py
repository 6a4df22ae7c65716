"""Runs in torchtitan's environment: training steps of its Llama 3, weights in the step's precision.

    python train_step.py SETTINGS     SETTINGS: JSON of rows, context_tokens, dtype, n_threads, compiled, model

Its language models come with attention kernels for GPUs; the adapter is its own module around torch's
scaled_dot_product_attention, which this version keeps for other models. Blocks are compiled one by one, as it does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.common.config_utils import make_ffn_config, make_gqa_config
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock

sys.path.insert(0, str(Path(__file__).parents[1]))
from timed_steps import run

settings = json.loads(sys.argv[1])


def make():
    """Return the model and the loss of its trainer: cross-entropy of fp32 logits."""
    shape, context = settings["model"], settings["context_tokens"]
    size, words, heads = shape["hidden_size"], shape["vocab_size"], shape["num_attention_heads"]
    normal, ones = {"weight": nn.init.normal_}, {"weight": nn.init.ones_}
    small = {"weight": lambda w: nn.init.normal_(w, std=0.02)}
    rope = ComplexRoPE.Config(dim=size // heads, max_seq_len=context, theta=shape["rope_theta"])

    def norm():
        return RMSNorm.Config(normalized_shape=size, param_init=ones)

    def layer():
        attention = make_gqa_config(
            dim=size,
            n_heads=heads,
            n_kv_heads=shape["num_key_value_heads"],
            wqkv_param_init=small,
            wo_param_init=small,
            inner_attention=ScaledDotProductAttention.Config(),
            rope=rope,
            fuse_qkv=True,
        )
        forward = make_ffn_config(
            dim=size, hidden_dim=shape["intermediate_size"], w1_param_init=small, w2w3_param_init=small
        )
        return Llama3TransformerBlock.Config(
            attention_norm=norm(), ffn_norm=norm(), attention=attention, feed_forward=forward
        )

    config = Llama3Model.Config(
        dim=size,
        vocab_size=words,
        tok_embeddings=Embedding.Config(num_embeddings=words, embedding_dim=size, param_init=normal),
        norm=norm(),
        lm_head=Linear.Config(in_features=size, out_features=words, param_init=small),
        layers=[layer() for _ in range(shape["num_hidden_layers"])],
    )
    model = config.build()
    model.init_states()
    for parameter in model.parameters():  # not the rotary table, which is complex
        parameter.data = parameter.data.to(getattr(torch, settings["dtype"]))
    if settings["compiled"]:
        for block in model.layers.values():
            block.compile(fullgraph=True)
    positions = torch.arange(context).expand(settings["rows"], -1)

    def loss_of(ids, targets):
        return cross_entropy(model(ids, positions).flatten(0, 1).float(), targets.flatten())

    return model, loss_of


run(settings, make)
