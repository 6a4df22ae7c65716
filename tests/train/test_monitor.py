"""Arithmetic of a step counted by torch, and files that JSON can read."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from codeflow.core.metrics import read_metrics
from codeflow.model.looped import LoopCoder
from codeflow.train.monitor import METRICS, TIMING, Monitor, measured_peak_flops, training_flops_per_token


@pytest.mark.parametrize("loop_num", [1, 2])
def test_operations_are_those_that_torch_counts(loop_num: int, golden: ModuleType) -> None:
    """Matrix products only: back ends differ in how much of the masked attention they compute."""
    config = golden.tiny_model().model_copy(update={"loop_num": loop_num, "loop_window_size": 16})
    model = LoopCoder(config)
    ids = torch.randint(16, 272, (2, 64))
    with FlopCounterMode(display=False) as counter:
        model.logits(model(ids)).sum().backward()
    counts = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    matrices = sum(n for op, n in counts.items() if op in ("aten.mm", "aten.addmm"))
    without_attention = config.model_copy(update={"loop_window_size": 1})
    c = without_attention
    heads = c.num_attention_heads * c.head_dim
    attention = 12 * c.num_hidden_layers * c.loop_num * heads * 32.5
    attention += 12 * c.num_hidden_layers * (c.loop_num - 1) * heads * 1
    assert matrices == pytest.approx((training_flops_per_token(c, 64) - attention) * ids.numel(), rel=1e-9)


def test_files_hold_what_is_finite_and_are_cut_back(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, "p", 3, 1e6, -1)
    monitor.peak(2e9)
    monitor.start({"tokens": 0, "validation": {"a": 1.0, "b": float("inf")}})
    values = {"lr": 1.0, "tokens": 5, "grad_norm": 1.0}
    monitor.step(1, {"loss": 2.0, **values}, places=100, seconds=0.5)
    monitor.step(2, {"loss": float("nan"), **values, "skipped": "loss is nan"}, places=100, seconds=0.5)
    monitor.close()
    rows = list(read_metrics(tmp_path / METRICS))
    assert rows[0] == {"step": 0, "phase": "p", "tokens": 0, "validation": {"a": 1.0}}
    assert rows[2] == {"step": 2, "phase": "p", **values, "skipped": "loss is nan"}
    timing = list(read_metrics(tmp_path / TIMING))
    assert timing[1] == {"step": 1, "seconds": 0.5, "tokens_per_second": 200.0, "mfu": 0.1}
    Monitor(tmp_path, "p", 3, 1e6, 1).close()
    assert [row["step"] for row in read_metrics(tmp_path / METRICS)] == [0, 1]


def test_peak_is_measured() -> None:
    assert 1e9 < measured_peak_flops(torch.float32) < 1e15
