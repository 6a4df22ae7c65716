"""The filter, run step by step as the kernel would, on both architectures."""

from __future__ import annotations

import errno
import struct

import pytest

from codeflow.sandbox.seccomp import Beside, program

X86, ARM = ("x86_64", 0xC000003E), ("aarch64", 0xC00000B7)
ALLOW, KILL = 0x7FFF0000, 0x80000000


def verdict(machine: str, architecture: int, call: int, *arguments: int, beside: Beside | None = None) -> int:
    filled = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=iIQ6Q", call, architecture, 0, *filled)
    steps = list(struct.iter_unpack("=HBBI", program(machine, beside=beside) or b""))
    at, held = 0, 0
    while True:
        code, then, otherwise, value = steps[at]
        at += 1
        if code == 0x06:
            return value
        if code == 0x20:
            held = struct.unpack_from("=I", data, value)[0]
            continue
        holds = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[code]
        at += then if holds else otherwise


def refused(number: int) -> int:
    return 0x00050000 | number


@pytest.mark.parametrize(
    ("machine", "call", "arguments", "expected"),
    [
        (X86, 0, (), ALLOW),  # read
        (X86, 59, (), ALLOW),  # execve
        (X86, 101, (), refused(errno.EPERM)),  # ptrace
        (X86, 165, (), refused(errno.EPERM)),  # mount
        (X86, 272, (0x10000000,), refused(errno.EPERM)),  # unshare
        (X86, 425, (), refused(errno.EPERM)),  # io_uring_setup
        (X86, 435, (), refused(errno.ENOSYS)),  # clone3
        (X86, 56, (0x01200011,), ALLOW),  # clone, as fork does
        (X86, 56, (0x003D0F00,), ALLOW),  # clone, as a thread does
        (X86, 56, (0x10000011,), refused(errno.EPERM)),  # clone into a user namespace
        (X86, 56, (0x40000011,), refused(errno.EPERM)),  # clone into a network namespace
        (X86, 41, (1, 1), ALLOW),  # socket UNIX
        (X86, 41, (10, 1), ALLOW),  # socket INET6
        (X86, 41, (40, 1), refused(errno.EAFNOSUPPORT)),  # socket VSOCK
        (X86, 41, (16, 3), refused(errno.EAFNOSUPPORT)),  # socket NETLINK
        (X86, 53, (1, 1), ALLOW),  # socketpair UNIX
        (X86, 16, (0, 0x5412), refused(errno.EPERM)),  # TIOCSTI
        (X86, 16, (0, 0x541C), refused(errno.EPERM)),  # TIOCLINUX
        (X86, 16, (0, 0x5401), ALLOW),  # TCGETS
        (X86, 0x40000000 | 101, (), refused(errno.ENOSYS)),  # x32
        (ARM, 63, (), ALLOW),  # read
        (ARM, 117, (), refused(errno.EPERM)),  # ptrace
        (ARM, 198, (40, 1), refused(errno.EAFNOSUPPORT)),
        (ARM, 220, (0x00020011,), refused(errno.EPERM)),  # clone into a mount namespace
        (ARM, 172, (), ALLOW),  # getpid; the number of iopl elsewhere
    ],
)
def test_each_call_gets_its_answer(machine, call, arguments, expected):
    assert verdict(*machine, call, *arguments) == expected


ROOT, USER, OLD = Beside(False), Beside(True), Beside(True, only_pid=77)


@pytest.mark.parametrize(
    ("machine", "beside", "call", "arguments", "expected"),
    [
        (X86, ROOT, 0, (), ALLOW),  # read
        (X86, ROOT, 41, (1, 1), refused(errno.EAFNOSUPPORT)),  # socket UNIX
        (X86, ROOT, 41, (2, 1), refused(errno.EAFNOSUPPORT)),  # socket INET
        (X86, ROOT, 53, (1, 1), ALLOW),  # socketpair, stream
        (X86, ROOT, 53, (1, 1 | 0x80800), ALLOW),  # socketpair, stream, with flags
        (X86, ROOT, 53, (1, 2), refused(errno.EAFNOSUPPORT)),  # socketpair, datagrams: could be sent elsewhere
        (X86, ROOT, 53, (2, 1), refused(errno.EAFNOSUPPORT)),
        (X86, ROOT, 42, (), refused(errno.EPERM)),  # connect
        (X86, ROOT, 30, (), refused(errno.EPERM)),  # shmat
        (X86, ROOT, 254, (), refused(errno.EPERM)),  # inotify_add_watch
        (X86, ROOT, 72, (3, 8), refused(errno.EPERM)),  # F_SETOWN
        (X86, ROOT, 72, (3, 15), refused(errno.EPERM)),  # F_SETOWN_EX
        (X86, ROOT, 72, (3, 4), ALLOW),  # F_SETFL
        (X86, ROOT, 16, (3, 0x8901), refused(errno.EPERM)),  # FIOSETOWN
        (X86, ROOT, 90, (), ALLOW),  # chmod: the files are somebody else's
        (X86, USER, 90, (), refused(errno.EPERM)),
        (X86, USER, 280, (), refused(errno.EPERM)),  # utimensat
        (X86, USER, 62, (1, 9), ALLOW),  # kill: Landlock holds it back
        (X86, OLD, 62, (1, 9), refused(errno.EPERM)),
        (X86, OLD, 62, (77, 9), ALLOW),  # itself
        (X86, OLD, 62, (0xFFFFFFFF, 9), refused(errno.EPERM)),  # kill(-1)
        (X86, OLD, 234, (77, 78, 6), ALLOW),  # tgkill, as abort does
        (X86, OLD, 424, (), refused(errno.EPERM)),  # pidfd_send_signal
        (ARM, OLD, 129, (1, 9), refused(errno.EPERM)),  # kill
        (ARM, USER, 53, (), refused(errno.EPERM)),  # fchmodat
        (ARM, USER, 199, (1, 1), ALLOW),  # socketpair
        (ARM, USER, 203, (), refused(errno.EPERM)),  # connect
    ],
)
def test_programs_beside_others_are_held_back(machine, beside, call, arguments, expected):
    assert verdict(*machine, call, *arguments, beside=beside) == expected


@pytest.mark.parametrize("beside", [None, ROOT, OLD])
def test_limits_and_priorities_are_a_processs_own(beside):
    for call in (302, 203, 144, 314):  # prlimit64, sched_setaffinity, sched_setscheduler, sched_setattr
        assert verdict(*X86, call, 0, beside=beside) == ALLOW
        assert verdict(*X86, call, 1, beside=beside) == refused(errno.EPERM)
    assert verdict(*X86, 141, 0, 0, beside=beside) == ALLOW  # setpriority
    assert verdict(*X86, 141, 0, 1, beside=beside) == refused(errno.EPERM)


def test_calls_of_another_architecture_kill():
    assert verdict("x86_64", 0x40000003, 11) == KILL  # 32-bit execve


def test_an_unknown_architecture_has_no_filter():
    assert program("riscv64") is None


def test_mounting_is_left_to_the_kernel_where_asked():
    filtered = program("x86_64", mounting=True)
    plain = program("x86_64")
    assert filtered is not None
    assert plain is not None
    assert len(plain) - len(filtered) == 16  # the two steps on mount(2)
    namespaces = {step[3] for step in struct.iter_unpack("=HBBI", filtered) if step[0] == 0x45}
    assert namespaces == {0x7E000080}  # all but the one of mounts
