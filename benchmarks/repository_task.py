"""One repository task from nothing: tree and environment cold, a further rollout before its tests, the gold's verdict.

    CODEFLOW_MINED_TASKS=runs/click_tasks make bench NAME=repository_task

Needs an artifact of `codeflow mine-tasks`; its first task is taken. Cold means an empty cache: the tree is read from
the artifact and written, pip resolves and unpacks the packages (from whatever index it is configured for). A further
rollout before its tests is a new sandbox with a fresh copy of the tree, the median of ten. Prints one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from codeflow.solve.repository.runs import run_tests
from codeflow.solve.repository.tasks import RepositoryTasks
from codeflow.solve.repository.verdict import RepositoryTask

COLD_SECONDS, WARM_SECONDS, ROUNDS = 10.0, 0.2, 10


def main() -> None:
    """Measure and print."""
    named = os.environ.get("CODEFLOW_MINED_TASKS")
    if not named:
        sys.exit("set CODEFLOW_MINED_TASKS to an artifact of `codeflow mine-tasks`")
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        tasks = RepositoryTasks(Path(named), cache)
        task = tasks.tasks[0]
        place = tasks.place(task)
        cold = time.perf_counter() - started
        data = RepositoryTask.of(task)
        warm: list[float] = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            asyncio.run(run_tests(place, data.gold_changes, [], 60))
            warm.append(time.perf_counter() - started)
        started = time.perf_counter()
        verdict = asyncio.run(tasks.judge(task, data.gold_changes))
        judged = time.perf_counter() - started
        nothing = asyncio.run(tasks.judge(task, {}))
    assert verdict.passed, verdict.reason
    assert not nothing.passed
    found = {
        "benchmark": "repository_task",
        "task": task.id,
        "cold_seconds": round(cold, 2),
        "warm_seconds": round(statistics.median(warm), 3),
        "gold_verdict_seconds": round(judged, 2),
        "tests": verdict.tests_run,
        "bound": f"{COLD_SECONDS:g} s cold, {WARM_SECONDS:g} s warm",
        "ok": cold <= COLD_SECONDS and statistics.median(warm) <= WARM_SECONDS,
    }
    print(json.dumps(found))


main()
