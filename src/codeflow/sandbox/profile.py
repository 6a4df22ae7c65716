"""What a Python program costs, and which of its lines ran, how often, how long and in which order.

The program runs twice. Once as it is: status, wall and CPU seconds and peak memory are those that the parent measured,
and cannot be forged. Once more line by line, some ten to a hundred times slower, for its lines: what is told of them
comes out of the program's own process, and a hostile program can forge it.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codeflow.sandbox.policy import MIB, Limits
from codeflow.sandbox.result import Result
from codeflow.sandbox.sandbox import Sandbox

_FILE = "main.py"
_SLOWER = 10  # how much more time the second execution has


@dataclass(frozen=True, slots=True)
class Line:
    """How often a line began, and the microseconds until the next one did."""

    times: int
    microseconds: int


@dataclass(frozen=True, slots=True)
class Profile:
    """`plain` is the program's execution as it is; the rest is what the second one told.

    If that did not come to its end, nothing was told, and `problem` says why.
    """

    plain: Result
    lines: dict[int, Line]
    executable: tuple[int, ...]  # lines that can run
    steps: tuple[tuple[int, str], ...]  # line and function, in order
    complete: bool  # there were no more steps than are told
    problem: str = ""

    @property
    def missed(self) -> tuple[int, ...]:
        """Lines that can run and did not."""
        return tuple(line for line in self.executable if line not in self.lines)

    @property
    def coverage(self) -> float:
        """Share of the executable lines that ran; 0 where nothing is known of them."""
        return 1 - len(self.missed) / len(self.executable) if self.executable else 0.0


async def profile(
    sandbox: Sandbox, source: str, stdin: bytes = b"", limits: Limits | None = None, most_steps: int = 10_000
) -> Profile:
    """Run a Python program in `sandbox` as it is, then line by line; the sandbox's files stay as they were.

    `most_steps` bounds the order of lines that is told, not what is counted. A program that ends itself (`os._exit`, a
    signal, a limit) in the second execution tells nothing of its lines.
    """
    limits = limits or Limits()
    before = await sandbox.snapshot()
    try:
        await sandbox.write(_FILE, source.encode("utf-8", "surrogatepass"))
        plain = await sandbox.exec([*sandbox.python, _FILE], stdin=stdin, limits=limits)
        wider = replace(
            limits,
            wall_seconds=limits.wall_seconds * _SLOWER,
            cpu_seconds=limits.cpu_seconds * _SLOWER,
            memory_bytes=limits.memory_bytes + 64 * MIB + 200 * most_steps,
            output_bytes=limits.output_bytes + MIB + 128 * most_steps,
        )
        line = [*sandbox.python, "-c", _driver(), _FILE, str(most_steps)]
        traced = await sandbox.exec(line, stdin=stdin, limits=wider, channel=True)
    finally:
        await sandbox.reset(before)
    return _profile(plain, traced)


@functools.cache
def _driver() -> str:
    return Path(__file__).with_name("profile_driver.py").read_text(encoding="utf-8")


def _profile(plain: Result, traced: Result) -> Profile:
    try:
        return _read(plain, json.loads(traced.channel))
    except (ValueError, TypeError, KeyError, AttributeError):
        said = traced.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        problem = f"line by line it ended as {traced.status}" + (f": {traced.detail or said}"[:200] if said else "")
        return Profile(plain, {}, (), (), False, problem)


def _read(plain: Result, told: dict[str, Any]) -> Profile:
    """Return a report as plain numbers. Raises ValueError, TypeError, KeyError for what is none."""
    lines = {int(line): Line(int(times), int(spent)) for line, (times, spent) in told["lines"].items()}
    steps = tuple((int(line), str(name)) for line, name in told["steps"])
    executable = tuple(int(line) for line in told["executable"])
    return Profile(plain, dict(sorted(lines.items())), executable, steps, not told["more"])
