"""Builders of small artifacts that stand for the stages of a whole run. Nothing is trained or judged here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codeflow.core.config import Config
from codeflow.core.manifest import RUN, Counts, begin, input_record, seal
from codeflow.core.records import write_records
from codeflow.core.storage import write_text
from codeflow.core.types import Rollout, Score, Task, Verdict
from codeflow.report import page


def start(folder: Path, kind: str, inputs: Mapping[str, Path]) -> Path:
    """Begin an artifact, which empties its folder."""
    begin(folder, kind, Config(), {name: input_record(path) for name, path in inputs.items()}, folder.name)
    return folder


def finish(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    ran: tuple[str, float] = ("", 0.0),
) -> Path:
    """Seal what lies in a folder; `ran` is its start (a clock time) and its seconds."""
    if config:
        write_text(folder / "config.json", json.dumps(config))
    seal(folder, Counts(), metrics)
    if ran[0]:
        run = {"started_at": f"2026-01-01T{ran[0]}Z", "seconds": ran[1], "peak_memory_bytes": 2**20}
        write_text(folder / RUN, json.dumps(run))
    return folder


def phase(folder: Path, name: str, inputs: Mapping[str, Path], metrics: Mapping[str, Any] | None = None) -> Path:
    """Write a training phase of four steps on 100 tokens each."""
    first = {"step": 0, "tokens": 0, "validation": {"code": 5.0, "general": 6.0}}
    rows = [first, *({"step": n, "loss": 5.0 - n, "lr": 1.0, "tokens": 100 * n} for n in range(1, 5))]
    rows[-1] |= {"validation": {"code": 4.0, "general": 5.5}}
    start(folder, "checkpoint", inputs)
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return finish(folder, {"phase": name, "mixture": {"code": 1.0}}, metrics)


def rollout(task: str, step: int, sample: int, passed: bool, text: str = "return 1") -> Rollout:
    """Return a judged answer."""
    verdict = Verdict(passed, float(passed), "" if passed else "wrong", "" if passed else "model", 5 * passed, 5)
    return Rollout(task, "rl", step, sample, (1,), (2, 3), (-0.5, -0.5), text, "stop", verdict)


def grpo(folder: Path, parent: Path, tasks: Path, reward: str, steps: Sequence[Sequence[Rollout]]) -> Path:
    """Write a run of reinforcement learning with the rollouts of each step."""
    start(folder, "checkpoint", {"checkpoint": parent, "tasks": tasks})
    rows = []
    for step, found in enumerate(steps, 1):
        write_records(folder / f"rollouts-{step:05d}.parquet", found, Rollout)
        passed = sum(one.verdict.passed for one in found) / len(found)
        rows.append({"step": step, "passed": passed, "reward": passed, "entropy": 0.5, "length_tokens": 2.0})
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    config = {"phase": folder.name, "reward": reward, "split": "rl", "rollout": {"thinking": False}}
    return finish(folder, config, ran=("00:01:00", 40.0))


def task(number: int, family: str) -> Task:
    """Return a task of a family; its prompt says its number."""
    data = json.dumps({"family": family, "level": 2})
    return Task(f"{family}/{number}", "micro_tasks", f"prompt {number}", "python_calls", data, "codeflow")


def score(checkpoint: str, metric: str, value: float, half: float = 0.01) -> Score:
    """Return a score on chat micro-tasks with an interval of a given half width."""
    return Score("micro_tasks_chat", metric, "", value, value - half, value + half, 40, 0, checkpoint)


def make_page(folder: Path, inputs: Mapping[str, Path]) -> tuple[str, str]:
    """Return the page and the summary of a run."""
    output = folder / "report"
    begin(output, "report", page.ReportConfig(), {}, "5")
    page.run(page.ReportConfig(), inputs, output)
    return (output / "index.html").read_text(), (output / "summary.txt").read_text()
