"""Small Python programs per second in full isolation, by back end; verdicts per second as reinforcement learning asks.

    make bench NAME=sandbox_jobs

A job prints the sum of its input. Each back end runs the same jobs, twice as many at once as there are cores (a fork
server waits for the kernel between two jobs), beside bare interpreters without any isolation. Rounds alternate, and
the best of each counts. Verdicts: 256 functions, 16 answers to each of 16 tasks with 20 hidden calls. Prints one JSON
line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable

from codeflow.core.types import Task
from codeflow.sandbox.local import BACKENDS, open_sandbox, probe
from codeflow.sandbox.policy import Limits
from codeflow.sandbox.result import Status
from codeflow.solve.verify import python_calls_data
from codeflow.solve.verify_many import Attempt, verify_many

ROUNDS = 3
JOBS = dict.fromkeys(BACKENDS, 200) | {"fork server": 600, "bare": 100}
TARGETS = {"fork server": 300, "bubblewrap": 100}
PROGRAM = "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n"
AT_ONCE = 2 * len(os.sched_getaffinity(0))


async def _isolated(backend: str, number: int) -> None:
    async with open_sandbox(backend=backend) as sandbox:
        result = await sandbox.exec([*sandbox.python, "-c", PROGRAM], stdin=f"{number} 1".encode())
    assert (result.status, result.stdout) == (Status.OK, f"{number + 1}\n".encode()), result


async def _bare(number: int) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-IS", "-c", PROGRAM, stdin=-1, stdout=-1)
    out, _ = await process.communicate(f"{number} 1".encode())
    assert out == f"{number + 1}\n".encode()


async def _rate(job: Callable[[int], Awaitable[None]], n: int) -> float:
    numbers = iter(range(n))

    async def work() -> None:
        for number in numbers:
            await job(number)

    started = time.perf_counter()
    await asyncio.gather(*[work() for _ in range(AT_ONCE)])
    return n / (time.perf_counter() - started)


def verdict_rate() -> float:
    """Return verdicts per second on 256 answers, half of them right."""
    attempts = []
    for number in range(16):
        inputs = [([n, n + 1, 3 * n, 5, 7],) for n in range(20)]
        data = python_calls_data("f", inputs, [sorted(values)[number % 5] for (values,) in inputs])
        task = Task(f"t{number}", "benchmark", "", "python_calls", data, "")
        for answer in range(16):
            place = number % 5 if answer % 2 else (number + 1) % 5
            attempts.append(Attempt(task, f"def f(xs):\n    # {answer}\n    return sorted(xs)[{place}]\n"))
    started = time.perf_counter()
    verdicts = verify_many(attempts, Limits(wall_seconds=10, cpu_seconds=2), AT_ONCE)
    seconds = time.perf_counter() - started
    assert sum(verdict.passed for verdict in verdicts) == len(attempts) // 2
    return len(attempts) / seconds


def main() -> None:
    """Measure and print."""
    jobs = {name: (lambda number, name=name: _isolated(name, number)) for name in BACKENDS if probe(name).backend}
    jobs["bare"] = _bare
    rates: dict[str, float] = {}
    verdicts = 0.0
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            rates[name] = max(rates.get(name, 0.0), asyncio.run(_rate(job, JOBS[name])))
        verdicts = max(verdicts, verdict_rate())
    result = {
        "benchmark": "sandbox_jobs",
        "cores": len(os.sched_getaffinity(0)),
        "at_once": AT_ONCE,
        "ours": round(rates["fork server"], 1) if "fork server" in rates else None,
        "unit": "jobs/s",
        "by_backend": {name: round(rate, 1) for name, rate in rates.items()},
        "verdicts_per_second": round(verdicts, 1),
        "targets": TARGETS,
        "met": {name: rates.get(name, 0.0) >= target for name, target in TARGETS.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
