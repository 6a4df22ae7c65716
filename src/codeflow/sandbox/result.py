"""What an execution came to."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum

from codeflow.sandbox.policy import Limits


class Status(StrEnum):
    """How an execution ended. Only `INFRASTRUCTURE` is not the doing of the code that ran."""

    OK = "ok"  # exit code 0
    FAILED = "failed"  # another exit code
    COMPILE_ERROR = "compile error"  # the compiler refused the program
    TIME = "time"  # wall or CPU limit
    MEMORY = "memory"  # ended for want of memory
    OUTPUT = "output"  # wrote more than allowed
    CRASH = "crash"  # killed by a signal
    INFRASTRUCTURE = "infrastructure"  # the sandbox did not come up, or was killed from outside


@dataclass(frozen=True, slots=True)
class Result:
    """Status, measurements and (cut) output of one execution. Times are measured by the parent."""

    status: Status
    exit_code: int | None  # None where no exit code was seen; 128 + n for signal n
    wall_seconds: float
    cpu_seconds: float  # of all its processes
    peak_memory_bytes: int | None  # None where it could not be measured
    stdout: bytes
    stderr: bytes
    channel: bytes  # what was written to the extra descriptor, if there was one
    truncated: bool  # output was cut at the limit
    backend: str  # which isolation it ran under
    detail: str = ""  # why it is an infrastructure fault
    limited_by: str = "rlimits"  # who bound memory and processes: each process alone, or a control group all together


def fault(backend: str, detail: str) -> Result:
    """Return the result of an execution that the surroundings did not let happen."""
    return Result(Status.INFRASTRUCTURE, None, 0.0, 0.0, None, b"", b"", b"", False, backend, detail)


def status_of(code: int, stderr: bytes, cpu_seconds: float, limits: Limits) -> Status:
    """Return how a program ended by itself: `code` is its exit code, or 128 + n for signal n."""
    if code == 0:
        return Status.OK
    if code == 128 + signal.SIGXCPU or (code == 128 + signal.SIGKILL and cpu_seconds >= limits.cpu_seconds):
        return Status.TIME
    if stderr.rstrip().rpartition(b"\n")[2].startswith(b"MemoryError"):
        return Status.MEMORY
    return Status.CRASH if code > 128 else Status.FAILED
