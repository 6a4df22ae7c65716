"""What runs the function of a stage's shards: on this machine (`local`), or on a cluster (`ray`).

Stages take a pool and hand it to `shards.run_shards`; they do not know which it is.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.core.manifest import Counts


class Job(Protocol):
    """What a shard's function needs, picklable."""

    @property
    def name(self) -> str:
        """Unique within the artifact; names the shard's completion file."""
        ...


JobT = TypeVar("JobT", bound=Job)
Outcome = Counts | Exception  # an exception of the job, or what became of its process

Outcomes = Generator[tuple[JobT, Outcome], None, None]


class Pool(Protocol):
    """Where jobs run. Picklable; says nothing about what is run."""

    def outcomes(self, work: Callable[[JobT], Counts], jobs: Sequence[JobT], small: bool = False) -> Outcomes[JobT]:
        """Run `work` once over every job; yield each job with its outcome as it comes, in any order.

        A job's failure, or its process's death, is that job's outcome and touches no other job. `small` says that all
        jobs together are done before a process has started. When the iterator is closed no job is running any more.
        """
        ...

    def kept(self) -> AbstractContextManager[Pool]:
        """Return this pool for several calls: the processes that it starts live until the block's end."""
        ...


@dataclass(frozen=True)
class Alone(Generic[JobT]):
    """The function of a shard, held up while another process is still at the same shard.

    A killed run's processes may outlive it by a moment, on a cluster by more.
    """

    work: Callable[[JobT], Counts]
    folder: Path  # of the locks; on a disk that all processes share

    def __call__(self, job: JobT) -> Counts:
        """Run the job when no other process is at it."""
        descriptor = os.open(self.folder / f".{job.name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return self.work(job)
        finally:
            os.close(descriptor)


def in_this_process(work: Callable[[JobT], Counts], jobs: Sequence[JobT]) -> Outcomes[JobT]:
    """Run the jobs one after the other, here."""
    for job in jobs:
        try:
            outcome: Outcome = work(job)
        except Exception as error:
            outcome = error
        yield job, outcome


def is_final(error: Exception) -> bool:
    """Say whether trying the job again is of no use."""
    return isinstance(error, (UserError, InfrastructureError))
