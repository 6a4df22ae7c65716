"""Proof of micro-tasks: the gold answer of each is run in the sandbox and must earn reward 1; many per start.

The gold solutions are the project's own, so those of one batch may share a process. What a model writes never does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.core.types import Task, Verdict
from codeflow.sandbox.local import open_sandbox, probe
from codeflow.sandbox.policy import MIB, Limits
from codeflow.solve.plain import to_tree
from codeflow.solve.verify import verify

_LIMITS = Limits(wall_seconds=60.0, cpu_seconds=60.0, output_bytes=16 * MIB)
_DISPATCH = """\
SOURCES = {sources!r}
SPACES = {{}}


def dispatch(number, *arguments):
    if number not in SPACES:
        SPACES[number] = {{}}
        exec(SOURCES[number], SPACES[number])
    return SPACES[number][{names!r}[number]](*arguments)
"""


def require_sandbox() -> None:
    """Raise UserError, naming bubblewrap, when no sandbox works here."""
    found = probe()
    if not found.backend:
        problem = found.problem if "bubblewrap" in found.problem else f"bubblewrap: {found.problem}"
        raise UserError(f"micro-tasks are proved by running them in a sandbox; {problem}")


def unproved(tasks: Sequence[Task]) -> list[tuple[Task, Verdict]]:
    """Return the tasks whose gold answer does not earn reward 1, with their verdicts (none, if all is well).

    Raises InfrastructureError when the sandbox fails.
    """
    return asyncio.run(_unproved(list(tasks)))


async def _unproved(tasks: list[Task]) -> list[tuple[Task, Verdict]]:
    if not tasks:
        return []
    data = [json.loads(task.data) for task in tasks]
    task, answer = (tasks[0], data[0]["gold"]) if len(tasks) == 1 else _together(data)
    async with open_sandbox() as sandbox:
        verdict = (await verify(task, answer, sandbox, _LIMITS)).verdict
    if verdict.fault == "infrastructure":
        raise InfrastructureError(f"gold answers of {tasks[0].id} and on could not be run: {verdict.reason}")
    if verdict.reward == 1.0:
        return []
    if len(tasks) == 1:
        return [(tasks[0], verdict)]
    middle = len(tasks) // 2
    return await _unproved(tasks[:middle]) + await _unproved(tasks[middle:])


def _together(data: Sequence[dict[str, Any]]) -> tuple[Task, str]:
    """Return one task whose calls are those of all, and the program that answers it."""
    inputs, expected = [], []
    for number, item in enumerate(data):
        inputs += [["t", to_tree(number), *call[1:]] for call in item["inputs"]]
        expected += item["expected"]
    program = _DISPATCH.format(sources=[item["gold"] for item in data], names=[item["entry_point"] for item in data])
    fields = json.dumps({"entry_point": "dispatch", "inputs": inputs, "expected": expected})
    return Task("batch", "micro_tasks", "", "python_calls", fields, ""), program
