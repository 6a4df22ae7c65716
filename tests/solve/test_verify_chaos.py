"""Verdicts while servers are killed at random and bubblewrap is taken away and comes back: right, or a fault."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import shutil
import signal
import threading
from pathlib import Path

import pytest

from codeflow.core.types import Task, Verdict
from codeflow.sandbox import local
from codeflow.sandbox.fork_server import Server, servers
from codeflow.sandbox.local import probe
from codeflow.sandbox.policy import MIB, Limits
from codeflow.sandbox.pool import Pool
from codeflow.solve.verify import python_calls_data, verify

N_JOBS, AT_ONCE = 60, 3
LIMITS = Limits(wall_seconds=20, cpu_seconds=2, memory_bytes=256 * MIB, disk_bytes=16 * MIB)


def _job(number: int) -> tuple[Task, str, bool]:
    """Return task, answer and whether it is right."""
    rng = random.Random(number)
    key, right = rng.randrange(1000), rng.random() < 0.5
    data = python_calls_data("f", [(n,) for n in range(5)], [n * 31 + key for n in range(5)])
    answer = f"import time\ntime.sleep(0.02)\ndef f(x):\n    return x * 31 + {key if right else key + 1}\n"
    return Task(f"job/{number}", "chaos", "", "python_calls", data, ""), answer, right


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["fork server", "unshare", "landlock"])
def test_no_verdict_is_wrong_lost_or_doubled(backend, tmp_path, monkeypatch):
    host = probe(backend).host
    if host is None:
        pytest.skip(probe(backend).problem)
    changes = {"binds": (*host.binds, "/usr/share")}  # servers of its own
    program = tmp_path / "bwrap"
    if host.bwrap:
        shutil.copy(host.bwrap, program)
        changes["bwrap"] = str(program)
    host = dataclasses.replace(host, **changes)
    monkeypatch.setattr(local, "probe", lambda name="": local.Probe(backend, "", host))
    group, rng, timers = servers(host, (), backend), random.Random(0), []
    lent = group.lend

    def kill(server: Server, choice: float) -> None:
        if not server.ended:
            # under landlock the children are the programs themselves, whose death is their own
            targets = server.processes()[: 1 if backend == "landlock" else None]
            with contextlib.suppress(ProcessLookupError):
                os.kill(targets[int(choice * len(targets))], signal.SIGKILL)

    async def lend() -> Server:
        server = await lent()
        if rng.random() < 0.3:
            timers.append(threading.Timer(0.03 * rng.random(), kill, (server, rng.random())))
            timers[-1].start()
        return server

    monkeypatch.setattr(group, "lend", lend)

    async def story() -> dict[int, list[Verdict]]:
        pool, found = Pool(AT_ONCE, backend=backend), {number: [] for number in range(N_JOBS)}
        numbers = iter(range(N_JOBS))

        async def work() -> None:
            for number in numbers:
                if host.bwrap and number in (N_JOBS // 3, N_JOBS // 2):  # gone, and there again
                    aside = Path(f"{program}.aside")
                    os.rename(*((program, aside) if number == N_JOBS // 3 else (aside, program)))
                task, answer, _ = _job(number)
                async with pool.lease() as sandbox:
                    found[number].append((await verify(task, answer, sandbox, LIMITS)).verdict)

        await asyncio.gather(*[work() for _ in range(AT_ONCE)])
        await pool.close()
        return found

    try:
        found = asyncio.run(story())
    finally:
        for timer in timers:
            timer.join()
        group.close()
    n_faults = 0
    for number, verdicts in found.items():
        (verdict,) = verdicts
        if verdict.fault == "infrastructure":
            n_faults += 1
        else:
            assert verdict.passed is _job(number)[2], (number, verdict)
    assert 0 < n_faults < N_JOBS
