"""Limits on memory and processes of an execution as a whole, where a control group can be made; else there are rlimits.

An rlimit binds each process; a group binds all of an execution's processes together, its temporary files included. A
group is made below this process's own one, so that no limit of the surroundings is evaded: version 1 (the memory
hierarchy: only root can make groups there, and its executions have user ids of their own, by which an rlimit counts
processes), or version 2 (memory and pids) where the own group, or the one that holds it, hands both controllers on.
Groups are kept and lent again. Groups that a killed process left are removed by the next one that looks.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codeflow.sandbox.policy import Limits
from codeflow.sandbox.result import Status

RLIMITS, VERSION_1, VERSION_2 = "rlimits", "cgroup v1", "cgroup v2"
_PREFIX = "codeflow"
_NEEDED = ("memory", "pids")
_MOST_IDLE = 16
_END_SECONDS = 1.0
_OVERHEAD_BYTES = 16 << 20  # what a fork of an interpreter writes to, the kernel's tables
_OVERHEAD_PROCESSES = 8  # bubblewraps, who waits for a program, who packs its files
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Place:
    """Where groups can be made: the folder of the group below which they are made."""

    version: str
    folder: Path


class Group:
    """One group. `entrance` is a descriptor: a process that writes 0 to it has gone in. Raises OSError."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.folder = place.folder / f"{_PREFIX}-{os.getpid()}-{next(_numbers)}"
        self.entrance = self._events = -1
        self.killed = 0  # what `kills` was when it was last given back
        self._limits: dict[str, int] = {}
        try:
            os.mkdir(self.folder)
            self.entrance = os.open(self.folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            events = "memory.events" if place.version == VERSION_2 else "memory.oom_control"
            self._events = os.open(self.folder / events, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise

    def limit(self, memory_bytes: int, processes: int) -> None:
        """Set the limits for the next execution. Raises OSError when the kernel refuses."""
        wanted = {"memory.limit_in_bytes": memory_bytes}
        if self.place.version == VERSION_2:
            wanted = {"memory.max": memory_bytes, "pids.max": processes}
        for file, value in wanted.items():
            if self._limits.get(file) != value:
                (self.folder / file).write_text(str(value), encoding="ascii")
                self._limits[file] = value

    def enter(self, pid: int) -> None:
        """Put a process in; those that it starts from then on are in too. Raises OSError."""
        os.write(self.entrance, str(pid).encode())

    def holds(self, pid: int) -> bool:
        """Say whether a process is in."""
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
            return any(line.endswith(f"/{self.folder.name}") for line in text.splitlines())
        return False

    def kills(self) -> int:
        """Return how many processes the kernel has killed here for want of memory."""
        with contextlib.suppress(OSError):
            said = os.pread(self._events, 4096, 0)
            _, found, value = said.partition(b"oom_kill ")
            return int(value.split()[0]) if found else 0
        return 0

    def close(self) -> None:
        """Remove it. Processes that are about to vanish are waited for."""
        self.forget()
        deadline = time.monotonic() + _END_SECONDS
        while self.folder.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                os.rmdir(self.folder)
                return
            time.sleep(0.01)

    def forget(self) -> None:
        """Close its descriptors."""
        for descriptor in (self.entrance, self._events):
            if descriptor >= 0:
                os.close(descriptor)
        self.entrance = self._events = -1


class Groups:
    """The groups of this process: an idle one is lent, or a new one made. Safe between threads."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._idle: list[Group] = []
        self._lock = threading.Lock()
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._forget)

    def lend(self) -> Group:
        """Return a group in which nobody is. Raises OSError when none can be made."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return Group(self.place)

    def give_back(self, group: Group, empty: bool) -> None:
        """Keep a group for the next execution, if few are idle and nobody can be in it any more."""
        with self._lock:
            keep = empty and len(self._idle) < _MOST_IDLE
            if keep:
                self._idle.append(group)
        if not keep:
            group.close()

    def close(self) -> None:
        """Remove all idle groups."""
        with self._lock:
            idle, self._idle = self._idle, []
        for group in idle:
            group.close()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        idle, self._idle = self._idle, []
        for group in idle:  # they are the parent's; only the descriptors are ours too
            group.forget()


def places(own: str, mounts: str) -> list[Place]:
    """Return where groups might be made, from the texts of /proc/self/cgroup and /proc/self/mountinfo."""
    paths = {tuple(part[1].split(",")): part[2] for line in own.splitlines() if len(part := line.split(":", 2)) == 3}
    mounted: dict[str, tuple[str, Path]] = {}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) > 4 and kind and kind[0] in ("cgroup", "cgroup2"):
            for name in [""] if kind[0] == "cgroup2" else kind[-1].split(","):
                mounted[name] = (fields[3], Path(fields[4]))
    found = []
    first, second = _folder(paths, mounted, "memory"), _folder(paths, mounted, "")
    if first:
        found.append(Place(VERSION_1, first))
    if second:
        found.append(Place(VERSION_2, second))
        if second != mounted[""][1]:
            found.append(Place(VERSION_2, second.parent))
    return found


def _folder(paths: dict[tuple[str, ...], str], mounted: dict[str, tuple[str, Path]], name: str) -> Path | None:
    """Return the folder of this process's group in the hierarchy of a controller ("" for version 2)."""
    own = next((path for names, path in paths.items() if name in names), None)
    if own is None or name not in mounted:
        return None
    root, top = mounted[name]
    inside = os.path.relpath(own, root)
    return top if inside == "." or inside.startswith("..") else top / inside


@functools.cache
def groups() -> Groups | None:
    """Return where this process makes groups, found by trying once; None where it cannot."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8")
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for place in places(own, mounts):
        if _works(place):
            _sweep(place)
            return Groups(place)
    return None


def _works(place: Place) -> bool:
    """Make a group, limit it, put a process in and see it there."""
    if place.version == VERSION_2:
        with contextlib.suppress(OSError):
            handed = (place.folder / "cgroup.subtree_control").read_text(encoding="ascii").split()
            if not set(_NEEDED) <= set(handed):
                return False
    try:
        group = Group(place)
    except OSError:
        return False
    try:
        group.limit(64 << 20, 8)
        child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={})
        try:
            group.enter(child.pid)
            return group.holds(child.pid)
        finally:
            child.communicate()
    except OSError:
        return False
    finally:
        group.close()


def _sweep(place: Place) -> None:
    """Remove empty groups of processes that are no more."""
    for left in place.folder.glob(f"{_PREFIX}-*-*"):
        pid = left.name.split("-")[1]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            with contextlib.suppress(OSError):
                left.rmdir()


def lend(limits: Limits) -> Group | None:
    """Return a group with an execution's limits, None where there are none to be made. Raises OSError."""
    made = groups()
    if made is None:
        return None
    group = made.lend()
    try:
        group.limit(limits.memory_bytes + limits.disk_bytes + _OVERHEAD_BYTES, limits.processes + _OVERHEAD_PROCESSES)
    except OSError:
        group.close()
        raise
    return group


def give_back(group: Group | None, empty: bool) -> bool:
    """Give a group back, and say whether the kernel killed something in it for want of memory since it was lent.

    `empty` says that all of the execution's processes have been reaped; else the group is not used again.
    """
    made = groups()
    if group is None or made is None:
        return False
    killed = group.kills()
    starved, group.killed = killed > group.killed, killed
    made.give_back(group, empty)
    return starved


def blamed(status: Status, starved: bool) -> Status:
    """Return the status of a program whose group ran out of memory: that, if it did not end well."""
    return Status.MEMORY if starved and status in (Status.CRASH, Status.FAILED) else status


def version(group: Group | None) -> str:
    """Return what a result says of who limited it."""
    return group.place.version if group else RLIMITS


def entrances(group: Group | None) -> Sequence[int]:
    """Return the descriptors of a group, none where there is no group."""
    return (group.entrance,) if group else ()
