"""Programs that try to get out, to take the machine down or to be left alone; each must be contained.

An attack is a Python program for a fresh sandbox with small limits; it prints ESCAPED when something worked that must
not. `containment.py` runs and judges them.
"""
# ruff: noqa: E501  the programs are texts

from __future__ import annotations

from dataclasses import dataclass

from codeflow.sandbox.policy import MIB, Limits
from codeflow.sandbox.result import Status

LIMITS = Limits(
    wall_seconds=3, cpu_seconds=2, memory_bytes=256 * MIB, processes=8, output_bytes=64 << 10, disk_bytes=16 * MIB
)
PORT, MARK, SECRET, CHECKOUT = "@PORT@", "@MARK@", "@SECRET@", "@CHECKOUT@"  # filled in when the attack is run
FILE, PROCESS, SOCKET = "@FILE@", "@PROCESS@", "@SOCKET@"  # of the user who runs the attacks: targets


@dataclass(frozen=True, slots=True)
class Attack:
    """A hostile program and the statuses in which it may end."""

    name: str
    program: str
    ends: tuple[Status, ...] = (Status.OK, Status.FAILED)
    at_least_seconds: float = 0.0  # that the parent must have measured
    then: str = ""  # a second program, run in the same sandbox, that looks for what the first one left
    known_open: tuple[str, ...] = ()  # back ends that do not contain it, as the documentation says


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
        "import os\nfor folder in (os.getcwd(), os.environ['TMPDIR'], '/tmp', '/dev/shm', '/', '/dev', '/run'):\n    n = 0\n    try:\n"
        "        with open(folder + '/fill', 'wb', buffering=0) as f:\n"
        "            while n < 64:\n                f.write(b'x' * (1 << 20)); n += 1\n"
        "    except OSError: pass\n    if n > 16: print('ESCAPED', folder, n)",
        (Status.OK, Status.FAILED, Status.CRASH),  # where a size is looked at, it ends who goes beyond
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
            "os.setuid(0)",
            "os.setgid(0)",
            "os.setgroups([0])",
            "os.setpriority(0, 0, os.getpriority(0, 0) - 1)",
            "os.sethostname('x')",
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
        "    if b'@SECRET@' in data: print('ESCAPED environment of', pid)\n"
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
    Attack(
        "look into process 1",
        "import os\nfor name in ('environ', 'maps', 'mem', 'fd', 'root', 'cwd', 'exe', 'auxv', 'stack', 'syscall'):\n"
        "    path = '/proc/1/' + name\n"
        "    try:\n        if name == 'fd': found = [os.readlink(path + '/' + number) for number in os.listdir(path)]\n"
        "        else: found = os.listdir(path) if name in ('root', 'cwd') else open(path, 'rb').read(1)\n"
        "    except OSError: continue\n    if found: print('ESCAPED', path)",
    ),
    Attack(
        "links out of the folder",
        "import os\nos.symlink('/', 'top'); os.symlink('/proc/1/root', 'one')\n"
        "for path in ('top/root', 'top/home', 'top/etc/shadow', 'one/etc', 'top@CHECKOUT@/src'):\n"
        "    try: found = os.listdir(path) if os.path.isdir(path) else open(path).read()\n"
        "    except OSError: continue\n    if found and found[0] != '.pyenv': print('ESCAPED', path, found[:3])\n"
        "try: os.link('/etc/passwd', 'hard'); open('hard', 'a'); print('ESCAPED hard link')\nexcept OSError as e: print(e)",
    ),
    Attack(
        "sockets beyond the network namespace",
        "import socket\nfor family, kind in ((40, 1), (16, 3), (17, 3), (38, 5), (2, 3), (44, 3), (31, 3)):\n"
        "    try: socket.socket(family, kind); print('ESCAPED family', family)\n    except OSError as e: print(family, e)",
    ),
    Attack(
        "doors of the kernel",
        "import ctypes, platform\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "calls = {'bpf': (321, 280), 'io_uring_setup': (425, 425), 'userfaultfd': (323, 282), 'perf_event_open': (298, 241),"
        " 'keyctl': (250, 219), 'kexec_load': (246, 104), 'init_module': (175, 105), 'open_by_handle_at': (304, 265),"
        " 'pidfd_getfd': (438, 438), 'process_vm_readv': (310, 270), 'fsopen': (430, 430), 'clone3': (435, 435)}\n"
        "for name, numbers in calls.items():\n    number = numbers[platform.machine() != 'x86_64']\n"
        "    result = libc.syscall(number, 0, 0, 0, 0, 0, 0)\n"
        "    if result >= 0 or ctypes.get_errno() not in (1, 38): print('ESCAPED', name, result, ctypes.get_errno())",
    ),
    Attack(
        "raise the limits",
        "import resource\nfor name in ('AS', 'NPROC', 'CPU', 'FSIZE', 'NOFILE', 'CORE'):\n"
        "    number = getattr(resource, 'RLIMIT_' + name)\n"
        "    try: resource.setrlimit(number, (resource.RLIM_INFINITY,) * 2); print('ESCAPED', name)\n"
        "    except (OSError, ValueError) as e: print(name, e)",
    ),
    Attack(
        "descriptors without end",
        "import os\nn = 0\ntry:\n    while n < 5000: os.open('/dev/null', os.O_RDONLY); n += 1\n"
        "except OSError as e: print(e)\nif n > 1000: print('ESCAPED', n)",
    ),
    Attack(
        "files without end",
        "n = 0\ntry:\n    while n < 500000: open('%d' % n, 'w').close(); n += 1\nexcept OSError as e: print(e)\n"
        "if n >= 500000: print('ESCAPED', n)",
        (Status.OK, Status.TIME, Status.CRASH),
    ),
    Attack(
        "zombies without end",
        "import os\nn = 0\ntry:\n    while n < 500:\n        if os.fork() == 0: os._exit(0)\n        n += 1\n"
        "except OSError as e: print(e)\nif n > 20: print('ESCAPED', n)",
    ),
    Attack(
        "output held open",
        "import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(600)\nprint('gone')",
        (Status.OK,),
    ),
    Attack("write to standard input", "import os\nos.write(0, b'x' * 99); print('ESCAPED')", (Status.FAILED,)),
    Attack(
        "clocks",
        _tries(
            "time.clock_settime(time.CLOCK_REALTIME, 0)", "time.clock_settime(time.CLOCK_MONOTONIC, 0)", imports="time"
        ),
    ),
    Attack(
        "patched clock",
        "import time\nwork, start = time.sleep, time.monotonic\ntime.time = time.monotonic = time.perf_counter = lambda: 0.0\n"
        "work(0.7)",
        (Status.OK,),
        at_least_seconds=0.7,
    ),
    Attack(
        "replace a running program",
        _tries("open('/proc/self/exe', 'r+b')", "open('/proc/1/exe', 'r+b')", "open('/bin/sh', 'r+b')"),
    ),
    Attack(
        "write through a shared mapping",
        "import mmap, os\nfor path in ('/usr/bin/env', os.__file__):\n    try:\n"
        "        with open(path, 'rb') as f: mmap.mmap(f.fileno(), 4096, mmap.MAP_SHARED, mmap.PROT_WRITE)\n"
        "        print('ESCAPED', path)\n    except OSError as e: print(e)",
    ),
    Attack(
        "out of memory, somebody else",
        "for value in ('-1000', '-1'):\n    for pid in ('self', '1'):\n"
        "        try: open('/proc/%s/oom_score_adj' % pid, 'w').write(value); print('ESCAPED', pid, value)\n"
        "        except OSError as e: print(e)",
    ),
    Attack(
        "control groups",
        "import os\nfor top in ('/sys/fs/cgroup', '/sys/kernel', '/sys'):\n    try: found = os.listdir(top)\n"
        "    except OSError: continue\n    if found: print('ESCAPED', top)",
    ),
    Attack(
        "shared memory for the next one",
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nfor folder in ('.', '/tmp', '/dev/shm'):\n"
        "    try: open(folder + '/@MARK@', 'w').write('x')\n    except OSError as e: print(e)\nlibc.shmget(4242, 4096, 0o1666)\nlibc.msgget(4242, 0o1666)",
        then="import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "for folder in ('.', '/tmp', '/dev/shm'):\n    try: found = os.listdir(folder)\n    except OSError: continue\n"
        "    if found: print('ESCAPED', folder)\n"
        "if libc.shmget(4242, 4096, 0) >= 0 or libc.msgget(4242, 0) >= 0: print('ESCAPED system V')",
    ),
    Attack(
        "a process for the next one",
        "import os, socket, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n"
        "    s = socket.socket(socket.AF_UNIX); s.bind('\\0@MARK@'); s.listen(); time.sleep(600)\ntime.sleep(0.2)",
        then="import os, socket\ns = socket.socket(socket.AF_UNIX)\ntry: s.connect('\\0@MARK@'); print('ESCAPED')\n"
        "except OSError as e: print(e)\n"
        "if len([p for p in os.listdir('/proc') if p.isdigit()]) > 6: print('ESCAPED sees processes')",
    ),
    Attack(
        "terminal escapes",
        "print('\\x1b]0;title\\x07\\x1b[2J\\x1b[1;1H\\x9b31mcontained\\x1b[?1049h')",
        (Status.OK,),
    ),
    Attack(
        "disk fill by many files",
        "n = 0\ntry:\n    while n < 4000:\n        with open('part%d' % n, 'wb') as f: f.write(bytes(1 << 20))\n        n += 1\n"
        "except OSError as e: print(e)\nif n >= 4000: print('ESCAPED', n)",
        (Status.OK, Status.CRASH, Status.TIME, Status.MEMORY),  # files in a tmpfs are memory of its control group
    ),
    Attack(
        "folders in folders without end",
        "import os\nn = 0\ntry:\n    while n < 20000: os.mkdir('d'); os.chdir('d'); n += 1\nexcept OSError as e: print(e)",
        (Status.OK, Status.CRASH, Status.TIME),
    ),
    Attack(
        "modes, times and content of somebody's file",
        _tries(
            "os.chmod('@FILE@', 0o777)",
            "os.utime('@FILE@', (0, 0))",
            "os.truncate('@FILE@', 0)",
            "os.unlink('@FILE@')",
            "os.rename('@FILE@', 'taken')",
            "os.link('@FILE@', 'linked')",
            "os.setxattr('@FILE@', 'user.cf', b'x')",
            "os.open('@FILE@', os.O_RDONLY)",
            "os.open('@FILE@', os.O_RDONLY | os.O_TRUNC)",
            "os.chown('@FILE@', os.getuid(), -1)",
        ),
    ),
    Attack(
        "somebody's process",
        _tries(
            "os.kill(@PROCESS@, signal.SIGKILL)",
            "os.kill(-@PROCESS@, signal.SIGKILL)",
            "signal.pidfd_send_signal(os.pidfd_open(@PROCESS@), signal.SIGKILL)",
            "resource.prlimit(@PROCESS@, resource.RLIMIT_CPU, (0, 0))",
            "os.setpriority(os.PRIO_PROCESS, @PROCESS@, 19)",
            "os.sched_setaffinity(@PROCESS@, [0])",
            "os.sched_setscheduler(@PROCESS@, os.SCHED_IDLE, os.sched_param(0))",
            "open('/proc/@PROCESS@/environ', 'rb').read()",
            imports="os, resource, signal",
        ),
    ),
    Attack(
        "limits and priority of the parents",
        "import os, resource\nfor pid in {1, os.getppid()}:\n"
        "    for name in ('CPU', 'NOFILE', 'AS'):\n        number = getattr(resource, 'RLIMIT_' + name)\n"
        "        try: resource.prlimit(pid, number, (1, 1)); print('ESCAPED', name)\n        except OSError as e: print(e)\n"
        "    try: os.setpriority(os.PRIO_PROCESS, pid, 19); print('ESCAPED priority')\n    except OSError as e: print(e)\n"
        "    try: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)); print('ESCAPED scheduler')\n"
        "    except OSError as e: print(e)",
    ),
    Attack(
        "signals by a descriptor",
        "import fcntl, os, signal, socket, time\nfor pid in {1, os.getppid(), @PROCESS@}:\n    try:\n"
        "        a, b = socket.socketpair()\n        fcntl.fcntl(a, 10, signal.SIGKILL)\n        fcntl.fcntl(a, fcntl.F_SETOWN, pid)\n"
        "        fcntl.fcntl(a, fcntl.F_SETFL, fcntl.fcntl(a, fcntl.F_GETFL) | os.O_ASYNC)\n        b.send(b'x')\n"
        "    except OSError as e: print(e)\ntime.sleep(0.2)",
        (Status.OK, Status.FAILED, Status.CRASH),
    ),
    Attack(
        "datagrams to a socket of the host",
        "import socket\nfor kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM):\n    for make in (\n"
        "        lambda: socket.socketpair(socket.AF_UNIX, kind)[0],\n        lambda: socket.socket(socket.AF_UNIX, kind),\n    ):\n"
        "        for address in ('@SOCKET@', '\\0@MARK@'):\n            for call in ('connect', 'sendto', 'sendmsg'):\n"
        "                try:\n                    s = make()\n                    if call == 'connect': s.connect(address)\n"
        "                    elif call == 'sendto': s.sendto(b'x', address)\n                    else: s.sendmsg([b'x'], [], 0, address)\n"
        "                    print('ESCAPED', kind, call, address)\n                except OSError as e: print(e)",
    ),
    Attack(
        "watch somebody's files",
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nfd = libc.inotify_init()\n"
        "if libc.inotify_add_watch(fd, b'@FILE@', 0xfff) >= 0: print('ESCAPED')",
    ),
    Attack(
        "does a file of the host exist",
        "import os\nif os.path.exists('@FILE@'): print('ESCAPED', os.stat('@FILE@'))",
        known_open=("landlock",),
    ),
)
