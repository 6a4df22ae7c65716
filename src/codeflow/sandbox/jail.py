"""Starts jobs without bubblewrap: an interpreter on the host that is up already and is forked for each job.

Never imported by the parent, which speaks to it as to a fork server (`fork_server.py`). Three kinds:

* `unshare`: a job's first process makes all namespaces and a root of its own (`namespaces.py`), starts the candidate
  as the second one and watches it from inside; it cannot be killed, traced or read by the candidate.
* `landlock`: the candidate is a child here, beside the host's processes, behind Landlock rules and the strictest
  filter of system calls. Its files lie in a folder on the host's disk that is emptied after each job.
* `plain`: a child with limits, an environment and a folder of its own. No isolation.

Where there is no pid namespace, orphans come to this process, and after a job it kills all its descendants, and,
where jobs have a user id of their own, whatever runs under it.
"""

from __future__ import annotations

import contextlib
import gc
import marshal
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from codeflow.sandbox import landlock, namespaces, zygote
from codeflow.sandbox.seccomp import Beside, program

UNSHARE, LANDLOCK, PLAIN = "unshare", "landlock", "plain"
CLEAN = b"clean"  # said after a job's report, when nothing of it is left
_PDEATHSIG, _SUBREAPER = 1, 36
_NEWEST_WITHOUT_SIGNALS = 5  # the last version of Landlock that says nothing of signals
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
_READABLE = ("/dev/random", "/dev/urandom", "/proc/self", "/proc/meminfo", "/proc/cpuinfo", "/proc/stat")
_LONGEST_PATH = 3000  # the kernel takes 4096 bytes, and a name may have 255
_DISK_SECONDS = 0.2  # how often the size of a job's folder is looked at, where no file system limits it

Job = dict[str, Any]


def serve(control: Any, config: Job) -> Job:
    """Run jobs until the parent has gone. Returns in each candidate only, with what it is to run."""
    begin = _in_namespaces if config["kind"] == UNSHARE else _beside
    while True:
        data, descriptors = zygote.receive(control)
        if not data:
            if config["folder"]:
                _remove(config["folder"])
            os._exit(0)
        if data == zygote.STOP:
            continue
        job = begin(control, config, marshal.loads(data), descriptors)
        if job is not None:
            return job


def _in_namespaces(control: Any, config: Job, limits: Job, descriptors: list[int]) -> Job | None:
    """Have one job run by a first process of new namespaces. Returns a job in the candidate, None here."""
    report, its_report = os.pipe()
    mapped, mapper = os.pipe()
    as_user = config["uid"] is None
    first = zygote.clone(namespaces.NEW_ALL | (namespaces.NEW_USER if as_user else 0))
    if not first:
        os.close(report)
        os.close(mapper)
        return _first_process(control, config, limits, descriptors, mapped, its_report)
    for descriptor in (its_report, mapped, *descriptors):
        os.close(descriptor)
    problem = b""
    if as_user:
        try:
            namespaces.map_ids(first, config["nobody"])
        except OSError as error:
            problem = zygote.said(error)
    if not problem:
        os.write(mapper, b"1")
    os.close(mapper)
    said = b"".join(iter(lambda: os.read(report, 4096), b""))
    os.close(report)
    os.waitpid(first, 0)
    if not said.endswith(b"\n"):
        said = b"error " + (problem or b"the first process of the namespaces was killed") + b"\n"
    _say(control, said[:-1])
    return None


def _say(control: Any, report: bytes) -> None:
    try:
        control.send(report)
    except OSError:  # the parent has gone
        os._exit(0)


def _first_process(
    control: Any, config: Job, limits: Job, descriptors: list[int], mapped: int, report: int
) -> Job | None:
    zygote.checked(zygote.libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "death signal")
    try:
        if os.read(mapped, 1) != b"1":
            os._exit(1)
        namespaces.build(config["binds"], config["files"], limits["disk_bytes"])
        namespaces.set_up_network()
        zygote.checked(zygote.libc.prctl(zygote.DUMPABLE, 0, 0, 0, 0), "dumpable")
    except BaseException as error:
        os.write(report, b"error " + zygote.said(error) + b"\n")
        os._exit(1)
    state_reader, state_writer = os.pipe()
    candidate = zygote.clone(0)
    if not candidate:
        control.close()
        return zygote.become_candidate(limits, descriptors, state_writer, lambda: _give_up(config), seal=_sealed())
    for descriptor in (state_writer, *descriptors):
        os.close(descriptor)
    ended = zygote.watch(control, candidate)
    os.write(report, zygote.report_of(os.read(state_reader, 4096), *ended) + b"\n")
    os._exit(0)


def _give_up(config: Job) -> None:
    if config["uid"] is not None or config["kind"] == UNSHARE:  # who has no capability gains none: no_new_privs
        zygote.drop_bounding(config["last_capability"])
    zygote.give_up(config["uid"])


def _sealed(beside: Beside | None = None) -> Callable[[], None]:
    """Return what puts a process behind the filter. Raises OSError where there is none: a jail is never without."""
    steps = program(beside=beside)
    if steps is None:
        raise OSError(f"no filter of system calls for {os.uname().machine}")
    return lambda: zygote.filter_calls(steps)


def _beside(control: Any, config: Job, limits: Job, descriptors: list[int]) -> Job | None:
    """Run one job beside the host's processes. Returns a job in the candidate, None here."""
    folder = config["folder"]
    for name in ("work", "tmp"):
        path = f"{folder}/{name}"
        os.mkdir(path, 0o700)
        if config["uid"] is not None:
            os.chown(path, config["uid"], config["uid"])
    if config["uid"] is None:  # the kernel counts all processes of the user
        limits["processes"] += _processes_of(os.getuid())
    state_reader, state_writer = os.pipe()
    candidate = zygote.clone(0)
    if not candidate:
        control.close()
        return zygote.become_candidate(
            limits, descriptors, state_writer, lambda: _restrict(config, folder), f"{folder}/work", _seal(config)
        )
    for descriptor in (state_writer, *descriptors):
        os.close(descriptor)
    ended = _watch(control, candidate, config["uid"], limits["disk_bytes"], folder)
    state = os.read(state_reader, 4096)
    os.close(state_reader)
    _say(control, zygote.report_of(state, *ended))
    _remove(f"{folder}/work", f"{folder}/tmp")
    _say(control, CLEAN)
    return None


def _restrict(config: Job, folder: str) -> None:
    _give_up(config)
    zygote.libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of user clears it
    if config["kind"] == LANDLOCK:
        readable = (*(path for path, _, _ in config["binds"]), "/usr", *_READABLE)
        landlock.restrict(config["abi"], readable, _DEVICES, (f"{folder}/work", f"{folder}/tmp"))


def _seal(config: Job) -> Callable[[], None]:
    if config["kind"] != LANDLOCK:
        return lambda: None
    as_user = config["uid"] is None
    held_back = not as_user or config["abi"] > _NEWEST_WITHOUT_SIGNALS
    return lambda: _sealed(Beside(as_user, 0 if held_back else os.getpid()))()


def _watch(control: Any, candidate: int, uid: int | None, disk_bytes: int, folder: str) -> tuple[int, float, int]:
    """Wait for the candidate, the parent's word or a full folder, then end all of the job's processes."""
    pidfd = os.pidfd_open(candidate)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    ended: dict[int, Any] = {}
    pause = _DISK_SECONDS
    while not (ready := poll.poll(pause * 1000)):
        while zygote.reaped(os.WNOHANG, ended):
            pass
        started = time.monotonic()
        if _takes(folder, disk_bytes) > disk_bytes:
            break
        pause = max(_DISK_SECONDS, 4 * (time.monotonic() - started))
    os.close(pidfd)
    gone = bool(ready) and all(descriptor != pidfd for descriptor, _ in ready) and not control.recv(16)
    _end_all(uid, ended)
    if gone:
        _remove(folder)
        os._exit(0)
    seconds = sum(usage.ru_utime + usage.ru_stime for _, usage in ended.values())
    code = os.waitstatus_to_exitcode(ended[candidate][0])
    return code, seconds, max(usage.ru_maxrss for _, usage in ended.values())


def _end_all(uid: int | None, ended: dict[int, Any]) -> None:
    """Kill and reap every descendant; each round first stops what it sees, so that a bomb runs out of breath."""
    while True:
        if uid is not None:
            _kill_as(uid)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in _descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        while zygote.reaped(os.WNOHANG, ended):
            pass
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        time.sleep(0.001)


def _kill_as(uid: int) -> None:
    """Kill all processes of a user in one sweep, which no fork outruns."""
    child = os.fork()
    if not child:
        with contextlib.suppress(OSError):
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
        os._exit(0)
    os.waitpid(child, 0)


def _stat(pid: str) -> list[str]:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        if len(fields := _stat(name)) > 1 and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _processes_of(uid: int) -> int:
    """Count the user's processes and threads."""
    n = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{name}").st_uid == uid or name == str(os.getpid()):
                n += len(os.listdir(f"/proc/{name}/task"))
    return n


def _takes(folder: str, enough: int) -> int:
    """Return how many bytes a folder's files take, counting 4096 for each entry, or something above `enough`.

    Too deep to be looked into counts as too much.
    """
    total, waiting = 0, [folder]
    while waiting and total <= enough:
        top = waiting.pop()
        if len(top) > _LONGEST_PATH:
            return enough + 1
        with contextlib.suppress(OSError), os.scandir(top) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    seen = entry.stat(follow_symlinks=False)
                    total += max(seen.st_blocks * 512, 4096)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                if total > enough:
                    break
    return total


def _remove(*paths: str) -> None:
    """Remove folders, however deep, without following links. Raises OSError when something is left."""
    child = os.posix_spawn("/bin/rm", ["rm", "-rf", "--one-file-system", "--", *paths], {})
    os.waitpid(child, 0)
    for path in filter(os.path.lexists, paths):
        raise OSError(f"cannot remove {path}")


def _own_environment(job: Job, folder: str) -> Job:
    """Tell a job where its folders are, which elsewhere are /work and /tmp."""
    places = {"/work": f"{folder}/work", "/tmp": f"{folder}/tmp"}
    job["environment"] = {name: places.get(value, value) for name, value in job["environment"].items()}
    return job


def main() -> tuple[Any, dict[str, Any]]:
    """Serve; in a candidate, return the code and names to run it with."""
    control, config = zygote.connect()
    programs = zygote.load_programs(config)
    zygote.checked(zygote.libc.prctl(zygote.NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if config["kind"] != UNSHARE:
        zygote.checked(zygote.libc.prctl(_SUBREAPER, 1, 0, 0, 0), "subreaper")
    if config["uid"] is not None or config["kind"] == LANDLOCK:  # else it could not write its children's id maps
        zygote.checked(zygote.libc.prctl(zygote.DUMPABLE, 0, 0, 0, 0), "dumpable")
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    job = serve(control, config)
    if config["kind"] != UNSHARE:
        job = _own_environment(job, config["folder"])
    code, space = zygote.begin(job, programs)
    for name in [name for name in sys.modules if name.partition(".")[0] == "codeflow"]:
        del sys.modules[name]
    return code, space
