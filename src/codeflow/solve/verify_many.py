"""Verdicts on many answers, as fast as they can be had with each answer in namespaces of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from codeflow.core.types import Task, Verdict
from codeflow.sandbox.local import open_sandbox
from codeflow.sandbox.policy import Limits
from codeflow.solve.verify import verify


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
    unique = dict.fromkeys(attempts)
    waiting = iter(unique)
    found: dict[Attempt, Verdict] = {}

    async def work() -> None:
        async with open_sandbox() as sandbox:
            for attempt in waiting:  # shared: each worker takes the next one
                found[attempt] = (await verify(attempt.task, attempt.answer, sandbox, limits)).verdict

    await asyncio.gather(*[work() for _ in range(min(at_once, len(unique)))])
    return [found[attempt] for attempt in attempts]
