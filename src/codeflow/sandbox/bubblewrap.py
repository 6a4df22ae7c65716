"""The default local back end: each execution in a bubblewrap of its own.

Namespaces for user, pid, network, ipc, uts and cgroup; nested user namespaces disabled where bubblewrap can; no
capability, cleared environment, new session. The system is read-only and consists of /usr, the loader's cache and the
interpreter; there is no home, no checkout and nothing else of the host. Everything writable is sized tmpfs. When the
pid namespace's first process ends or is killed, all of its processes are gone.

There are two bubblewraps. The outer one makes the mounts and all namespaces; the inner one puts the program into a user
namespace below, so that it can neither trace nor inspect the processes that watch it, which have the same user. Run by
root, the outer one also gives up its identity for nobody's in between (an interpreter below a private home stays
readable). So the code is never the host's root, and the kernel's process limit, from which root is exempt, holds.

A system-call filter (`seccomp.py`) is in force where the architecture has one.

Not covered: bugs of the kernel behind the calls that are allowed; memory in all (the bound is processes x
memory_bytes: a control group would cost each execution 8 % of its time); the number of empty files in tmpfs.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from codeflow.core.errors import InfrastructureError
from codeflow.sandbox import seccomp
from codeflow.sandbox.files import CarriedFiles, unpack
from codeflow.sandbox.launch import Outcome, Pipes, launch
from codeflow.sandbox.policy import Limits, Policy
from codeflow.sandbox.result import Result, Status, fault, status_of
from codeflow.sandbox.sandbox import CHANNEL_VARIABLE

BACKEND = "bubblewrap"
INSTALL = "no sandbox: install bubblewrap (apt-get install bubblewrap)"
WORK = "/work"
# No user's packages, nothing of the working folder, no site: as -I, but the environment, which is ours, is heard:
# PYTHONHASHSEED makes equal programs give equal output.
PYTHON_OPTIONS = ("-sPS",)
_NOBODY = 65534
_PASSWD = b"nobody:x:65534:65534:nobody:/work:/usr/sbin/nologin\n"
_SYSTEM_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_LOADER_FILES = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives")
# Standard input is at first the pipe that says "everything stands, only the program is to come". The shell closes it
# before the program runs, which so can neither forge nor withhold it: with it, nothing is an infrastructure fault.
_STDIN = "/run/stdin"
# Before that come the limits: the shell's own, which is one program less to start; without them nothing begins.
_LIMITS = (
    "{{ ulimit -u {processes} 2>/dev/null || ulimit -p {processes}; }} && ulimit -t {hard} && ulimit -S -t {cpu} && "
    "ulimit -v {kib} && ulimit -f {blocks} && ulimit -c 0 && ulimit -n 256 || exit 1; "
)
_BEGIN = 'echo >&0; exec 0<"$1"; shift; exec "$@"'
_BEGIN_KEEP = 'echo >&0; exec 0<"$1"; k=$2; shift 2; "$@"; c=$?; tar -cf "/proc/self/fd/$k" -C /work .; exit $c'


@dataclass(frozen=True, slots=True)
class Host:
    """What this machine offers: programs, features, interpreter."""

    bwrap: str
    setpriv: str
    python: str
    binds: tuple[str, ...]  # read-only, same path inside
    disable_userns: bool
    mount_proc: bool = True
    landlock: int = 0  # the version of its Landlock to use


def find_host(mount_proc: bool = True) -> Host:
    """Look for what this back end needs. Raises InfrastructureError with one line that says what to install."""
    bwrap, setpriv = shutil.which("bwrap"), shutil.which("setpriv")
    if not bwrap:
        raise InfrastructureError(INSTALL)
    if not setpriv:
        raise InfrastructureError("no sandbox: install setpriv (apt-get install util-linux)")
    python, binds = find_python()
    return Host(bwrap, setpriv, python, binds, "--disable-userns" in _help(bwrap), mount_proc)


@functools.cache
def _help(bwrap: str) -> str:
    return subprocess.run([bwrap, "--help"], capture_output=True, text=True, check=False, timeout=10).stdout


def find_python() -> tuple[str, tuple[str, ...]]:
    """Return the interpreter to run inside and the folders it needs beside /usr: its own library, nothing above."""
    real = os.path.realpath(sys.executable)
    if real.startswith("/usr/"):
        return real, ()
    prefix = os.path.realpath(sys.base_prefix)
    if os.path.dirname(real) == f"{prefix}/bin" and os.path.isdir(f"{prefix}/lib"):
        return real, (real, f"{prefix}/lib")
    system = shutil.which("python3", path="/usr/bin")
    if not system:
        raise InfrastructureError("no sandbox: no Python interpreter with a plain prefix (apt-get install python3)")
    return system, ()


def mounts(host: Host, policy: Policy) -> list[str]:
    """Return the options that make the read-only view of the system: no home, no checkout, nothing else of the host."""
    line = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM_LINKS:
        if os.path.islink(f"/{name}"):
            line += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            line += ["--ro-bind", f"/{name}", f"/{name}"]
    line += ["--perms", "0755", "--dir", "/etc"]
    for path in _LOADER_FILES:
        line += ["--ro-bind-try", path, path]
    for source, path in (*((path, path) for path in host.binds), *policy.readable):
        # the folders above are empty ones of our own, open to nobody even where the host's are not
        for folder in reversed(PurePosixPath(path).parents[:-1]):
            line += ["--perms", "0755", "--dir", str(folder)]
        line += ["--ro-bind", source, path]
    line += ["--dev", "/dev"]
    for path in (WORK, "/tmp", "/dev/shm"):
        line += ["--perms", "0755", "--dir", path]
    return line


def shown(host: Host, policy: Policy) -> list[tuple[str, str, bool]]:
    """Return what is shown besides /usr without bubblewrap: (host path, path inside, must it be there)."""
    system = [(f"/{name}", f"/{name}", True) for name in _SYSTEM_LINKS if _is_folder(f"/{name}")]
    wanted = (*((path, path) for path in host.binds), *policy.readable)
    files = [(path, path, False) for path in _LOADER_FILES]
    return [*system, *files, *((source, path, True) for source, path in wanted)]


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def proc(host: Host) -> list[str]:
    """Return the options that make /proc."""
    return ["--proc", "/proc"] if host.mount_proc else ["--dir", "/proc"]


def frozen_proc(host: Host) -> list[str]:
    """Return the options that make /proc read-only: no process may have the kernel spare it when memory runs out."""
    return ["--remount-ro", "/proc"] if host.mount_proc else []


def arguments(host: Host, limits: Limits, policy: Policy, status: int) -> list[str]:
    """Return the command line that isolates; the program's own follows it. `status` takes bubblewrap's JSON objects.

    Descriptors for files are added by the caller through `--file`.
    """
    line = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    line += ["--hostname", "sandbox", "--die-with-parent", "--new-session", "--json-status-fd", str(status)]
    line += mounts(host, policy)
    line += proc(host)
    for path, share in ((WORK, 2), ("/tmp", 4), ("/dev/shm", 4)):
        size = max(limits.disk_bytes // share, 4096)
        line += ["--perms", "1777", "--size", str(size), "--tmpfs", path]
    line += ["--remount-ro", "/dev", "--chdir", WORK, "--clearenv"]
    for name, value in policy.environment:
        line += ["--setenv", name, value]
    return line


def isolated(host: Host, made: Sequence[str], filter_at: int | None, as_root: bool) -> list[str]:
    """Return the command line up to the program, given what `arguments` made, with files.

    `filter_at` is the descriptor of the system-call filter.
    """
    user = ["--unshare-user", "--uid", str(_NOBODY), "--gid", str(_NOBODY)]
    nested = ["--disable-userns"] if host.disable_userns else []
    if as_root:
        identity = [host.setpriv, f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--"]
        outer = [*made, "--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        identity, outer = [], [*user, *made, "--cap-drop", "ALL"]
    line = [host.bwrap, *outer, "--remount-ro", "/", "--", *identity]
    line += [
        host.bwrap,
        *user,
        *nested,
        "--dev-bind",
        "/",
        "/",
        *frozen_proc(host),
        "--chdir",
        WORK,
        "--cap-drop",
        "ALL",
    ]
    line += ["--seccomp", str(filter_at)] if filter_at is not None else []
    return [*line, "--die-with-parent", "--"]


def _limited(limits: Limits) -> str:
    cpu = math.ceil(limits.cpu_seconds)
    return _LIMITS.format(
        processes=limits.processes + 2,  # bubblewrap's own two count as well
        hard=cpu + 1,
        cpu=cpu,
        kib=(limits.memory_bytes + limits.reserved_bytes) // 1024,
        blocks=max(limits.disk_bytes // 512, 1),
    )


class BubblewrapSandbox(CarriedFiles):
    """`Sandbox` by bubblewrap. Each execution has its own namespaces; files are carried between them by the parent."""

    def __init__(self, policy: Policy, host: Host) -> None:
        super().__init__()
        self.policy, self.host = policy, host
        self.python: tuple[str, ...] = (host.python, *PYTHON_OPTIONS)

    async def exec(
        self,
        argv: Sequence[str],
        stdin: bytes = b"",
        limits: Limits | None = None,
        channel: bool = False,
        keep_files: bool = False,
    ) -> Result:
        limits = limits or self.policy.limits
        opened = _Descriptors()
        try:
            command, pipes = self._prepare(opened, argv, stdin, limits, channel, keep_files)
        except OSError as error:
            opened.close()
            return fault(BACKEND, f"cannot prepare: {error}")
        budget = limits.output_bytes + (limits.disk_bytes if keep_files else 0)
        try:
            outcome = await launch(command, pipes, {"PATH": "/usr/bin:/bin"}, limits.wall_seconds, budget)
        except OSError as error:
            return fault(BACKEND, f"cannot start {self.host.bwrap}: {error}")
        if keep_files and not outcome.timed_out and not outcome.overflowed:
            self._files = unpack(outcome.output[opened.readers["kept"]], limits.disk_bytes)
        return _result(outcome, opened.readers, limits)

    def _prepare(
        self, opened: _Descriptors, argv: Sequence[str], stdin: bytes, limits: Limits, channel: bool, keep_files: bool
    ) -> tuple[list[str], Pipes]:
        names = ["stdout", "stderr", "status", "begun"] + ["channel"] * channel + ["kept"] * keep_files
        writers = {name: opened.pipe(name) for name in names}
        if keep_files and os.geteuid() == 0:
            os.fchown(writers["kept"], _NOBODY, _NOBODY)  # it is opened by name inside
        environment = list(self.policy.environment)
        if channel:
            environment.append((CHANNEL_VARIABLE, str(writers["channel"])))
        policy = replace(self.policy, environment=tuple(environment))
        made = arguments(self.host, limits, policy, writers["status"])
        made += ["--perms", "0755", "--dir", "/run"]
        made += ["--perms", "0444", "--file", str(opened.memory(_PASSWD)), "/etc/passwd"]
        folders = {str(parent) for path in self._files for parent in PurePosixPath(path).parents[:-1]}
        for folder in sorted(folders):  # parents sort before their children
            made += ["--perms", "0777", "--dir", f"{WORK}/{folder}"]
        for path, data in self._files.items():
            made += ["--perms", "0777", "--file", str(opened.memory(data)), f"{WORK}/{path}"]
        if stdin:
            made += ["--perms", "0444", "--file", str(opened.memory(stdin)), _STDIN]
        filtering = seccomp.program()
        filter_at = opened.memory(filtering) if filtering else None
        begins = _limited(limits) + (_BEGIN_KEEP if keep_files else _BEGIN)
        begin = ["/bin/sh", "-c", begins, "sh", _STDIN if stdin else "/dev/null"]
        begin += [str(writers["kept"])] if keep_files else []
        line = isolated(self.host, made, filter_at, as_root=os.geteuid() == 0)
        by_number = [writers[name] for name in names if name not in ("stdout", "stderr", "begun")]
        counted = {opened.readers[name] for name in names if name not in ("status", "begun")}
        pipes = Pipes(
            stdin=writers["begun"],
            stdout=opened.readers["stdout"],
            stderr=opened.readers["stderr"],
            reads={opened.readers[name]: writers[name] for name in names},
            passed=(*by_number, *opened.files),
            capped=frozenset(counted),
            status=opened.readers["status"],
        )
        return [*line, *begin, *argv], pipes


class _Descriptors:
    """The descriptors of one execution, so that a failure half-way closes them."""

    def __init__(self) -> None:
        self.readers: dict[str, int] = {}
        self.files: list[int] = []
        self._all: list[int] = []

    def pipe(self, name: str) -> int:
        reader, writer = os.pipe()
        self._all += [reader, writer]
        self.readers[name] = reader
        return writer

    def memory(self, data: bytes) -> int:
        descriptor = os.memfd_create("codeflow", os.MFD_CLOEXEC)
        self._all.append(descriptor)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        self.files.append(descriptor)
        return descriptor

    def close(self) -> None:
        for descriptor in self._all:
            os.close(descriptor)


def _result(outcome: Outcome, readers: Mapping[str, int], limits: Limits) -> Result:
    status, detail = _status(outcome, readers, limits)
    code = outcome.exit_code
    return Result(
        status=status,
        exit_code=code if code >= 0 and not outcome.timed_out and not outcome.overflowed else None,
        wall_seconds=outcome.wall_seconds,
        cpu_seconds=outcome.cpu_seconds,
        peak_memory_bytes=outcome.peak_memory_bytes,
        stdout=outcome.output[readers["stdout"]],
        stderr=outcome.output[readers["stderr"]],
        channel=outcome.output[readers["channel"]] if "channel" in readers else b"",
        truncated=outcome.overflowed,
        backend=BACKEND,
        detail=detail,
    )


def _status(outcome: Outcome, readers: Mapping[str, int], limits: Limits) -> tuple[Status, str]:
    stderr = outcome.output[readers["stderr"]]
    if outcome.lingered:
        return Status.INFRASTRUCTURE, "processes outlived their namespace"
    if not outcome.output[readers["begun"]]:
        said = stderr.decode("utf-8", "replace").strip().splitlines()
        return Status.INFRASTRUCTURE, said[0] if said else "the sandbox did not come up in time"
    if outcome.timed_out:
        return Status.TIME, ""
    if outcome.overflowed:
        return Status.OUTPUT, ""
    code = outcome.exit_code
    if code < 0:
        return Status.INFRASTRUCTURE, f"bubblewrap was killed by signal {-code}"
    return status_of(code, stderr, outcome.cpu_seconds, limits), ""
