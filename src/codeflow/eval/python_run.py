"""Runs of untrusted Python for benchmarks: a job in, the lines that its driver reported out.

One sandbox for each job, several at a time, equal jobs run once. A job that failed for reasons of the surroundings is
tried again, and one that ran out of time while it hardly had a processor is given more; then it is an infrastructure
fault.
"""

from __future__ import annotations

import asyncio
import functools
import json
import marshal
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from codeflow.sandbox.local import open_sandbox
from codeflow.sandbox.policy import MIB, Limits
from codeflow.sandbox.result import Result, Status

_ATTEMPTS = 3
_START_SECONDS = 5.0  # beyond the program's own time, for the interpreter to come up
_STARVED_SHARE = 0.5  # of its time on a processor: with less, the machine was at fault, or the program slept
_PATIENCE = 4.0

Kind = Literal["program", "calls", "stdin", "timed"]


@dataclass(frozen=True, slots=True)
class Job:
    """What a driver is to do. `fields` is the marshalled rest of the job; `seconds` is the limit of each step."""

    kind: Kind
    seconds: float
    n_steps: int
    fields: bytes
    memory_bytes: int = 1024 * MIB

    @classmethod
    def of(cls, kind: Kind, seconds: float, n_steps: int, memory_bytes: int = 1024 * MIB, **fields: Any) -> Job:
        """Build a job of plain fields."""
        return cls(kind, seconds, n_steps, marshal.dumps(fields, 4), memory_bytes)


def arguments(values: Sequence[Any]) -> bytes:
    """Return the arguments of one call as a job carries them."""
    return marshal.dumps(tuple(values), 4)


@dataclass(frozen=True, slots=True)
class Report:
    """The lines that came out, how the run ended, and on what. `fault`: why it says nothing about the program."""

    lines: tuple[Any, ...]
    status: str
    backend: str
    fault: str = ""

    @property
    def passed(self) -> bool:
        """Whether a `program` ran to its end."""
        return self.lines == (["passed"],)

    def problem(self) -> str:
        """Return in one line how a run ended that did not pass."""
        last = self.lines[-1] if self.lines else None
        if isinstance(last, list) and last and last[0] in ("error", "load", "time"):
            return ": ".join(str(part) for part in last)
        return f"the program ended ({self.status}) before its tests did"


def run_jobs(jobs: Sequence[Job], at_once: int) -> list[Report]:
    """Run all jobs, `at_once` at a time. Raises InfrastructureError when no sandbox works here."""
    return asyncio.run(_run_jobs(jobs, at_once))


async def _run_jobs(jobs: Sequence[Job], at_once: int) -> list[Report]:
    gate = asyncio.Semaphore(at_once)

    async def one(job: Job) -> Report:
        async with gate:
            return await _run(job)

    unique = list(dict.fromkeys(jobs))
    found = dict(zip(unique, await asyncio.gather(*[one(job) for job in unique]), strict=True))
    return [found[job] for job in jobs]


async def _run(job: Job) -> Report:
    token = secrets.token_hex(16)
    result = await _attempts(job, token, 1.0)
    report = _report(result, token)
    timed_out = result.status is Status.TIME or ["time"] in report.lines
    if timed_out and result.cpu_seconds < job.seconds * _STARVED_SHARE:
        report = _report(await _attempts(job, token, _PATIENCE), token)
    return report


async def _attempts(job: Job, token: str, patience: float) -> Result:
    seconds = job.seconds * patience
    fields = {"kind": job.kind, "seconds": seconds, "token": token, **marshal.loads(job.fields)}
    wall = seconds * (job.n_steps + 1) + _START_SECONDS
    limits = Limits(wall_seconds=wall, cpu_seconds=wall, memory_bytes=job.memory_bytes, output_bytes=64 * MIB)
    attempt = 1
    while True:
        async with open_sandbox() as sandbox:
            argv = [*sandbox.python, "-c", _driver()]
            result = await sandbox.exec(argv, stdin=marshal.dumps(fields, 4), limits=limits, channel=True)
        if result.status is not Status.INFRASTRUCTURE or attempt == _ATTEMPTS:
            return result
        attempt += 1


@functools.cache
def _driver() -> str:
    return Path(__file__).with_name("python_driver.py").read_text(encoding="utf-8")


def _report(result: Result, token: str) -> Report:
    """Return what was reported; lines that need the token and lack it are dropped."""
    fault = (result.detail or "infrastructure") if result.status is Status.INFRASTRUCTURE else ""
    lines: list[Any] = []
    for text in result.channel.split(b"\n")[:-1]:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if not isinstance(line, list) or not line:
            continue
        if line[0] in ("passed", "timed"):
            if line[1:2] != [token]:
                continue
            del line[1]
        lines.append(line)
    return Report(tuple(lines), str(result.status), result.backend, fault)
