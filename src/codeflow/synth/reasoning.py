"""Stage `reasoning`: what does this program print, what does this call return, with the executed trace as reasoning.

Programs are generated ones and gold answers of micro-task compositions that training may see. Trace and answer come
from executing the program step by step in the sandbox (Code-Flow §4, code reasoning; here input to output only).

Output: `reasoning-*.parquet` of Sample.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.types import Origin, Sample
from codeflow.synth.trace import Program, TraceConfig, Traced

if TYPE_CHECKING:
    from codeflow.core.manifest import Counts, Manifest

SET = "reasoning"
_ASK_PRINTS = ("What does this program print?", "What is printed by this program?", "Give the output of this program.")
_ASK_RETURNS = ("What does {call} return?", "Give the value of {call}.", "What is {call}?")


class ReasoningConfig(Config):
    """How many programs are run (those that pass a bound give no sample), and which share are calls of gold answers."""

    n_programs: int = Field(default=3300, ge=1)
    share_of_calls: float = Field(default=0.4, ge=0.0, le=1.0)
    trace: TraceConfig = TraceConfig()
    shard_programs: int = Field(default=550, ge=1)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ReasoningJob:
    """A run of consecutive programs to execute."""

    index: int
    first: int
    programs: tuple[Program, ...]
    config: ReasoningConfig
    output: Path

    @property
    def name(self) -> str:
        return f"reasoning-{self.index:05d}"


def run(config: ReasoningConfig, inputs: Mapping[str, Path], output: Path, workers: int | None = None) -> Manifest:
    """Execute the programs and write the samples. No inputs needed. Raises UserError when no sandbox works here."""
    from codeflow.core.manifest import Counts, seal
    from codeflow.execute.local import LocalPool
    from codeflow.execute.shards import run_shards
    from codeflow.synth.proof import require_sandbox

    require_sandbox()
    drawn = draw_programs(config)
    programs = list(dict.fromkeys(drawn))
    jobs = [
        ReasoningJob(index, at, tuple(programs[at : at + config.shard_programs]), config, output)
        for index, at in enumerate(range(0, len(programs), config.shard_programs))
    ]
    counts = run_shards(write_reasoning, jobs, output, "reasoning", LocalPool(workers))
    repeated = len(drawn) - len(programs)
    counts = counts + Counts(read=repeated, dropped={"repeated program": repeated} if repeated else {})
    return seal(output, counts, {"samples": {SET: counts.kept}, "characters": counts.notes})


def draw_programs(config: ReasoningConfig) -> list[Program]:
    """Return the programs to ask about, repetitions included; a pure function of the configuration."""
    from codeflow.synth.programs import make_program

    found: list[Program] = []
    for number in range(config.n_programs):
        source = random.Random(f"reasoning/{config.seed}/{number}")
        is_call = source.random() < config.share_of_calls
        found.append(_gold_call(source) if is_call else Program(make_program(source)))
    return found


def _gold_call(source: random.Random) -> Program:
    from codeflow.synth.compositions import TRAIN, compositions
    from codeflow.synth.families import FAMILIES
    from codeflow.synth.primitive import gold_solution, with_parameters

    family = source.choice(FAMILIES)
    composition = source.choice(compositions(family, TRAIN, source.choice((1, 2, 2, 3))))
    steps = with_parameters([family[name] for name in composition], source)
    return Program(gold_solution("f", family.variable, steps), f"f({family.draw(source)!r})")


def write_reasoning(job: ReasoningJob) -> Counts:
    """Execute a job's programs and write one shard. Dropped: programs without a trace, by reason."""
    from codeflow.core.manifest import Counts
    from codeflow.core.records import write_records
    from codeflow.synth.trace import trace

    samples: list[Sample] = []
    dropped: dict[str, int] = {}
    n_trace = 0
    for number, (program, traced) in enumerate(zip(job.programs, trace(job.programs, job.config.trace), strict=True)):
        if traced.reason:
            dropped[traced.reason] = dropped.get(traced.reason, 0) + 1
        else:
            n_trace += len(traced.text)
            samples.append(question(program, traced, job.first + number, job.config.seed))
    write_records(job.output / f"{SET}-{job.index:05d}.parquet", samples, Sample)
    notes = {"characters of traces": n_trace}
    return Counts(read=len(job.programs), kept=len(samples), dropped=dict(sorted(dropped.items())), notes=notes)


def question(program: Program, traced: Traced, number: int, seed: int) -> Sample:
    """Return the sample that asks for what the execution showed; its difficulty is the number of trace lines."""
    from codeflow.tokens.chat import Message, chat_segments

    source = random.Random(f"question/{seed}/{number}")
    ask = source.choice(_ASK_RETURNS if program.call else _ASK_PRINTS).format(call=program.call)
    answer = traced.value if program.call else "\n".join(traced.printed)
    messages = [Message("user", f"{ask}\n\n{program.source}"), Message("assistant", answer, traced.text)]
    kind = "call" if program.call else "program"
    origin = Origin("project", "codeflow reasoning", "", f"{kind}/{number}", "", "")
    n_lines = float(traced.text.count("\n") + 1)
    return Sample(f"{SET}/{kind}/{number}", chat_segments(messages), (origin,), SET, n_lines)
