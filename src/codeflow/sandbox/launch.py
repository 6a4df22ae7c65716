"""Start one process, read its descriptors up to a cap, end it on time, reap it with its resource usage.

Linux only. No thread, no `preexec_fn` (we may be large and threaded): an event loop watches pipes and a pidfd.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_CHUNK_BYTES = 1 << 16
_PR_SET_CHILD_SUBREAPER = 36
_END_SECONDS = 5.0  # how long a killed tree may take to vanish


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was seen of the process. `exit_code` is negative for a signal."""

    exit_code: int
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int | None
    output: Mapping[int, bytes]
    timed_out: bool
    overflowed: bool
    lingered: bool  # something kept a pipe open after the kill: a leak, the caller must treat it as a fault


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time of a tree of processes, and the largest resident size of one of them (0: unknown)."""

    cpu_seconds: float
    peak_memory_bytes: int


@dataclass(slots=True)
class Watch:
    """The reading side of the pipes, and the moment at which all is over."""

    capped: set[int]
    budget_bytes: int
    buffers: dict[int, bytearray] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)
    overflowed: bool = False
    stop: asyncio.Event = field(default_factory=asyncio.Event)  # something is to be done: exit, overflow
    drained: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.buffers[descriptor] = bytearray()
        self.open.add(descriptor)
        loop.add_reader(descriptor, self._read, loop, descriptor)

    def _read(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        try:
            data = os.read(descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return
        if not data:
            loop.remove_reader(descriptor)
            self.open.discard(descriptor)
            if not self.open:
                self.drained.set()
            return
        if descriptor in self.capped:
            kept = data[: max(self.budget_bytes, 0)]
            self.budget_bytes -= len(data)
            if len(kept) < len(data):
                self.overflowed = True
                self.stop.set()
            data = kept
        self.buffers[descriptor] += data

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        for descriptor in self.buffers:
            loop.remove_reader(descriptor)
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Pipes:
    """Descriptors of a launch. Keys of `reads` are the ends that the parent reads, values those the child writes."""

    stdin: int
    stdout: int  # the parent's end, a key of `reads`
    stderr: int
    reads: Mapping[int, int]
    passed: tuple[int, ...]  # kept open in the child under the same number
    capped: frozenset[int]  # keys of `reads` that count against the output limit
    status: int  # key of `reads` on which bubblewrap writes JSON objects


def _start(argv: Sequence[str], pipes: Pipes, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the program in a session of its own; closes our copies of its descriptors, all of them on failure."""
    try:
        return subprocess.Popen(
            argv,
            stdin=pipes.stdin,
            stdout=pipes.reads[pipes.stdout],
            stderr=pipes.reads[pipes.stderr],
            pass_fds=pipes.passed,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
        )
    except BaseException:
        for descriptor in pipes.reads:
            os.close(descriptor)
        raise
    finally:
        for descriptor in {pipes.stdin, *pipes.reads.values(), *pipes.passed}:
            os.close(descriptor)


async def launch(
    argv: Sequence[str], pipes: Pipes, environment: Mapping[str, str], wall_seconds: float, output_bytes: int
) -> Outcome:
    """Run `argv` until it ends, `wall_seconds` pass or `output_bytes` are exceeded. Closes all descriptors given.

    Raises OSError when the program cannot be started.
    """
    _adopt_orphans()
    loop = asyncio.get_running_loop()
    watch = Watch(set(pipes.capped), output_bytes)
    started = time.monotonic()
    process = _start(argv, pipes, environment)
    for descriptor in pipes.reads:
        watch.add(loop, descriptor)
    pidfd = os.pidfd_open(process.pid)
    loop.add_reader(pidfd, watch.stop.set)
    timed_out = False
    try:
        try:
            await asyncio.wait_for(watch.stop.wait(), wall_seconds)
        except TimeoutError:
            timed_out = True
        wall = time.monotonic() - started
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        init = _init_pid(bytes(watch.buffers[pipes.status]))
        sampled = Usage(0.0, 0)
        if init is not None and (timed_out or watch.overflowed or not watch.stop.is_set()):
            sampled = usage_of_tree(init)
            await _end(init)
        exit_code, reaped = await _reap(process, init)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(watch.drained.wait(), _END_SECONDS)
        lingered = bool(watch.open)
        watch.close(loop)
    return Outcome(
        exit_code=exit_code,
        wall_seconds=wall,
        cpu_seconds=reaped.cpu_seconds + sampled.cpu_seconds,
        peak_memory_bytes=max(reaped.peak_memory_bytes, sampled.peak_memory_bytes) or None,
        output={descriptor: bytes(buffer) for descriptor, buffer in watch.buffers.items()},
        timed_out=timed_out,
        overflowed=watch.overflowed,
        lingered=lingered,
    )


async def gone(pid: int) -> None:
    """Wait until a process has ended (reaped or not), for `_END_SECONDS` at most."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop.add_reader(descriptor, gone.set)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(gone.wait(), _END_SECONDS)
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def _end(init: int) -> None:
    """Kill the first process of the pid namespace, which nobody has reaped yet: the whole namespace goes with it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(init, signal.SIGKILL)
    await gone(init)


def _init_pid(status: bytes) -> int | None:
    for line in status.splitlines():
        with contextlib.suppress(ValueError):
            found = json.loads(line).get("child-pid")
            if isinstance(found, int):
                return found
    return None


async def _reap(process: subprocess.Popen[bytes], init: int | None) -> tuple[int, Usage]:
    """Collect exit code and usage of bubblewrap and, where it left it to us, of the namespace's first process.

    bubblewrap does not wait for that one, so it comes to us as an orphan. Its usage holds that of all processes inside,
    and unlike bubblewrap's own, which begins with the resident size of the process that started it, its peak is true.
    """
    if init is None:  # it never came up
        os.kill(process.pid, signal.SIGKILL)
    await gone(process.pid)
    os.kill(process.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu_seconds, peak_bytes = usage.ru_utime + usage.ru_stime, 0
    if init is not None:
        await gone(init)
        with contextlib.suppress(ChildProcessError):
            found, _, usage = os.wait4(init, os.WNOHANG)
            if found:
                cpu_seconds += usage.ru_utime + usage.ru_stime
                peak_bytes = usage.ru_maxrss * 1024
    return process.returncode, Usage(cpu_seconds, peak_bytes)


def usage_of_tree(pid: int) -> Usage:
    """Read the usage of a process and all below it from /proc: the kernel forgets that of a killed namespace."""
    ticks, peak_bytes, waiting = 0, 0, [pid]
    while waiting:
        folder = f"/proc/{waiting.pop()}"
        with contextlib.suppress(OSError, ValueError):
            waiting += [int(child) for child in _read(f"{folder}/task/{folder[6:]}/children").split()]
            ticks += sum(int(part) for part in _read(f"{folder}/stat").rpartition(")")[2].split()[11:15])
            sizes = [line.split()[1] for line in _read(f"{folder}/status").splitlines() if line.startswith("VmHWM:")]
            peak_bytes = max([peak_bytes, *(int(size) * 1024 for size in sizes)])
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), peak_bytes)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


@functools.cache
def _adopt_orphans() -> None:
    """Make this process the one that inherits orphans below it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
