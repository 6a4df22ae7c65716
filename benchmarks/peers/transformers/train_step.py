"""Runs in transformers' environment: training steps of a Llama, one JSON line with the fastest.

    python train_step.py SETTINGS     SETTINGS: JSON of rows, context_tokens, dtype, n_threads, steps, model

The step is the library's own: sdpa attention, its loss, gradients clipped to 1, fused AdamW on weights in `dtype`.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def main() -> None:
    """Time the steps."""
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings["n_threads"])
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**settings["model"], attn_implementation="sdpa", use_cache=False))
    model = model.to(getattr(torch, settings["dtype"])).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids = torch.randint(16, settings["model"]["vocab_size"], (settings["rows"], settings["context_tokens"]))
    best = {"seconds": float("inf"), "cpu_seconds": float("inf")}
    loss = torch.zeros(())
    for _ in range(settings["steps"]):
        started, cpu = time.perf_counter(), time.process_time()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        best["seconds"] = min(best["seconds"], time.perf_counter() - started)
        best["cpu_seconds"] = min(best["cpu_seconds"], time.process_time() - cpu)
    print(json.dumps({**best, "loss": loss.item()}))


if __name__ == "__main__":
    main()
