"""A system-call filter for untrusted code, as the classic BPF program that seccomp(2) takes.

Namespaces say what a program can reach; the filter says which of the kernel's doors it may knock at. Refused, with
EPERM unless said otherwise: everything that mounts, enters or makes namespaces, traces or reads other processes, loads
code into the kernel, sets clocks, or has been a source of kernel bugs and is not needed by programs (io_uring, bpf,
keyrings, userfaultfd, perf), and limits and priorities of processes other than the caller. Sockets exist for the
families UNIX, INET, INET6 only: no vsock, which network namespaces do not hold back, and no netlink, packet or crypto
sockets. System V and POSIX message queues and shared memory are refused, since they outlive processes. `clone3` says
ENOSYS, so that libraries fall back on `clone`, whose flags can be seen.

Where no namespaces stand around a program (`Beside`), the filter also keeps it from the network (no sockets but
connected stream pairs), from System V memory, from watching files, from signals to other processes where Landlock is
too old, and, when it runs as the user whose files are there, from modes, owners, times and attributes, of which
Landlock does not speak.

Architectures: x86_64 (without x32) and aarch64. Another one has no filter: `program` returns None and says so once.
"""

from __future__ import annotations

import errno
import functools
import platform
import struct
from dataclasses import dataclass

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
# Refused besides where there are no namespaces.
_REFUSED_BESIDE: dict[str, tuple[int | None, int | None]] = {
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_unlink": (241, 181),
    "inotify_add_watch": (254, 27),
}
# Refused besides when the program's user owns files of the host.
_METADATA: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
# Refused besides where nothing else keeps signals back; kill and tgkill then reach the process itself alone.
_SIGNALS: dict[str, tuple[int | None, int | None]] = {
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
}
# Their first argument names a process: only 0, the caller, is allowed. A server's first process has its jobs' user.
_OF_A_PROCESS = {
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
_SETPRIORITY, _IOPRIO_SET, _KILL_CALL, _TGKILL, _FCNTL = (141, 140), (251, 30), (62, 129), (234, 131), (72, 25)
_SET_OWNER, _SET_OWNER_IOCTL = (8, 15), (0x8901, 0x8902)  # whom a descriptor sends signals to
_STREAMS = (1, 1 | 0x800, 1 | 0x80000, 1 | 0x80800)  # SOCK_STREAM, non-blocking, close-on-exec
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


@dataclass(frozen=True, slots=True)
class Beside:
    """A program beside the host's other processes: does it run as their user; are signals to them still to be held
    back, and if so, which process is it itself (0: they are held back otherwise)."""

    same_user: bool
    only_pid: int = 0


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)


def _refusal(number: int) -> bytes:
    return _step(_RETURN, _ERRNO | number)


@functools.cache
def program(machine: str = platform.machine(), mounting: bool = False, beside: Beside | None = None) -> bytes | None:
    """Return the filter as an array of `struct sock_filter`, or None for an architecture that it does not know.

    With `mounting`, mount(2) and new mount namespaces are left to the kernel's own check of capabilities. `beside` is
    for programs without namespaces.
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
    for name, numbers in _refused(beside).items():
        if (number := numbers[column]) is not None and not (mounting and name == "mount"):
            steps += [_step(_EQUAL, number, 0, 1), _refusal(errno.EPERM)]
    steps += _unless(_CLONE[column], _ARGUMENT_0, _ANY_BIT, (namespaces,), errno.EPERM)
    ioctls = (*_TERMINAL_INPUT, *(_SET_OWNER_IOCTL if beside else ()))
    steps += _unless(_IOCTL[column], _ARGUMENT_1, _EQUAL, ioctls, errno.EPERM)
    for numbers in _OF_A_PROCESS.values():
        steps += _only(numbers[column], _ARGUMENT_0, (0,), errno.EPERM)
    for call in (_SETPRIORITY, _IOPRIO_SET):
        steps += _only(call[column], _ARGUMENT_1, (0,), errno.EPERM)
    if beside is not None:
        steps += _held_back(column, beside)
    for call in (_SOCKET, _SOCKETPAIR):
        steps += _only(call[column], _ARGUMENT_0, _FAMILIES, errno.EAFNOSUPPORT)
    steps.append(_step(_RETURN, _ALLOW))
    return b"".join(steps)


def _refused(beside: Beside | None) -> dict[str, tuple[int | None, int | None]]:
    if beside is None:
        return _REFUSED
    more = _METADATA if beside.same_user else {}
    return _REFUSED | _REFUSED_BESIDE | more | (_SIGNALS if beside.only_pid else {})


def _held_back(column: int, beside: Beside) -> list[bytes]:
    """Keep a program without namespaces from the network and from other processes."""
    steps = _only(_SOCKET[column], _ARGUMENT_0, (), errno.EAFNOSUPPORT)
    pair = [_step(_LOAD, _ARGUMENT_0), _step(_EQUAL, _FAMILIES[0], 1), _refusal(errno.EAFNOSUPPORT)]
    pair += _only(_SOCKETPAIR[column], _ARGUMENT_1, _STREAMS, errno.EAFNOSUPPORT)[1:]
    steps += [_step(_EQUAL, _SOCKETPAIR[column], 0, len(pair)), *pair]
    steps += _unless(_FCNTL[column], _ARGUMENT_1, _EQUAL, _SET_OWNER, errno.EPERM)
    if beside.only_pid:
        for call in (_KILL_CALL, _TGKILL):
            steps += _only(call[column], _ARGUMENT_0, (beside.only_pid,), errno.EPERM)
    return steps


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
