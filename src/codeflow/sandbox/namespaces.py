"""The world of one execution, built by system calls alone: what bubblewrap makes, where that is not installed.

Called in the first process of new mount, pid, network, ipc, uts and cgroup namespaces (`jail.py`). The root is a
temporary file system with the system's folders bound in, read-only with everything below them; it is entered by
pivot_root and the host's is detached, so no path leads back. Needs mount_setattr (Linux 5.12).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable

NEW_ALL = 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x02000000  # mount pid net ipc uts cgroup
NEW_USER = 0x10000000
_NOSUID, _NODEV, _NOEXEC, _BIND, _RECURSIVE, _PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR = 442
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_READ_ONLY = 1 | 2 | 4  # and no set-user-id programs, no devices
_SYSTEM_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_SET_FLAGS, _UP = 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    named = kind.encode() if kind else None
    _checked(_libc.mount(source.encode(), target.encode(), named, flags, options.encode() or None), target)


def _freeze(path: str, recursive: bool = True) -> None:
    attributes = struct.pack("=4Q", _READ_ONLY, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(len(attributes))
    _checked(_libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, attributes, size), path)


def _bind(source: str, target: str) -> None:
    """Show a file or folder of the host, read-only, at `target`."""
    os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
    if os.path.isdir(source):
        os.makedirs(target, 0o755, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o444))
    _mount(source, target, None, _BIND | _RECURSIVE)
    _freeze(target)


def build(binds: Iterable[tuple[str, str, bool]], files: Iterable[tuple[str, bytes]], disk_bytes: int) -> None:
    """Make this process's root: the system, `binds` (host path, path inside, must exist), `files`, sized folders.

    Raises OSError naming the path at which it failed.
    """
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, "mode=0755,size=4m")
    os.mkdir("/tmp/new", 0o755)
    os.mkdir("/tmp/old", 0o755)
    _mount("/tmp/new", "/tmp/new", None, _BIND | _RECURSIVE)
    os.chdir("/tmp")
    _pivot("/tmp", "/tmp/old")
    os.chdir("/")
    for name in _SYSTEM_LINKS:
        if os.path.islink(f"/old/{name}"):
            os.symlink(os.readlink(f"/old/{name}"), f"/new/{name}")
    for source, path, required in (("/usr", "/usr", True), *binds):
        if required or os.path.exists(f"/old{source}"):
            _bind(f"/old{source}", f"/new{path}")
    for path, data in files:
        os.makedirs(os.path.dirname(f"/new{path}"), 0o755, exist_ok=True)
        with open(f"/new{path}", "wb") as file:
            file.write(data)
    _devices()
    size = max(disk_bytes // 2, 4096)
    options = f"size={size},nr_inodes={max(size // 4096, 64) + 16},mode=1777"
    for folder in ("/new/work", "/new/tmp"):
        os.makedirs(folder, exist_ok=True)
        _mount("tmpfs", folder, "tmpfs", _NOSUID | _NODEV, options)
    _mount("/new/tmp", "/new/dev/shm", None, _BIND)
    _proc()
    os.chdir("/new")
    _pivot(".", ".")
    _checked(_libc.umount2(b".", _DETACH), "the host's root")
    os.chdir("/")
    _freeze("/", recursive=False)


def _pivot(new: str, old: str) -> None:
    _checked(_libc.syscall(_PIVOT_ROOT[os.uname().machine], new.encode(), old.encode()), "pivot_root")


def _devices() -> None:
    os.mkdir("/new/dev", 0o755)
    for name in _DEVICES:
        os.close(os.open(f"/new/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
        _mount(f"/old/dev/{name}", f"/new/dev/{name}", None, _BIND)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(target, f"/new/dev/{name}")
    os.mkdir("/new/dev/shm")


def _proc() -> None:
    """Mount /proc, read-only. Inside some containers that is forbidden; then there is none."""
    os.mkdir("/new/proc", 0o555)
    try:
        _mount("proc", "/new/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        return
    _freeze("/new/proc")


def set_up_network() -> None:
    """Bring up loopback, the only interface there is, and give the machine another name."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, _SET_FLAGS, struct.pack("16sh", b"lo", _UP))
    socket.sethostname("sandbox")


def map_ids(pid: int, inside: int) -> None:
    """Give the first process of a new user namespace this process's own ids, known there as `inside`."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{inside} {os.geteuid()} 1"), ("gid_map", "")):
        text = text or f"{inside} {os.getegid()} 1"
        with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
            file.write(text)
