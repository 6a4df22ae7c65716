"""Executed traces: programs run step by step in the sandbox, many per start, and written line by line.

    f([3, 1, 2])                              the call, where there is one
    xs = sorted(xs) -> xs = [1, 2, 3]         a statement and what it bound or changed
    if n > 2: -> True                         a condition, by where execution went on
    for x in xs: -> end                       a loop that is over
    return xs[::2] -> [1, 3]                  a value given back
    print(n) -> prints 3

Every value was seen in the execution; nothing is computed or guessed outside.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import json
import marshal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codeflow.core.config import Config
from codeflow.core.errors import InfrastructureError
from codeflow.sandbox.local import open_sandbox
from codeflow.sandbox.policy import MIB, Limits
from codeflow.sandbox.result import Status

_LIMITS = Limits(wall_seconds=60.0, cpu_seconds=60.0, output_bytes=32 * MIB)


class TraceConfig(Config):
    """Bounds of a trace; a program that passes one of them gives none."""

    most_steps: int = 40
    most_value_characters: int = 80
    most_characters: int = 700  # of the whole text


@dataclass(frozen=True, slots=True)
class Program:
    """Source text, and the call to follow; "": the module itself is followed."""

    source: str
    call: str = ""


@dataclass(frozen=True, slots=True)
class Traced:
    """What an execution showed. `reason` says why there is no trace ("": there is one)."""

    text: str = ""
    value: str = ""  # repr of what the call gave back
    printed: tuple[str, ...] = ()
    reason: str = ""


def trace(programs: Sequence[Program], config: TraceConfig) -> list[Traced]:
    """Follow each program in one start of the sandbox. Raises InfrastructureError when that does not come to its end.

    The programs are this project's own or made by it: they share a process.
    """
    found = asyncio.run(_reports(programs, config)) if programs else []
    return [_traced(program, report, config) for program, report in zip(programs, found, strict=True)]


async def _reports(programs: Sequence[Program], config: TraceConfig) -> list[dict[str, Any]]:
    rows = [(program.source, program.call, _bound_names(program.source)) for program in programs]
    job = {"programs": rows, "most_steps": config.most_steps, "most_characters": config.most_value_characters}
    async with open_sandbox() as sandbox:
        command = [*sandbox.python, "-c", _driver()]
        result = await sandbox.exec(command, stdin=marshal.dumps(job, 4), limits=_LIMITS, channel=True)
    lines = result.channel.splitlines()
    if result.status is not Status.OK or len(lines) != len(programs):
        problem = result.detail or result.stderr.decode("utf-8", "replace").strip()[-200:]
        raise InfrastructureError(f"tracing {len(programs)} programs ended with '{result.status}': {problem}")
    return [json.loads(line) for line in lines]


@functools.cache
def _driver() -> str:
    return Path(__file__).with_name("trace_driver.py").read_text(encoding="utf-8")


def _bound_names(source: str) -> dict[int, tuple[str, ...]]:
    """Return the names that each line binds, so that they are shown even where the value stays the same."""
    found: dict[int, tuple[str, ...]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign):
            targets: list[ast.expr] = node.targets
        elif isinstance(node, ast.AugAssign | ast.For):
            targets = [node.target]
        else:
            continue
        names = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
        found[node.lineno] = (*found.get(node.lineno, ()), *names)
    return found


def _traced(program: Program, report: dict[str, Any], config: TraceConfig) -> Traced:
    if "reason" in report:
        return Traced(reason=report["reason"])
    text = trace_text(program, report["steps"])
    if len(text) > config.most_characters:
        return Traced(reason="trace too long")
    return Traced(text, report["value"], tuple(report["printed"]))


def trace_text(program: Program, steps: Sequence[Any]) -> str:
    """Write the steps that the driver reported: [line, changes, next line, printed texts] each."""
    source = program.source.splitlines()
    branches = {
        node.lineno: (type(node), node.body[0].lineno)
        for node in ast.walk(ast.parse(program.source))
        if isinstance(node, ast.If | ast.While | ast.For)
    }
    lines = [program.call] if program.call else []
    for line, changes, following, printed in steps:
        statement = source[line - 1].strip()
        if statement.startswith(("def ", "else:")):
            continue
        kind, body = branches.get(line, (None, 0))
        if kind is ast.For and following != body:
            shown = "end"
        elif kind in (ast.If, ast.While):
            shown = str(following == body)
        elif printed:
            shown = "prints " + ", ".join(printed)
        else:
            shown = ", ".join(f"{name} = {text}" if name else text for name, text in changes.items())
        lines.append(f"{statement} -> {shown}" if shown else statement)
    return "\n".join(lines)
