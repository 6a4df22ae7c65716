"""One function over many shards on this machine: skip what is done, retry, merge counts.

A job is a frozen, picklable object with a `name` that is unique within its artifact; the function writes the job's
files (atomically) and returns its counts. The outcome depends only on the jobs, never on the number of workers.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Protocol, TypeVar

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.core.manifest import PROGRESS, Counts
from codeflow.core.progress import Bar, say
from codeflow.core.storage import write_text


class Job(Protocol):
    """What a shard's function needs, picklable."""

    @property
    def name(self) -> str:
        """Unique within the artifact; names the shard's completion file."""
        ...


JobT = TypeVar("JobT", bound=Job)
_PR_SET_PDEATHSIG = 1


def default_workers() -> int:
    """Return the number of processes to use: the cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def run_shards(
    work: Callable[[JobT], Counts],
    jobs: Sequence[JobT],
    output: Path,
    label: str,
    workers: int | None = None,
    retries: int = 1,
) -> Counts:
    """Run `work` over `jobs` in a process pool; return the merged counts.

    A finished job leaves `progress/<name>.json` under `output` and is skipped by the next run. A job that fails with
    an ordinary exception, or whose worker dies, is tried again `retries` times; then InfrastructureError names it.
    UserErrors are not retried.
    """
    folder = output / PROGRESS
    done = {job.name: folder / f"{job.name}.json" for job in jobs}
    assert len(done) == len(jobs), "job names must be unique"
    waiting = [job for job in jobs if not done[job.name].exists()]
    attempts = 0
    with Bar(label, len(jobs), "shards") as bar:
        bar.advance(len(jobs) - len(waiting))
        while waiting:
            failed = _one_round(work, waiting, done, bar, min(workers or default_workers(), len(waiting)))
            if failed and attempts == retries:
                job, error = failed[0]
                raise InfrastructureError(
                    f"{label}: {len(failed)} of {len(jobs)} shards failed {attempts + 1} times, "
                    f"first {job.name}: {error!r}"
                ) from error
            for job, error in failed:
                say(f"  {label}: trying shard {job.name} again after {type(error).__name__}: {error}")
            waiting, attempts = [job for job, _ in failed], attempts + 1
    total = Counts()
    for path in done.values():
        total = total + Counts.model_validate_json(path.read_text())
    return total


def _one_round(
    work: Callable[[JobT], Counts], jobs: Sequence[JobT], done: dict[str, Path], bar: Bar, workers: int
) -> list[tuple[JobT, Exception]]:
    failed: list[tuple[JobT, Exception]] = []

    def finish(job: JobT, result: Callable[[], Counts]) -> None:
        try:
            counts = result()
        except (UserError, InfrastructureError):
            raise
        except Exception as error:  # the shard is tried again; after that it is named
            failed.append((job, error))
            return
        write_text(done[job.name], counts.model_dump_json())
        bar.advance()

    if workers == 1:
        for job in jobs:
            finish(job, lambda job=job: work(job))
        return failed
    with process_pool(workers) as pool:
        futures: dict[Future[Counts], JobT] = {}
        for job in jobs:
            try:
                futures[pool.submit(work, job)] = job
            except BrokenProcessPool as error:
                failed.append((job, error))
        for future in as_completed(futures):
            finish(futures[future], future.result)
    return failed


def process_pool(workers: int) -> Executor:
    """Return a pool of fresh processes that die with this one and leave Ctrl-C to it."""
    return ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=end_with, initargs=(os.getpid(),)
    )


def end_with(parent: int) -> None:
    """Let this process, a child of `parent`, die with it and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the call above took hold
        os._exit(1)
