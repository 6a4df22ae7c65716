"""The quick local back end: a Python interpreter inside one bubblewrap forks itself for each execution.

An execution has a mount namespace and temporary file systems of its own, no capability and a filter of system calls
(`zygote.py` says how); starting it costs one fork instead of two bubblewraps and an interpreter. Any
program can be run, not only Python; a line `python -c TEXT` runs in the interpreter that is up. A server serves one
execution at a time and is kept for the next one, in whatever event loop; executions at once make as many servers.

Run by root, a server has CAP_SYS_ADMIN and little more inside its bubblewrap, and each execution a user id that nobody
else has. Run by an ordinary user, all of it lies in a user namespace. A server that dies takes its execution with it,
which is an infrastructure fault, and is replaced.

`jail.py` is served in the same way, without bubblewrap around it.

Not covered: bugs of the kernel behind the calls that are allowed; memory in all, where no control group can be made
(the bound is then processes x memory_bytes).
"""

from __future__ import annotations

import array
import asyncio
import atexit
import contextlib
import functools
import hashlib
import itertools
import marshal
import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codeflow.core.errors import InfrastructureError
from codeflow.sandbox import seccomp
from codeflow.sandbox.bubblewrap import PYTHON_OPTIONS, Host, frozen_proc, mounts, proc, shown
from codeflow.sandbox.policy import Policy

BACKEND = "fork server"
UNSHARE, LANDLOCK, PLAIN = "unshare", "landlock", "plain"  # the kinds of `jail.py`
_START_SECONDS = 20.0
END_SECONDS = 5.0
_MOST_IDLE = 8
_ENOUGH_BYTES = 1 << 30
_FIRST_UID = 1 << 30  # far above the ids of people and services
# What nearly every program imports; loaded before the fork, they cost a program nothing.
_IMPORTS = ("collections", "functools", "heapq", "itertools", "json", "math", "random", "re", "string", "typing")
_NOBODY = 65534
_numbers = itertools.count()
_programs: set[str] = set()


def compile_beforehand(program: str) -> None:
    """Have servers that are started from now on compile this text of ours once, instead of in each execution."""
    _programs.add(program)


def _own_uid() -> int | None:
    """Return a user id for one server's executions, unlike that of any other server; None for who is not root."""
    if os.geteuid() != 0:
        return None
    wanted = _FIRST_UID | (os.getpid() << 6) | (next(_numbers) & 63)
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, _, length = map(int, line.split())
        if inside <= wanted < inside + length:
            return wanted
    return _NOBODY  # a container that maps few ids


def command(host: Host, control: int, uid: int | None, policy: Policy) -> tuple[list[str], int]:
    """Return the line that starts a server, and a descriptor that it inherits besides `control`."""
    passwd = os.memfd_create("passwd")
    os.write(passwd, _passwd(uid))
    os.lseek(passwd, 0, os.SEEK_SET)
    line = [host.bwrap, *mounts(host, policy), "--perms", "0444", "--file", str(passwd), "/etc/passwd"]
    line += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    line += ["--hostname", "sandbox", "--new-session", "--as-pid-1", "--clearenv", "--setenv", "PYTHONHASHSEED", "0"]
    line += ["--setenv", "LANG", "C.UTF-8", *proc(host), *frozen_proc(host)]
    line += ["--remount-ro", "/dev", "--chdir", "/", "--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"]
    if uid is None:
        line += ["--unshare-user", "--uid", str(_NOBODY), "--gid", str(_NOBODY), "--cap-add", "CAP_SETPCAP"]
    else:
        for name in ("SETUID", "SETGID", "SETPCAP", "KILL"):
            line += ["--cap-add", f"CAP_{name}"]
    line += ["--remount-ro", "/", "--", host.python, *PYTHON_OPTIONS, "-c", _zygote(), str(control)]
    return line, passwd


def _passwd(uid: int | None) -> bytes:
    number = _NOBODY if uid is None else uid
    return f"sandbox:x:{number}:{number}:sandbox:/work:/usr/sbin/nologin\n".encode()


def _own_folder(uid: int | None) -> str:
    """Make the folder below which a jail's jobs write; its user can enter it, nobody else can see into it."""
    folder = tempfile.mkdtemp(prefix="codeflow-jail-", dir=_place())
    if uid is not None:
        os.chown(folder, -1, uid)
        os.chmod(folder, 0o710)
    return folder


def _place() -> str:
    """Return where jails write: memory, if there is enough and programs may run there, else the disk."""
    with contextlib.suppress(OSError):
        seen = os.statvfs("/dev/shm")
        if not seen.f_flag & os.ST_NOEXEC and seen.f_bavail * seen.f_frsize >= _ENOUGH_BYTES:
            return "/dev/shm"
    return tempfile.gettempdir()


@functools.cache
def _jail() -> str:
    root = Path(__file__).parents[2]
    return (
        f"import sys\nsys.path.insert(0, {str(root)!r})\nfrom codeflow.sandbox.jail import main\n"
        "from codeflow.sandbox.zygote import run\ndel sys.path[0]\nrun(*main())\n"
    )


@functools.cache
def _zygote() -> str:
    return Path(__file__).with_name("zygote.py").read_text(encoding="utf-8")


def _last_capability() -> int:
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def in_memory(data: bytes) -> int:
    """Return the descriptor of a file in memory that holds `data`, at its beginning."""
    descriptor = os.memfd_create("codeflow", os.MFD_CLOEXEC)
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        os.close(descriptor)
        raise
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def send(control: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    """Send one message with descriptors."""
    control.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])


class Server:
    """One process that forks itself for each execution. Not bound to an event loop; one execution at a time."""

    def __init__(self, host: Host, policy: Policy, kind: str = BACKEND) -> None:
        """Start it, without waiting. Raises OSError when it cannot be started."""
        self.uid = _own_uid()
        self.kind = kind
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        errors = os.memfd_create("errors", os.MFD_CLOEXEC)
        self._errors = errors
        self.ready = self.ended = False
        self.folder = ""
        passed = [theirs.fileno()]
        try:
            if kind == BACKEND:
                line, passwd = command(host, theirs.fileno(), self.uid, policy)
                passed.append(passwd)
            else:
                line = [host.python, *PYTHON_OPTIONS, "-c", _jail(), str(theirs.fileno())]
                self.folder = _own_folder(self.uid) if kind != UNSHARE else ""
            self.process = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=passed,
                env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            self.control.close()
            os.close(errors)
            self._remove_folder()
            raise
        finally:
            theirs.close()
            for descriptor in passed[1:]:
                os.close(descriptor)
        self.control.setblocking(False)
        body = in_memory(marshal.dumps(self._config(host, policy), 4))
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended; come_up says why
                send(self.control, b"begin", [body])
        finally:
            os.close(body)

    def _config(self, host: Host, policy: Policy) -> dict[str, Any]:
        config: dict[str, Any] = {
            "uid": self.uid,
            "last_capability": _last_capability(),
            "environment": dict(policy.environment),
            "imports": _IMPORTS,
            "programs": {key(text): text for text in _programs},
        }
        if self.kind == BACKEND:
            return config | {"filter": seccomp.program(mounting=True)}
        return config | {
            "kind": self.kind,
            "binds": shown(host, policy),
            "files": [("/etc/passwd", _passwd(self.uid))],
            "nobody": _NOBODY,
            "folder": self.folder,
            "abi": host.landlock,
        }

    def _remove_folder(self) -> None:
        if self.folder:  # rm knows no limit of depth
            subprocess.run(["/bin/rm", "-rf", "--one-file-system", "--", self.folder], check=False)

    def processes(self) -> list[int]:
        """Return bubblewrap's process id and those of its children, as long as they live."""
        return [self.process.pid, *_children(self.process.pid)]

    async def come_up(self) -> None:
        """Wait until it can serve. Raises InfrastructureError with bubblewrap's or Python's own words."""
        if self.ready:
            return
        said = b""
        with contextlib.suppress(TimeoutError, OSError):
            said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.control, 64), _START_SECONDS)
        if said != b"ready":
            raise InfrastructureError(self.problem() or "the fork server did not come up in time")
        self.ready = True

    def problem(self) -> str:
        """Return the last line that it wrote to its standard error."""
        lines = os.pread(self._errors, 1 << 16, 0).decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def end(self) -> None:
        """End it, and with it its pid namespace. Harmless when called twice."""
        if self.ended:
            return
        self.ended = True
        self.control.close()
        if self.kind != BACKEND:  # it ends its job's processes, then itself
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_SECONDS)
        watched = [os.pidfd_open(pid) for pid in _children(self.process.pid)]  # the namespace's first process
        for pidfd in watched:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for pidfd in watched:
            select.select([pidfd], [], [], END_SECONDS)
            os.close(pidfd)
        self.process.kill()
        self.process.wait()
        os.close(self._errors)
        self._remove_folder()

    def forget(self) -> None:
        """Close descriptors in a forked child, whose server it is not."""
        if not self.ended:
            self.ended = True
            self.control.close()
            os.close(self._errors)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def key(program: str) -> str:
    """Return the name under which servers know a program that they have compiled."""
    return hashlib.sha256(program.encode("utf-8", "surrogatepass")).hexdigest()


class Servers:
    """The servers of this process for one policy: an idle one is lent, or a new one made. Safe between threads."""

    def __init__(self, host: Host, readable: tuple[tuple[str, str], ...], kind: str) -> None:
        self.host, self.policy, self.kind = host, Policy(readable=readable), kind
        self._idle: list[Server] = []
        self._lock = threading.Lock()
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._forget)

    async def lend(self) -> Server:
        """Return a server that is up. Raises InfrastructureError when none can be started."""
        with self._lock:
            server = self._idle.pop() if self._idle else None
        if server is not None and server.process.poll() is None:
            return server
        if server is not None:
            server.end()
        try:
            server = Server(self.host, self.policy, self.kind)
        except OSError as error:
            started = self.host.bwrap if self.kind == BACKEND else self.host.python
            raise InfrastructureError(f"cannot start {started}: {error}") from None
        try:
            await server.come_up()
        except BaseException:
            server.end()
            raise
        return server

    def give_back(self, server: Server) -> None:
        """Keep a server for the next execution, if few are idle."""
        with self._lock:
            keep = len(self._idle) < _MOST_IDLE and not server.ended
            if keep:
                self._idle.append(server)
        if not keep:
            server.end()

    def close(self) -> None:
        """End all idle servers."""
        with self._lock:
            idle, self._idle = self._idle, []
        for server in idle:
            server.end()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        idle, self._idle = self._idle, []
        for server in idle:
            server.forget()


def servers(host: Host, readable: tuple[tuple[str, str], ...], kind: str = BACKEND) -> Servers:
    """Return this process's servers of a kind on `host` that see `readable`."""
    return _servers(host, readable, kind)


_servers = functools.cache(Servers)
