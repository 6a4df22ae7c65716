"""Runs in the peers' environments: training steps of a model, one for each line read, and their times as JSON lines.

The step is the same for every peer: loss, backward, gradients clipped to 1, torch's fused AdamW.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch


def run(settings: dict[str, Any], make: Callable[[], tuple[torch.nn.Module, Callable[..., torch.Tensor]]]) -> None:
    """Make a model and its loss of (ids, targets), both (B, T); say what it is, then make a step for each line."""
    torch.set_num_threads(settings["n_threads"])
    torch.manual_seed(0)
    model, loss_of = make()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    shape = (settings["rows"], settings["context_tokens"])
    ids = torch.randint(16, settings["model"]["vocab_size"], shape)
    targets = ids.roll(-1, 1)
    matrices = [m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)]
    print(json.dumps({"n_matmul_parameters": sum(matrices)}), flush=True)
    for _ in sys.stdin:
        started, cpu = time.perf_counter(), time.process_time()
        loss = loss_of(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()
        times = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
        without = [name for name, p in model.named_parameters() if p not in optimizer.state]
        print(json.dumps({**times, "loss": value, "without_gradient": without}), flush=True)
