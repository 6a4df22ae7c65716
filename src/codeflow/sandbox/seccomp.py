"""A system-call filter for untrusted code, as the classic BPF program that seccomp(2) takes.

Namespaces say what a program can reach; the filter says which of the kernel's doors it may knock at. Refused, with
EPERM unless said otherwise: everything that mounts, enters or makes namespaces, traces or reads other processes, loads
code into the kernel, sets clocks, or has been a source of kernel bugs and is not needed by programs (io_uring, bpf,
keyrings, userfaultfd, perf). Sockets exist for the families UNIX, INET, INET6 only: no vsock, which network namespaces
do not hold back, and no netlink, packet or crypto sockets. System V and POSIX message queues and shared memory are
refused, since they outlive processes. `clone3` says ENOSYS, so that libraries fall back on `clone`, whose flags can be
seen.

Architectures: x86_64 (without x32) and aarch64. Another one has no filter: `program` returns None and says so once.
"""

from __future__ import annotations

import errno
import functools
import platform
import struct

# Numbers by name: (x86_64, aarch64); None where the architecture has no such call.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
_SOCKET, _SOCKETPAIR, _CLONE, _IOCTL = (41, 198), (53, 199), (56, 220), (16, 29)
_CLONE3 = 435
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: typing into the terminal
_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_NEW_MOUNTS = 0x00020000
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENT_0, _ARGUMENT_1 = 0, 4, 16, 24  # offsets of the low words in seccomp_data


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)


def _refusal(number: int) -> bytes:
    return _step(_RETURN, _ERRNO | number)


@functools.cache
def program(machine: str = platform.machine(), mounting: bool = False) -> bytes | None:
    """Return the filter as an array of `struct sock_filter`, or None for an architecture that it does not know.

    With `mounting`, mount(2) and new mount namespaces are left to the kernel's own check of capabilities.
    """
    if machine not in _AUDIT:
        return None
    namespaces = _NAMESPACES & ~_NEW_MOUNTS if mounting else _NAMESPACES
    column = ("x86_64", "aarch64").index(machine)
    steps = [_step(_LOAD, _ARCHITECTURE), _step(_EQUAL, _AUDIT[machine], 1), _step(_RETURN, _KILL)]
    steps.append(_step(_LOAD, _NUMBER))
    if machine == "x86_64":
        steps += [_step(_AT_LEAST, _X32, 0, 1), _refusal(errno.ENOSYS)]
    steps += [_step(_EQUAL, _CLONE3, 0, 1), _refusal(errno.ENOSYS)]
    for name, numbers in _REFUSED.items():
        if (number := numbers[column]) is not None and not (mounting and name == "mount"):
            steps += [_step(_EQUAL, number, 0, 1), _refusal(errno.EPERM)]
    steps += _unless(_CLONE[column], _ARGUMENT_0, _ANY_BIT, (namespaces,), errno.EPERM)
    steps += _unless(_IOCTL[column], _ARGUMENT_1, _EQUAL, _TERMINAL_INPUT, errno.EPERM)
    for call in (_SOCKET, _SOCKETPAIR):
        steps += _only(call[column], _ARGUMENT_0, _FAMILIES, errno.EAFNOSUPPORT)
    steps.append(_step(_RETURN, _ALLOW))
    return b"".join(steps)


def _unless(call: int, argument: int, test: int, values: tuple[int, ...], refusal: int) -> list[bytes]:
    """Refuse `call` when its argument passes `test` for one of the values."""
    inside = [_step(_LOAD, argument)]
    for left, value in enumerate(values):
        inside.append(_step(test, value, len(values) - left))  # to the refusal, over the other tests and the allowance
    inside += [_step(_RETURN, _ALLOW), _refusal(refusal)]
    return [_step(_EQUAL, call, 0, len(inside)), *inside]


def _only(call: int, argument: int, values: tuple[int, ...], refusal: int) -> list[bytes]:
    """Refuse `call` unless its argument is one of the values."""
    inside = [_step(_LOAD, argument)]
    for left, value in enumerate(values):
        inside.append(_step(_EQUAL, value, len(values) - left))
    inside += [_refusal(refusal), _step(_RETURN, _ALLOW)]
    return [_step(_EQUAL, call, 0, len(inside)), *inside]
