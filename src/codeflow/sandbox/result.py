"""What an execution came to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How an execution ended. Only `INFRASTRUCTURE` is not the doing of the code that ran."""

    OK = "ok"  # exit code 0
    FAILED = "failed"  # another exit code
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
