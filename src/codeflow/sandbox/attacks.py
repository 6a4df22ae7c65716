"""Programs that try to get out, to take the machine down or to be left alone; each must be contained.

An attack is a Python program run in a fresh sandbox with small limits. Whether it was contained is judged outside: by
the status, by what it prints when something worked that must not ("ESCAPED"), and, where it tries to leave something
behind, by looking at the host. `run_attacks` is the hostile test suite of every back end.
"""
# ruff: noqa: E501  the programs are texts

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from codeflow.sandbox.policy import MIB, Limits
from codeflow.sandbox.result import Result, Status
from codeflow.sandbox.sandbox import Sandbox

LIMITS = Limits(
    wall_seconds=4, cpu_seconds=3, memory_bytes=256 * MIB, processes=8, output_bytes=64 << 10, disk_bytes=16 * MIB
)
_PORT, _MARK, _CHECKOUT = "@PORT@", "@MARK@", "@CHECKOUT@"  # filled in when the attack is run


@dataclass(frozen=True, slots=True)
class Attack:
    """A hostile program and the statuses in which it may end."""

    name: str
    program: str
    ends: tuple[Status, ...] = (Status.OK, Status.FAILED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attack. `problem` is "" when it was contained."""

    name: str
    status: Status
    seconds: float
    problem: str


def _tries(*lines: str, imports: str = "os") -> str:
    """Return a program that prints ESCAPED for each line that does not raise."""
    body = [f"import {imports}"]
    for line in lines:
        body.append(f"try:\n    {line}\nexcept (OSError, ValueError) as e: print(type(e).__name__, e)")
        body.append(f"else: print('ESCAPED', {line!r})")
    return "\n".join(body)


ATTACKS: tuple[Attack, ...] = (
    Attack(
        "fork bomb",
        "import os\nn = 0\nwhile n < 5000:\n    try:\n        if os.fork() == 0:\n            while True: os.fork()\n"
        "        n += 1\n    except OSError: break\nprint('ESCAPED' if n > 20 else 'stopped at', n)",
        (Status.OK, Status.FAILED, Status.TIME, Status.CRASH),
    ),
    Attack(
        "thread bomb",
        "import threading, time\nn = 0\ntry:\n    while n < 500:\n        threading.Thread(target=time.sleep, args=(9,), "
        "daemon=True).start()\n        n += 1\nexcept RuntimeError: pass\nprint('ESCAPED' if n > 20 else n)",
    ),
    Attack("memory bomb", "a = []\nwhile True: a.append(bytearray(8 << 20))", (Status.MEMORY, Status.CRASH)),
    Attack(
        "disk fill",
        "import os\nfor folder in ('/work', '/tmp', '/dev/shm', '/', '/dev', '/run'):\n    n = 0\n    try:\n"
        "        with open(folder + '/fill', 'wb', buffering=0) as f:\n"
        "            while n < 64:\n                f.write(b'x' * (1 << 20)); n += 1\n"
        "    except OSError: pass\n    if n > 16: print('ESCAPED', folder, n)",
    ),
    Attack("sparse file", "open('sparse', 'wb').truncate(1 << 40); print('ESCAPED')", (Status.FAILED, Status.CRASH)),
    Attack("output flood", "import os\nwhile True: os.write(1, b'x' * 65536)", (Status.OUTPUT,)),
    Attack("error flood", "import os\nwhile True: os.write(2, b'x' * 65536)", (Status.OUTPUT,)),
    Attack("endless loop", "while True: pass", (Status.TIME,)),
    Attack(
        "loop that ignores signals",
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): "
        "pass\nwhile True: pass",
        (Status.TIME,),
    ),
    Attack("sleep", "import time\ntime.sleep(1000)", (Status.TIME,)),
    Attack(
        "network",
        "import socket\nfor address in (('127.0.0.1', @PORT@), ('1.1.1.1', 53), ('8.8.8.8', 443)):\n    try:\n"
        "        socket.create_connection(address, timeout=1); print('ESCAPED', address)\n"
        "    except OSError as e: print(e)",
    ),
    Attack(
        "abstract socket of the host",
        "import socket\ns = socket.socket(socket.AF_UNIX)\ntry: s.connect('\\0@MARK@'); print('ESCAPED')\n"
        "except OSError as e: print(e)",
    ),
    Attack(
        "host files",
        "import os\nfor top in ('/home', '/root', '/mnt', '/srv', '/opt', '/var', '/boot', '/sys', '/media', '/etc/shadow', "
        "'/etc/hostname', '@CHECKOUT@/src', '@CHECKOUT@/.git', '/proc/1/root/etc/shadow'):\n"
        "    try: found = os.listdir(top) if os.path.isdir(top) else [open(top).read()]\n"
        "    except OSError: continue\n    hidden = [x for x in found if not x.startswith('.pyenv')]\n"
        "    if hidden: print('ESCAPED', top, found[:3])",
    ),
    Attack(
        "write to the system",
        _tries(
            "open('/usr/bin/cf-attack', 'w')",
            "open('/etc/passwd', 'a')",
            "open('/cf-attack', 'w')",
            "open(os.__file__, 'a')",
            "open('/proc/sys/kernel/core_pattern', 'w')",
            "open('/proc/sysrq-trigger', 'w')",
            "os.symlink('/etc', '/usr/cf')",
            "os.chmod('/usr/bin/env', 0o777)",
        ),
    ),
    Attack(
        "devices",
        _tries(
            "os.mknod('/work/sda', 0o60600, os.makedev(8, 0)); open('/work/sda', 'rb')",
            "open('/dev/mem', 'rb')",
            "open('/dev/kmsg', 'w')",
            "open('/proc/kcore', 'rb')",
            "os.listdir('/dev/disk')",
        ),
    ),
    Attack(
        "kill everything",
        "import os, signal\nfor target in (-1, 0):\n    try: os.kill(target, signal.SIGKILL)\n    except OSError as e: print(e)",
        (Status.CRASH, Status.OK),
    ),
    Attack(
        "kill the parents",
        "import os, signal\nfor pid in range(1, 400):\n    if pid != os.getpid():\n        try: os.kill(pid, signal.SIGKILL)\n"
        "        except OSError: pass\nwhile True: pass",
        (Status.CRASH, Status.TIME, Status.FAILED),
    ),
    Attack("early exit", "import os\nos._exit(0)", (Status.OK,)),
    Attack(
        "daemon left behind",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.execv('/usr/bin/sleep', "
        "['@MARK@', '600'])\n    os._exit(0)\ntime.sleep(0.3)",
        (Status.OK,),
    ),
    Attack(
        "nested namespaces",
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nfor flag in (0x10000000, 0x10020000, 0x40000000, 0x20000, "
        "0x20000000):\n    if libc.unshare(flag) == 0: print('ESCAPED', hex(flag))",
    ),
    Attack(
        "mount and chroot",
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.mount(b'none', b'/work', b'tmpfs', 0, None) == 0: print('ESCAPED mount')\n"
        "if libc.mount(None, b'/usr', None, 32 | 4096, None) == 0: print('ESCAPED remount')\n"
        "if libc.umount2(b'/usr', 2) == 0: print('ESCAPED umount')\n"
        "try: os.chroot('/work'); print('ESCAPED chroot')\nexcept OSError as e: print(e)",
    ),
    Attack(
        "become root",
        _tries(
            "os.setuid(0)", "os.setgid(0)", "os.setgroups([0])", "os.setpriority(0, 0, -5)", "os.sethostname('x')"
        ).replace("os.sethostname('x')", "__import__('socket').sethostname('x')"),
    ),
    Attack(
        "set-user-id program",
        "import subprocess\nfor line in (['/usr/bin/su', '-c', 'id -u'], ['/usr/bin/mount'], ['/usr/bin/passwd', '-S']):\n"
        "    try: r = subprocess.run(line, capture_output=True, text=True, timeout=2, stdin=subprocess.DEVNULL)\n"
        "    except (OSError, subprocess.SubprocessError) as e: print(e); continue\n"
        "    if r.stdout.strip() == '0': print('ESCAPED', line)",
    ),
    Attack(
        "inherited descriptors",
        "import os\nfor fd in os.listdir('/proc/self/fd'):\n    try: target = os.readlink('/proc/self/fd/' + fd)\n"
        "    except OSError: continue\n    allowed = ('pipe:', '/dev/null', '/proc/', '/memfd:')\n"
        "    if not target.startswith(allowed): print('ESCAPED', fd, target)\n"
        "    if target.startswith('/memfd:') or (target.startswith('pipe:') and int(fd) > 2): print('ESCAPED', fd, target)",
    ),
    Attack(
        "environment and other processes",
        "import os\nif os.environ.get('CODEFLOW_SECRET'): print('ESCAPED environment')\n"
        "for pid in os.listdir('/proc'):\n    if not pid.isdigit(): continue\n"
        "    try: data = open('/proc/%s/environ' % pid, 'rb').read()\n    except OSError: continue\n"
        "    if b'@MARK@' in data: print('ESCAPED environment of', pid)\n"
        "if len([p for p in os.listdir('/proc') if p.isdigit()]) > 8: print('ESCAPED sees processes')",
    ),
    Attack(
        "terminal",
        "import fcntl, os, termios\nfor fd in (0, 1, 2):\n    try: fcntl.ioctl(fd, termios.TIOCSTI, b'x'); print('ESCAPED')\n"
        "    except OSError as e: print(e)\ntry: os.open('/dev/tty', os.O_RDWR); print('ESCAPED tty')\nexcept OSError: pass",
    ),
    Attack(
        "trace the parents",
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nfor pid in (1, os.getppid()):\n"
        "    try: open('/proc/%d/mem' % pid, 'r+b').read(1); print('ESCAPED mem', pid)\n    except OSError as e: print(e)\n"
        "if libc.ptrace(16, 1, 0, 0) == 0: print('ESCAPED ptrace')",
    ),
)


async def run_attacks(open_sandbox: Callable[[], Sandbox], names: tuple[str, ...] = ()) -> list[Outcome]:
    """Run all attacks, or those named, one after another."""
    chosen = [attack for attack in ATTACKS if not names or attack.name in names]
    return [await _run(attack, open_sandbox) for attack in chosen]


async def _run(attack: Attack, open_sandbox: Callable[[], Sandbox]) -> Outcome:
    mark = f"cf-{secrets.token_hex(8)}"
    listener, abstract = socket.socket(), socket.socket(socket.AF_UNIX)
    old = os.environ.get("CODEFLOW_SECRET")
    try:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        abstract.bind(f"\0{mark}")
        abstract.listen()
        os.environ["CODEFLOW_SECRET"] = mark
        program = attack.program.replace(_PORT, str(listener.getsockname()[1])).replace(_MARK, mark)
        program = program.replace(_CHECKOUT, str(Path(__file__).parents[3]))
        async with open_sandbox() as sandbox:
            result = await sandbox.exec([*sandbox.python, "-c", program], limits=LIMITS)
    finally:
        listener.close()
        abstract.close()
        if old is None:
            del os.environ["CODEFLOW_SECRET"]
        else:
            os.environ["CODEFLOW_SECRET"] = old
    return Outcome(attack.name, result.status, result.wall_seconds, _problem(attack, result, mark))


def _problem(attack: Attack, result: Result, mark: str) -> str:
    said = (result.stdout + result.stderr).decode("utf-8", "replace")
    if "ESCAPED" in said:
        return said[said.index("ESCAPED") :].partition("\n")[0][:200]
    if result.status not in attack.ends:
        return f"ended as {result.status}, not {' or '.join(attack.ends)}: {result.detail or said[-200:]}"
    if len(result.stdout) + len(result.stderr) > LIMITS.output_bytes:
        return "more output than allowed"
    if result.wall_seconds > LIMITS.wall_seconds + 2:
        return f"took {result.wall_seconds:.1f} s"
    left = [pid for pid in _processes() if _command(pid).startswith(mark)]
    return f"left process {left[0]} behind" if left else ""


def _processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def main() -> int:
    """Run the suite against the back end chosen here; print a table; return 1 when something was not contained."""
    from codeflow.sandbox.local import open_sandbox, probe

    found = probe()
    if not found.backend:
        print(found.problem)
        return 1
    outcomes = asyncio.run(run_attacks(open_sandbox))
    for item in outcomes:
        print(f"{item.name:<34} {item.status:<10} {item.seconds:6.2f} s  {item.problem or 'contained'}")
    failed = sum(bool(item.problem) for item in outcomes)
    print(f"{found.backend}: {len(outcomes) - failed} of {len(outcomes)} attacks contained, as user {os.geteuid()}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
