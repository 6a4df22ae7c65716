"""Rules on files, network and signals that a process puts on itself and all that come after it: landlock(7).

No privilege is needed, so this works where namespaces are forbidden. What a ruleset can say grew with the kernel (its
ABI version): 1 files, 2 renames between folders, 3 truncation by path, 4 TCP, 5 device ioctls, 6 abstract sockets and
signals. What an older kernel's cannot say, the filter of system calls must (`seccomp.program`). Landlock never speaks
of chmod, chown, times, attributes or stat.

Runs in the process that starts jobs (`jail.py`), standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same on every architecture
_VERSION = 1
_PATH_BENEATH = 1
NEWEST = 6

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_ALL_FILES = (1 << 13) - 1  # of version 1
_REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
_OF_ONE_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
_NETWORK = 3  # bind and connect of TCP
_SCOPES = 3  # abstract sockets, signals

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "landlock")
    return result


def version() -> int:
    """Return the ABI version of this kernel's Landlock; 0 when it has none or does not use it."""
    try:
        return _call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise


def _file_rights(abi: int) -> int:
    rights = _ALL_FILES
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEVICE)):
        rights |= right if abi >= since else 0
    return rights


def restrict(abi: int, readable: Iterable[str], devices: Iterable[str], writable: Iterable[str]) -> None:
    """Leave this process and its children `readable` (read and execute), `devices` (read and write), `writable` (all).

    `abi` is the version to use, at most the kernel's. A readable path that does not exist is left out. There is no way
    back. The process must have no_new_privs. Raises OSError when the kernel refuses; then nothing holds.
    """
    rights = _file_rights(abi)
    attributes = struct.pack("=Q", rights)
    if abi >= 4:
        attributes += struct.pack("=Q", _NETWORK)
    if abi >= 6:
        attributes += struct.pack("=Q", _SCOPES)
    ruleset = _call(_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        for paths, granted in (
            (readable, _EXECUTE | _READ_FILE | _READ_DIR),
            (devices, _READ_FILE | _WRITE_FILE | _TRUNCATE),
            (writable, rights & ~(_MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEVICE)),
        ):
            for path in paths:
                _allow(ruleset, path, granted & rights, must_exist=paths is writable)
        _call(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int, must_exist: bool) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        if must_exist:
            raise
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_ONE_FILE
        rule = struct.pack("=Qi", rights, descriptor)
        _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0))
    finally:
        os.close(descriptor)
