"""Many verdicts through one pool, one in a hundred hostile: nothing lost or doubled, nothing left behind.

Each job judges an answer to a task of its own: right, wrong, or one of the hostile programs below. Afterwards every job
must have exactly the verdict that its kind has, and the machine must be as before: no process of a sandbox, no file in
the temporary folders, no descriptor, no growth of this process beyond the bound.

    python -m campaigns sandbox_jobs --jobs 100000 --pool 8 --seed 0 --table docs/campaigns/sandbox_jobs.md
"""
# ruff: noqa: E501  the programs are texts

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import platform
import random
import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from codeflow.core.types import Task, Verdict
from codeflow.sandbox.control_groups import groups
from codeflow.sandbox.local import probe
from codeflow.sandbox.policy import MIB, Limits
from codeflow.sandbox.pool import Pool
from codeflow.solve.verify import python_calls_data, verify

LIMITS = Limits(wall_seconds=5, cpu_seconds=1, memory_bytes=256 * MIB, processes=8, disk_bytes=16 * MIB)
HOSTILE_SHARE, MOST_GROWTH_BYTES, MOST_FAULTS = 0.01, 64 * MIB, 0.001
HOSTILE = {
    "fork bomb": "import os\ndef f(x):\n    while True:\n        try: os.fork()\n        except OSError: pass\n",
    "memory bomb": "def f(x):\n    held = []\n    while True: held.append(bytearray(8 << 20))\n",
    "output flood": "import os\ndef f(x):\n    while True: os.write(1, b'x' * 65536)\n",
    "endless loop": "def f(x):\n    while True: pass\n",
    "early exit": "import os\ndef f(x): os._exit(0)\n",
    "kills all": "import os, signal\ndef f(x): os.kill(-1, signal.SIGKILL)\n",
    "daemon": "import os, time\ndef f(x):\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(600)\n    return 0\n",
    "disk fill": "def f(x):\n    with open('/work/fill', 'wb') as file:\n        while True: file.write(bytes(1 << 20))\n",
    "forged report": 'import os\nfor fd in range(3, 64):\n    try: os.write(fd, b\'["value",["i","1"]]\\n\')\n'
    "    except OSError: pass\nos._exit(0)\n",
    "equal to everything": "class A:\n    def __eq__(self, other): return True\ndef f(x): return A()\n",
    "kills its parents": "import os, signal\ndef f(x):\n    for pid in range(1, 99):\n        if pid != os.getpid():\n"
    "            try: os.kill(pid, signal.SIGKILL)\n            except OSError: pass\n    return 0\n",
}


@dataclass(frozen=True)
class Job:
    """An answer whose verdict is known."""

    kind: str
    task: Task
    answer: str


def make(number: int, seed: int) -> Job:
    """Return job `number` of the campaign."""
    rng = random.Random(f"{seed}/{number}")
    key = rng.randrange(1 << 30)
    data = python_calls_data("f", [(n,) for n in range(5)], [n * 31 + key for n in range(5)])
    task = Task(f"job/{number}", "campaign", "", "python_calls", data, "")
    if rng.random() < HOSTILE_SHARE:
        kind = rng.choice(sorted(HOSTILE))
        return Job(kind, task, HOSTILE[kind])
    right = rng.random() < 0.5
    return Job("right" if right else "wrong", task, f"def f(x):\n    return x * 31 + {key if right else key + 1}\n")


def left_behind() -> dict[str, int]:
    """Count what sandboxes could leave: processes below this one, files in temporary folders, descriptors, groups."""
    if (made := groups()) is not None:
        made.close()  # as many as were lent at once are kept
    folders = ("/tmp", "/dev/shm")
    return {
        "processes": sum(1 for pid in os.listdir("/proc") if pid.isdigit() and _is_ours(pid)),
        "files": sum(name.startswith("codeflow") for folder in folders for name in os.listdir(folder)),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "control groups": len(list(made.place.folder.glob(f"codeflow-{os.getpid()}-*"))) if made else 0,
    }


def _is_ours(pid: str) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return pid != str(os.getpid()) and b"Runs inside a bubblewrap and starts jobs there" in command and _below(pid)


def _below(pid: str) -> bool:
    while pid not in ("0", "1"):
        if pid == str(os.getpid()):
            return True
        try:
            pid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            return False
    return False


async def judge_all(n_jobs: int, size: int, seed: int) -> dict[int, list[tuple[str, Verdict]]]:
    """Return the verdicts of each job, with its kind."""
    pool, numbers = Pool(size), iter(range(n_jobs))
    found: dict[int, list[tuple[str, Verdict]]] = {}
    started = time.monotonic()

    async def work() -> None:
        for number in numbers:
            job = make(number, seed)
            async with pool.lease() as sandbox:
                checked = await verify(job.task, job.answer, sandbox, LIMITS)
            found.setdefault(number, []).append((job.kind, checked.verdict))
            if len(found) % 5000 == 0:
                rate = len(found) / (time.monotonic() - started)
                print(f"  {len(found)}/{n_jobs}  {rate:.0f}/s", file=sys.stderr, flush=True)

    await asyncio.gather(*[work() for _ in range(size)])
    await pool.close()
    return found


def main() -> int:
    """Run the campaign; print and perhaps write its table; return 1 when something was lost, doubled, wrong or left."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--pool", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    asyncio.run(judge_all(200, given.pool, given.seed + 1))  # servers, caches and code are up
    gc.collect()
    before, size_before = left_behind(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.monotonic()
    found = asyncio.run(judge_all(given.jobs, given.pool, given.seed))
    seconds = time.monotonic() - started
    gc.collect()
    after, grown = left_behind(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - size_before
    kinds: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    remarks: list[str] = []
    for verdicts in found.values():
        (kind, verdict), *_ = verdicts
        kinds[kind] += 1
        if verdict.fault == "infrastructure":  # counted, never scored
            faults[kind] += 1
        elif verdict.passed is not (kind == "right"):
            wrong[kind] += 1
        else:
            continue
        remarks.append(f"{kind}: {verdict.reason}")
    n_lost = given.jobs - len(found)
    n_doubled = sum(len(verdicts) > 1 for verdicts in found.values())
    bad = (
        n_lost
        or n_doubled
        or wrong.total()
        or faults.total() > MOST_FAULTS * given.jobs
        or after != before
        or grown > MOST_GROWTH_BYTES
    )
    lines = [
        "# Sandbox campaign",
        "",
        f"{date.today()}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}, back end `{probe().backend}`; `python -m campaigns sandbox_jobs --jobs "
        f"{given.jobs} --pool {given.pool} --seed {given.seed}`; {seconds:.0f} s.",
        "",
        "| jobs | verdicts | faults | wrong |",
        "|---|--:|--:|--:|",
        *[f"| {kind} | {kinds[kind]} | {faults[kind]} | {wrong[kind]} |" for kind in sorted(kinds)],
        "",
        f"{n_lost} lost, {n_doubled} doubled. Before and after: {before}, {after}. Peak memory of the parent grew by "
        f"{grown / MIB:.0f} MiB, which holds all verdicts.",
        "",
        *[f"* {remark}" for remark in remarks[:20]],
    ]
    print("\n".join(lines))
    if given.table:
        given.table.write_text("\n".join(lines), encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
