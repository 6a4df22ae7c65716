"""Runs in transformers' environment: training steps of a Llama, sdpa attention, weights in the step's precision.

python train_step.py SETTINGS     SETTINGS: JSON of rows, context_tokens, dtype, n_threads, compiled, model
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))
from timed_steps import run

settings = json.loads(sys.argv[1])


def make():
    """Return the model and its own loss."""
    model = LlamaForCausalLM(LlamaConfig(**settings["model"], attn_implementation="sdpa", use_cache=False))
    model = model.to(getattr(torch, settings["dtype"]))
    called = torch.compile(model) if settings["compiled"] else model
    return model, lambda ids, targets: called(input_ids=ids, labels=ids).loss


run(settings, make)
