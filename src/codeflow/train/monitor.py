"""What a training run tells: one dense line per step, and JSON lines.

    metrics.jsonl     reproducible: step, phase, loss, lr, grad_norm, tokens, validation, skipped
    .timing.jsonl     not reproducible: step, seconds, tokens_per_second, mfu, cost; at step 0 the measured peak

TensorBoard and Weights & Biases get the same numbers where `watch.trackers` names them (`train.trackers`).

`tokens` counts tokens that carried loss, over all phases so far; `tokens_per_second` counts all places of a batch.
MFU is the model's arithmetic per second over the fastest matrix product measured on this machine at the start, in fp32
for bf16 where the processor has no bf16 instructions (`kernels.wide`). `cost`
is the time so far on all processes at `watch.price_per_process_hour`; the line also says what the phase comes to.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import torch

from codeflow.core.metrics import MetricsLog, read_metrics
from codeflow.core.progress import say
from codeflow.kernels.wide import product_dtype
from codeflow.model.config import ModelConfig
from codeflow.train.trackers import open_trackers, write_all
from codeflow.train.watch_config import WatchConfig

METRICS, TIMING = "metrics.jsonl", ".timing.jsonl"
_LINE_EVERY_STEPS = 10  # where standard error is no terminal
_PEAK_SIZE, _PEAK_ROUNDS = 1024, 6


def training_flops_per_token(config: ModelConfig, context_tokens: int) -> float:
    """Return floating-point operations of one trained token: 6 per weight of a matrix product, and causal attention.

    The embedding look-up is none. Loops are counted each time they run; attention is counted over the whole row.
    """
    c = config
    heads, groups = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    layer = c.hidden_size * (2 * heads + 2 * groups) + 3 * c.hidden_size * c.intermediate_size
    seen = (context_tokens + 1) / 2  # keys per query
    passes = c.num_hidden_layers * c.loop_num
    attention = 12 * passes * heads * seen
    if c.looped:
        attention += 12 * c.num_hidden_layers * (c.loop_num - 1) * heads * min(c.loop_window_size, seen)
    return 6 * (passes * layer + c.vocab_size * c.hidden_size) + attention


def measured_peak_flops(dtype: torch.dtype) -> float:
    """Return the operations per second of the fastest of a few square matrix products for `dtype` on this machine."""
    dtype = product_dtype(torch.empty(0, dtype=dtype))
    left, right = (torch.ones(_PEAK_SIZE, _PEAK_SIZE, dtype=dtype) for _ in range(2))
    torch.mm(left, right)  # the first product prepares kernels
    best = float("inf")
    for _ in range(_PEAK_ROUNDS):
        started = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - started)
    return 2 * _PEAK_SIZE**3 / best


class Monitor:
    """Writes both files and prints the line. Only the first process has one."""

    def __init__(
        self,
        output: Path,
        phase: str,
        steps: int,
        flops_per_token: float,
        resume_after_step: int,
        watch: WatchConfig | None = None,
        n_ranks: int = 1,
    ) -> None:
        """Open the files; rows after `resume_after_step` (-1: all) are cut off.

        Raises UserError for a tracker that is not installed.
        """
        watch = watch or WatchConfig()
        self._trackers = open_trackers(watch, output, phase, resume_after_step)
        self._phase, self._steps, self._flops_per_token = phase, steps, flops_per_token
        self._price = n_ranks * (watch.price_per_process_hour or 0.0) / 3600  # of a second
        self._metrics = MetricsLog(output / METRICS, resume_after_step)
        self._timing = MetricsLog(output / TIMING, resume_after_step)
        self._elapsed = sum(row.get("seconds", 0.0) for row in read_metrics(output / TIMING))
        self._peak = 0.0
        self._seconds: list[float] = []

    def peak(self, flops_per_second: float) -> None:
        """Record the measured peak over all processes."""
        self._peak = flops_per_second
        self._timing.write(0, peak_flops_per_second=flops_per_second)

    def step(self, step: int, values: dict[str, Any], places: int, seconds: float) -> None:
        """Record one step: `values` are reproducible, `places` the tokens of the batch, padding included.

        Values that are not finite are left out of the file: JSON has no word for them.
        """
        self._metrics.write(step, phase=self._phase, **_finite(values))
        rate = places / seconds
        mfu = rate * self._flops_per_token / self._peak if self._peak else 0.0
        self._elapsed += seconds
        timing = {"seconds": seconds, "tokens_per_second": rate, "mfu": mfu}
        timing |= {"cost": self._elapsed * self._price} if self._price else {}
        self._timing.write(step, **timing)
        write_all(self._trackers, step, values, timing)
        self._seconds = [*self._seconds[-19:], seconds]
        if sys.stderr.isatty() or step % _LINE_EVERY_STEPS == 0 or step in (1, self._steps) or "skipped" in values:
            say(self._line(step, values, rate, mfu))

    def start(self, values: dict[str, Any]) -> None:
        """Record what was measured before the first step."""
        self._metrics.write(0, phase=self._phase, **_finite(values))
        write_all(self._trackers, 0, values)
        say(f"  {self._phase}{_validation(values)}")

    def _line(self, step: int, values: dict[str, Any], rate: float, mfu: float) -> str:
        left = (self._steps - step) * sorted(self._seconds)[len(self._seconds) // 2]
        text = (
            f"  {self._phase} {step:>{len(str(self._steps))}}/{self._steps}  loss {values['loss']:.4f}"
            f"  lr x{values['lr']:.3f}  grad {values['grad_norm']:.3f}  {rate:,.0f} tok/s"
            f"  MFU {mfu:.0%}  ETA {int(left) // 60}:{int(left) % 60:02d}"
        )
        if self._price:
            text += f"  cost {self._elapsed * self._price:,.2f} of {(self._elapsed + left) * self._price:,.2f}"
        return text + _validation(values) + (f"  SKIPPED: {values['skipped']}" if "skipped" in values else "")

    def sync(self) -> None:
        """Return when all rows are on the disk: a checkpoint must never be ahead of them."""
        self._metrics.sync()

    def close(self) -> None:
        """Sync and close both files and the trackers."""
        self._metrics.close()
        self._timing.close()
        for tracker in self._trackers:
            tracker.close()


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            kept[name] = _finite(value)
        elif not isinstance(value, float) or math.isfinite(value):
            kept[name] = value
    return kept


def _validation(values: dict[str, Any]) -> str:
    return "".join(f"  held-out {name} {loss:.4f}" for name, loss in values.get("validation", {}).items())
