"""Runs in nanochat's environment: training steps of its GPT, every layer with the whole context.

    python train_step.py SETTINGS     SETTINGS: JSON of source, rows, context_tokens, dtype, n_threads, compiled, model

`source` is a checkout. nanochat computes in the precision of NANOCHAT_DTYPE and keeps fp32 weights beside bf16
products. Its MLP has two matrices of four times the width, so its parameters are not those of a Llama exactly; value
embeddings, smearing and scales are its own. AdamW takes all parameters, in place of its Muon.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

settings = json.loads(sys.argv[1])
os.environ["NANOCHAT_DTYPE"] = settings["dtype"]
sys.path[:0] = [settings["source"], str(Path(__file__).parents[1])]

import torch  # noqa: E402 - nanochat reads its precision when it is imported
from nanochat.gpt import GPT, GPTConfig  # noqa: E402
from timed_steps import run  # noqa: E402


def make():
    """Return the model and its own loss."""
    shape = settings["model"]
    config = GPTConfig(
        sequence_len=settings["context_tokens"],
        vocab_size=shape["vocab_size"],
        n_layer=shape["num_hidden_layers"],
        n_head=shape["num_attention_heads"],
        n_kv_head=shape["num_key_value_heads"],
        n_embd=shape["hidden_size"],
        window_pattern="L",
    )
    model = GPT(config)
    model.init_weights()
    called = torch.compile(model, dynamic=False) if settings["compiled"] else model
    return model, called


run(settings, make)
