"""Jobs in processes of this machine.

Each process is a pool of its own with one job at a time, so that a process that dies (out of memory, killed) takes
exactly one job with it, and one knows which.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass

from codeflow.core.manifest import Counts
from codeflow.execute.pool import JobT, Outcome, Outcomes, Pool, in_this_process

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class LocalPool:
    """Processes of this machine."""

    workers: int | None = None  # None: one per core, and this process alone for small work

    def outcomes(self, work: Callable[[JobT], Counts], jobs: Sequence[JobT], small: bool = False) -> Outcomes[JobT]:
        """See `Pool`. The processes end with the iterator."""
        with self.kept() as pool:
            yield from pool.outcomes(work, jobs, small)

    @contextmanager
    def kept(self) -> Iterator[Pool]:
        """See `Pool`."""
        processes = _Processes(self.workers)
        try:
            yield processes
        except KeyboardInterrupt:
            processes.close(wait=False)  # they die with this process
            raise
        finally:
            processes.close()


THIS_MACHINE = LocalPool()


class _Processes:
    """The processes of a pool; they start when they are first needed."""

    def __init__(self, workers: int | None) -> None:
        self._workers = workers
        self._started: dict[int, Executor] = {}

    @contextmanager
    def kept(self) -> Iterator[Pool]:
        yield self

    def outcomes(self, work: Callable[[JobT], Counts], jobs: Sequence[JobT], small: bool = False) -> Outcomes[JobT]:
        workers = min(self._workers or (1 if small else default_workers()), len(jobs))
        if workers <= 1:
            yield from in_this_process(work, jobs)
            return
        waiting, idle = deque(jobs), list(range(workers))
        running: dict[Future[Counts], tuple[JobT, int]] = {}
        try:
            while waiting or running:
                while waiting and idle:
                    number, job = idle.pop(0), waiting.popleft()
                    running[self._submit(number, work, job)] = job, number
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    job, number = running.pop(future)
                    idle.append(number)
                    yield job, self._outcome(future, number)
        except KeyboardInterrupt:
            running.clear()
            raise
        finally:
            wait(running)  # none is left behind to write into a folder that somebody has given up

    def _submit(self, number: int, work: Callable[[JobT], Counts], job: JobT) -> Future[Counts]:
        try:
            return self._process(number).submit(work, job)
        except BrokenProcessPool:  # it died between two jobs
            self._started.pop(number).shutdown()
            return self._submit(number, work, job)

    def _process(self, number: int) -> Executor:
        if number not in self._started:
            self._started[number] = process_pool(1)
        return self._started[number]

    def _outcome(self, future: Future[Counts], number: int) -> Outcome:
        try:
            return future.result()
        except BrokenProcessPool as error:
            self._started.pop(number).shutdown()
            return error
        except Exception as error:
            return error

    def close(self, wait: bool = True) -> None:
        while self._started:
            self._started.popitem()[1].shutdown(wait)


def default_workers() -> int:
    """Return the number of processes to use: the cores that this process may run on."""
    return len(os.sched_getaffinity(0))


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
