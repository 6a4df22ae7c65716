"""Stage `solutions`: chat samples of the SFT micro-tasks, whose gold answers were proved when the tasks were made.

Sets: `instruct` (the answer is the program) and `thinking` (before it, in the thinking block, the program executed line
by line on the first visible example). A trace that does not come to the expected value stops the stage; one that passes
its bounds leaves the task out of `thinking`, counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.types import Origin, Sample, Task
from codeflow.synth.trace import Program, TraceConfig, Traced

if TYPE_CHECKING:
    from codeflow.core.manifest import Counts, Manifest

SETS = ("instruct", "thinking")


class SolutionsConfig(Config):
    """Which sets are made, and the bounds of traces."""

    sets: tuple[str, ...] = SETS
    trace: TraceConfig = TraceConfig()
    shard_tasks: int = Field(default=1500, ge=1)


@dataclass(frozen=True, slots=True)
class SolutionJob:
    """A run of consecutive tasks to write samples of."""

    index: int
    tasks: tuple[Task, ...]
    config: SolutionsConfig
    output: Path

    @property
    def name(self) -> str:
        return f"solutions-{self.index:05d}"


def run(config: SolutionsConfig, inputs: Mapping[str, Path], output: Path, workers: int | None = None) -> Manifest:
    """Write `instruct-*` and `thinking-*` of the SFT tasks of `inputs["tasks"]`. Raises UserError without a sandbox."""
    from codeflow.core.errors import UserError
    from codeflow.core.manifest import require_kind, seal
    from codeflow.core.records import read_shards
    from codeflow.execute.local import LocalPool
    from codeflow.execute.shards import run_shards
    from codeflow.synth.proof import require_sandbox

    unknown = sorted(set(config.sets) - set(SETS))
    if unknown or not config.sets:
        raise UserError(f"sets={list(config.sets)}: choose from {', '.join(SETS)}")
    require_kind(inputs["tasks"], ["tasks"])
    require_sandbox()
    tasks = list(read_shards(inputs["tasks"], "tasks-sft", Task))
    if not tasks:
        raise UserError(f"no SFT tasks in {inputs['tasks']}; make the tasks with n_sft greater than 0")
    starts = range(0, len(tasks), config.shard_tasks)
    jobs = [SolutionJob(n, tuple(tasks[at : at + config.shard_tasks]), config, output) for n, at in enumerate(starts)]
    counts = run_shards(write_solutions, jobs, output, "solutions", LocalPool(workers))
    return seal(output, counts, {"samples": {name: counts.notes.get(name, 0) for name in config.sets}})


def write_solutions(job: SolutionJob) -> Counts:
    """Write one shard of each set. Counts are of tasks; notes count samples by set and tasks without a trace."""
    from codeflow.core.manifest import Counts
    from codeflow.core.records import write_records
    from codeflow.synth.trace import trace

    notes: dict[str, int] = {}
    data = [json.loads(task.data) for task in job.tasks]
    if "instruct" in job.config.sets:
        samples = [instruct_sample(task, item) for task, item in zip(job.tasks, data, strict=True)]
        write_records(job.output / f"instruct-{job.index:05d}.parquet", samples, Sample)
        notes["instruct"] = len(samples)
    if "thinking" in job.config.sets:
        traces = trace([_first_example(item) for item in data], job.config.trace)
        samples = []
        for task, item, traced in zip(job.tasks, data, traces, strict=True):
            if traced.reason:
                notes[f"no thinking: {traced.reason}"] = notes.get(f"no thinking: {traced.reason}", 0) + 1
            else:
                samples.append(thinking_sample(task, item, traced))
        write_records(job.output / f"thinking-{job.index:05d}.parquet", samples, Sample)
        notes["thinking"] = len(samples)
    return Counts(read=len(data), kept=len(data), notes=dict(sorted(notes.items())))


def instruct_sample(task: Task, data: Mapping[str, Any]) -> Sample:
    """Return the task with its gold answer."""
    return _sample("instruct", task, data, "")


def thinking_sample(task: Task, data: Mapping[str, Any], traced: Traced) -> Sample:
    """Return the task with the trace of its gold answer and the answer. Raises AssertionError for a wrong value."""
    from codeflow.solve.plain import from_tree

    expected = from_tree(data["visible"]["expected"][0])
    assert traced.value == repr(expected), f"{task.id}: the trace comes to {traced.value}, expected {expected!r}"
    return _sample("thinking", task, data, traced.text)


def _sample(name: str, task: Task, data: Mapping[str, Any], thinking: str) -> Sample:
    from codeflow.tokens.chat import Message, chat_segments

    messages = [Message("user", task.prompt), Message("assistant", data["gold"], thinking)]
    origin = Origin("project", "codeflow micro_tasks", "", task.id, "", "")
    return Sample(f"{name}/{task.id}", chat_segments(messages), (origin,), name, float(data["level"]))


def _first_example(data: Mapping[str, Any]) -> Program:
    from codeflow.solve.plain import from_tree

    arguments = ", ".join(repr(value) for value in from_tree(data["visible"]["inputs"][0]))
    return Program(data["gold"], f"{data['entry_point']}({arguments})")
