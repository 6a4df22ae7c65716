"""Verdicts on many answers at little cost: one sandbox start serves many candidates, each in a process of its own.

A start holds at most one answer to each task, so that reading another candidate's program is worth nothing; expected
values stay outside as ever. A candidate that disturbs the process that serves the others can only end it: those without
a report are judged again, each in a sandbox of its own, and so is one that ran out of wall time.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from codeflow.core.types import Task, Verdict
from codeflow.sandbox.local import open_sandbox
from codeflow.sandbox.policy import MIB, Limits
from codeflow.solve.verify import calls_job, calls_verdict, expected_calls, run_driver, verify

_PER_START = 32
_REPORT_BYTES = 64 << 10  # of one candidate; escaped it may be six times as long
_START_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """An answer to a task; for `python_calls` the answer is a program."""

    task: Task
    answer: str


def verify_many(attempts: Sequence[Attempt], limits: Limits, at_once: int) -> list[Verdict]:
    """Judge all attempts, in order, with `at_once` sandboxes at a time; `limits` are those of each candidate.

    Equal answers to a task are run once. Raises InfrastructureError when no sandbox works here.
    """
    return asyncio.run(_verify_many(attempts, limits, at_once))


async def _verify_many(attempts: Sequence[Attempt], limits: Limits, at_once: int) -> list[Verdict]:
    unique = list(dict.fromkeys(attempts))
    gate = asyncio.Semaphore(at_once)

    async def together(start: list[Attempt]) -> dict[Attempt, Verdict]:
        async with gate:
            return await _one_start(start, limits)

    async def alone(attempt: Attempt) -> Verdict:
        async with gate, open_sandbox() as sandbox:
            return (await verify(attempt.task, attempt.answer, sandbox, limits)).verdict

    found: dict[Attempt, Verdict] = {}
    for part in await asyncio.gather(*[together(start) for start in starts(unique)]):
        found |= part
    missing = [attempt for attempt in unique if attempt not in found]
    verdicts = await asyncio.gather(*[alone(attempt) for attempt in missing])
    found |= dict(zip(missing, verdicts, strict=True))
    return [found[attempt] for attempt in attempts]


def starts(attempts: Sequence[Attempt]) -> Iterator[list[Attempt]]:
    """Divide different attempts into sandbox starts without two answers to one task in any of them."""
    layers: list[list[Attempt]] = []
    seen: dict[str, int] = {}
    for attempt in attempts:
        if attempt.task.verifier != "python_calls":
            continue
        layer = seen[attempt.task.id] = seen.get(attempt.task.id, -1) + 1
        if layer == len(layers):
            layers.append([])
        layers[layer].append(attempt)
    for members in layers:
        for first in range(0, len(members), _PER_START):
            yield members[first : first + _PER_START]


async def _one_start(attempts: list[Attempt], limits: Limits) -> dict[Attempt, Verdict]:
    """Return the verdicts that one sandbox start came to; an attempt without a clear one is left out."""
    data = [json.loads(attempt.task.data) for attempt in attempts]
    job = {
        "kind": "candidates",
        "candidates": [calls_job(item, attempt.answer) for item, attempt in zip(data, attempts, strict=True)],
        "cpu_seconds": math.ceil(limits.cpu_seconds),
        "wall_seconds": limits.wall_seconds,
        "output_bytes": _REPORT_BYTES,
    }
    together = replace(
        limits,
        wall_seconds=_START_SECONDS + limits.wall_seconds * len(attempts),
        cpu_seconds=_START_SECONDS + limits.cpu_seconds * len(attempts),
        output_bytes=MIB + 6 * _REPORT_BYTES * len(attempts),
    )
    async with open_sandbox() as sandbox:
        result = await run_driver(sandbox, job, together)
    found: dict[Attempt, Verdict] = {}
    for line in result.channel.splitlines():
        report = _report(line)
        if report and report[1] < len(attempts):
            _, number, how, text = report
            if how != "late":
                verdict = calls_verdict(expected_calls(data[number]), text.encode("latin-1"), how)
                found[attempts[number]] = verdict
    return found


def _report(line: bytes) -> list[Any] | None:
    try:
        report = json.loads(line)
    except ValueError:  # the last line of a start that was ended
        return None
    return report if isinstance(report, list) and len(report) == 4 and report[0] == "candidate" else None
