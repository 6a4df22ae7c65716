"""`codeflow doctor`: which back end runs untrusted code here, and whether it holds against hostile programs."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Callable

from codeflow.core.errors import InfrastructureError
from codeflow.sandbox import seccomp
from codeflow.sandbox.containment import Outcome, run_attacks, table
from codeflow.sandbox.control_groups import groups
from codeflow.sandbox.local import BACKENDS, open_sandbox, probe
from codeflow.solve.cheats import run_cheats

RESIDUAL = (
    "Not covered: bugs of the kernel behind the system calls that are allowed; side channels; without a control group, "
    "memory in all (processes x address space). HumanEval, pytest and unittest run their checks beside the candidate: "
    "a program written against the very driver, or an object with a lying __eq__, can pass there."
)


def examine(backend: str, say: Callable[[str], None]) -> bool:
    """Run all attacks and cheats and say what became of each; return whether all were contained.

    Raises InfrastructureError when no back end works, or not the one named.
    """
    started = time.monotonic()
    for name in BACKENDS:
        problem = probe(name).problem
        say(f"{name}: {problem or 'works'}")
    chosen = probe(backend)
    if not chosen.backend:
        raise InfrastructureError(chosen.problem)
    made = groups()
    say(f"memory and processes in all: {made.place.version if made else 'rlimits of each process'}")
    filtered = "yes" if seccomp.program() else f"none for {platform.machine()}"
    say(f"system-call filter: {filtered}")
    say(f"attacks on '{chosen.backend}', as {'root' if os.geteuid() == 0 else f'user {os.geteuid()}'}:")
    outcomes = asyncio.run(_all(chosen.backend))
    for line in table(outcomes):
        say(line)
    say(f"{time.monotonic() - started:.0f} s. {RESIDUAL}")
    return not any(outcome.problem for outcome in outcomes)


async def _all(backend: str) -> list[Outcome]:
    attacks = await run_attacks(lambda: open_sandbox(backend=backend))
    return [*attacks, *await run_cheats(backend)]
