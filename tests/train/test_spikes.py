"""Spikes are skipped and recorded, in the guard alone and in a phase that is killed and goes on."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from codeflow.core.manifest import begin
from codeflow.core.metrics import read_metrics
from codeflow.train import pretrain
from codeflow.train.losses import NextToken
from codeflow.train.spikes import SpikeConfig, SpikeGuard

from .test_pretrain import Stopped, contents, phase_config, stop_at, train

CONFIG = SpikeConfig(window=4, loss_nats=0.5, norm_factor=3.0)


@pytest.mark.parametrize(
    ("loss", "norm", "reason"),
    [
        (2.0, 1.0, ""),
        (2.49, 2.9, ""),
        (2.6, 1.0, "loss 2.6000 is a spike: the median of 4 updates is 2.0000"),
        (1.0, 3.1, "gradient norm 3.1 is a spike: the median of 4 updates is 1"),
    ],
)
def test_what_is_a_spike(loss: float, norm: float, reason: str) -> None:
    guard = SpikeGuard(CONFIG)
    assert [guard.judge(9.0 if i == 0 else 2.0, 1.0) for i in range(4)] == [""] * 4  # nothing is judged so early
    assert guard.judge(loss, norm) == reason


def test_a_spike_does_not_raise_its_own_bar_and_state_comes_back() -> None:
    guard = SpikeGuard(CONFIG)
    for _ in range(4):
        guard.judge(2.0, 1.0)
    assert all(guard.judge(3.0, 1.0) for _ in range(20))
    again = SpikeGuard(CONFIG)
    again.restore(guard.state())
    assert again.judge(3.0, 1.0)
    again.restore({})
    assert again.judge(3.0, 1.0) == ""


def test_a_phase_skips_a_spike_and_a_killed_one_skips_the_same(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = phase_config(golden, spikes=SpikeConfig(window=3))
    spiking = {"on": -1}

    def spike(self: NextToken, model: Any, batch: Any, scale: float) -> Any:
        loss = original(self, model, batch, scale)
        return loss * 3 if torch.is_grad_enabled() and spiking["on"] == 5 else loss

    def step(*arguments: Any, **named: Any) -> Any:
        spiking["on"] = next(steps)
        return step_before(*arguments, **named)

    original, step_before, steps = NextToken.__call__, pretrain.train_step, iter(range(1, 100))
    monkeypatch.setattr(NextToken, "__call__", spike)
    monkeypatch.setattr(pretrain, "train_step", step)
    manifest = train(config, inputs, tmp_path / "whole")
    rows = {row["step"]: row for row in read_metrics(tmp_path / "whole" / "metrics.jsonl")}
    assert [step for step, row in rows.items() if "skipped" in row] == [5]
    assert rows[5]["skipped"].startswith("loss 1")
    assert manifest.counts.notes == {"skipped_updates": 1}
    begin(tmp_path / "broken", "checkpoint", config, {}, "key")
    steps = iter(range(1, 100))
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(Stopped):
            pretrain.run(config, inputs, tmp_path / "broken")
    steps = iter(range(5, 100))
    pretrain.run(config, inputs, tmp_path / "broken")
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
