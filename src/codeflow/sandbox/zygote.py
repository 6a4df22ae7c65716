"""Runs inside a bubblewrap and starts jobs there: a Python interpreter that is up already, forked for each job.

Never imported by the parent, which speaks to it over a socket (`fork_server.py`). It is process 1 of the bubblewrap's
pid namespace and never reads a job's body (program, input), so no job finds another's in the memory it is forked from.
A job is a child in a mount namespace of its own, with fresh temporary file systems, which gives up every capability
(and root's identity), starts a session and becomes the program. The system-call filter is the zygote's own already; it
leaves mount(2) and new mount namespaces to the kernel, which refuses them without capabilities. When a job has ended,
or is to end, the zygote kills all other processes there are and reaps them: a job begins when nobody else lives.

The candidate can neither look into the zygote (not dumpable, more capabilities) nor kill it (process 1). Jobs share the
network namespace, which has nothing but loopback, one after the other.
"""
# pyright: basic, reportMissingImports=false, reportOptionalMemberAccess=false

import _signal as signal
import array
import contextlib
import ctypes
import gc
import marshal
import os
import resource
import select
import sys

NEW_MOUNTS = 0x00020000
NOSUID, NODEV, BIND = 2, 4, 4096
DUMPABLE, NO_NEW_PRIVS, SECCOMP, DROP_BOUNDING = 4, 38, 22, 24
CLONE_NUMBER = {"x86_64": 56, "aarch64": 220}
FOLDERS = ("/work", "/tmp")  # each of half the disk limit; shared memory lies in /tmp
BEGUN, STOP = b"begun", b"stop"
CHANNEL, CHANNEL_VARIABLE = 3, "CODEFLOW_CHANNEL"
NO_CAPABILITY = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3 of capset's arguments
ORPHANS_MS = 200  # how often children of children that have ended are reaped while a job runs

libc = ctypes.PyDLL(None, use_errno=True)  # holds the interpreter's lock, as a call that forks must


def checked(result, what):
    """Return the result of a system call. Raises OSError."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def clone(flags):
    """Fork into new namespaces, with the interpreter's own care."""
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = libc.syscall(CLONE_NUMBER[os.uname().machine], flags | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    return checked(pid, "clone")


def receive(control):
    """Return a message and its descriptors; an empty message when the parent has gone."""
    data, ancillary, _, _ = control.recvmsg(65536, 4096)
    numbers = array.array("i")
    for _, _, passed in ancillary:
        numbers.frombytes(passed[: len(passed) - len(passed) % numbers.itemsize])
    return data, list(numbers)


def serve(control, config):
    """Run jobs until the parent has gone. Returns in each candidate only, with what it is to run."""
    while True:
        data, descriptors = receive(control)
        if not data:
            os._exit(0)
        if data == STOP:  # it came too late, for a job that had ended by itself
            continue
        state_reader, state_writer = os.pipe()
        candidate = clone(NEW_MOUNTS)
        if not candidate:
            control.close()
            limits = marshal.loads(data)
            return become_candidate(limits, descriptors, state_writer, lambda own=limits: isolate(own, config["uid"]))
        for descriptor in (state_writer, *descriptors):
            os.close(descriptor)
        code, seconds, peak = watch(control, candidate)
        state = os.read(state_reader, 4096)  # nobody can write to it any more
        os.close(state_reader)
        control.send(report_of(state, code, seconds, peak))


def report_of(state, code, seconds, peak):
    """Return what the parent is told of a job that has ended."""
    if state != BEGUN:
        return b"error " + (state or b"the job was killed before it began")
    return b"ended %d %d %d" % (code, seconds * 1e6, peak * 1024)


def watch(control, candidate):
    """Wait for the candidate or for the parent's word, then end all. Returns exit code, CPU seconds, peak in KiB."""
    pidfd = os.pidfd_open(candidate)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    ended = {}
    while not (ready := poll.poll(ORPHANS_MS)):
        while reaped(os.WNOHANG, ended):
            pass
    os.close(pidfd)
    if all(descriptor != pidfd for descriptor, _ in ready) and not control.recv(16):
        os._exit(0)
    while True:  # orphans become children of this process, so without children it is alone
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        if not reaped(0, ended):
            break
    seconds = sum(usage.ru_utime + usage.ru_stime for _, usage in ended.values())
    code = os.waitstatus_to_exitcode(ended[candidate][0])
    return code, seconds, max(usage.ru_maxrss for _, usage in ended.values())


def reaped(options, ended):
    """Reap one child into `ended`; say whether there was one."""
    try:
        pid, status, usage = os.wait4(-1, options)
    except ChildProcessError:
        return False
    if pid:
        ended[pid] = status, usage
    return bool(pid)


def become_candidate(limits, descriptors, state, isolate, folder="/work", seal=None):
    """Make the job's world, give up everything, and return the job; an error on the way is the surroundings' fault.

    `isolate` is called before the files are written, `seal` last.
    """
    try:
        if n_groups := limits["groups"]:
            enter_groups(descriptors[-n_groups:])
            descriptors = descriptors[:-n_groups]
        body, out, err, *rest = descriptors
        job = load(body)
        isolate()
        for path, data in job["files"]:
            put(f"{folder}/{path}", data)
        stdin = standard_input(job["stdin"])
        if job["keep"]:
            keep_files(rest.pop(), folder)
        only([stdin, out, err, *rest], state)
        os.setsid()
        os.chdir(folder)
        restrict(limits)
        if seal:
            seal()
    except BaseException as error:
        os.write(state, said(error))
        os._exit(1)
    os.write(state, BEGUN)
    os.close(state)
    return job


def said(error):
    """Return an error in one line, for the parent."""
    return f"{type(error).__name__}: {error}".encode("ascii", "replace").replace(b"\n", b" ")


def enter_groups(descriptors):
    """Go into the control groups whose lists of processes the parent has opened."""
    for descriptor in descriptors:
        os.write(descriptor, b"0")
        os.close(descriptor)


def isolate(limits, uid):
    """Make the folders that a job may write to and give up every right."""
    own_folders(limits["disk_bytes"])
    give_up(uid)


def load(descriptor):
    """Read marshalled data of the parent's to its end."""
    size, parts = os.fstat(descriptor).st_size, []
    while size > 0 and (part := os.read(descriptor, size)):
        parts.append(part)
        size -= len(part)
    os.close(descriptor)
    return marshal.loads(b"".join(parts))


def own_folders(disk_bytes):
    """Mount what a job may write to, limited in bytes and in files."""
    size = max(disk_bytes // len(FOLDERS), 4096)
    options = f"size={size},nr_inodes={max(size // 4096, 64) + 16},mode=1777".encode()
    for folder in FOLDERS:
        mount(b"tmpfs", folder, b"tmpfs", NOSUID | NODEV, options)
    mount(b"/tmp", "/dev/shm", None, BIND, None)


def mount(source, target, kind, flags, options):
    """Call mount(2)."""
    checked(libc.mount(source, target.encode(), kind, flags, options), target)


def give_up(uid):
    """Give up identity, where it is root's, and every capability for good."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    checked(libc.capset(*NO_CAPABILITY), "capset")


def put(path, data):
    """Write one of the parent's files."""
    folder = os.path.dirname(path)
    os.makedirs(folder, 0o777, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o777)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fchmod(descriptor, 0o777)
    os.close(descriptor)


def standard_input(data):
    """Return a descriptor that gives `data` and cannot be written to."""
    if not data:
        return os.open("/dev/null", os.O_RDONLY)
    memory = os.memfd_create("stdin")
    view = memoryview(data)
    while view:
        view = view[os.write(memory, view) :]
    reading = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY) if os.path.exists("/proc/self/fd") else memory
    if reading == memory:
        os.lseek(memory, 0, os.SEEK_SET)
    else:
        os.close(memory)
    return reading


def keep_files(descriptor, folder):
    """Go on in a child; here, wait for its end and write the working folder's files to the parent."""
    child = os.fork()
    if not child:
        os.close(descriptor)
        return
    os.dup2(descriptor, 1)
    os.closerange(3, 4096)
    status = os.waitpid(child, 0)[1]
    if not os.fork():
        os.execv("/bin/tar", ["tar", "-cf", "-", "-C", folder, "."])
    os.wait()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def only(descriptors, state):
    """Keep standard streams, channel and the state's pipe, nothing else."""
    above = [os.dup2(descriptor, 100 + place) for place, descriptor in enumerate(descriptors)]
    for place, descriptor in enumerate(above):
        os.dup2(descriptor, place, inheritable=True)
    os.closerange(len(above), state)
    os.closerange(state + 1, 4096)


def restrict(limits):
    """Set the limits of a job."""
    cpu = limits["cpu_seconds"]
    for name, soft, hard in (
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, limits["address_bytes"], limits["address_bytes"]),
        (resource.RLIMIT_NPROC, limits["processes"], limits["processes"]),
        (resource.RLIMIT_FSIZE, limits["disk_bytes"], limits["disk_bytes"]),
    ):
        resource.setrlimit(name, (soft, hard))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    checked(libc.prctl(DUMPABLE, 1, 0, 0, 0), "dumpable")  # nothing here is ours any more, and /proc/self is its own


def leave(code):
    """End as the interpreter would: threads, exit functions, buffers; without taking everything apart first."""
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        if "atexit" in sys.modules:
            sys.modules["atexit"]._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:
        code = code or 120
    os._exit(code)


def exit_code(error):
    """Return what the interpreter makes of a SystemExit."""
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def execute(job):
    """Replace the candidate by a program."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    name = job["argv"][0]
    folders = [""] if "/" in name else os.environ.get("PATH", "").split(":")
    problem = OSError(2, os.strerror(2))
    for folder in folders:
        try:
            os.execve(os.path.join(folder, name), job["argv"], os.environ)
        except OSError as error:
            problem = error
    os.write(2, b"%s: %s\n" % (os.fsencode(name), problem.strerror.encode()))
    os._exit(127)


def connect():
    """Return the socket to the parent and what it said first."""
    import socket

    control = socket.socket(fileno=int(sys.argv[1]))
    _, (descriptor,) = receive(control)
    return control, load(descriptor)


def prepare(config):
    """Load what most programs import, once; compile the parent's own programs; give up what no job is to have."""
    texts = load_programs(config)
    drop_bounding(config["last_capability"])
    checked(libc.prctl(DUMPABLE, 0, 0, 0, 0), "dumpable")
    checked(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if config["filter"]:
        filter_calls(config["filter"])
    gc.collect()
    gc.freeze()
    return texts


def load_programs(config):
    """Import what most programs import; return the parent's own programs compiled, by key."""
    for name in config["imports"]:
        __import__(name)
    os.environ.clear()
    os.environ.update(config["environment"])
    os.umask(0o022)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 256)):
        resource.setrlimit(name, (most, most))
    return {key: compile(text, "<string>", "exec") for key, text in config["programs"].items()}


def drop_bounding(last_capability):
    """Have no program that is executed from here on gain a capability."""
    for capability in range(last_capability + 1):
        checked(libc.prctl(DROP_BOUNDING, capability, 0, 0, 0), "capability")


def filter_calls(steps):
    """Put this process and all that come after it behind a filter of system calls."""
    program = (ctypes.c_ushort * 8)()  # struct sock_fprog: length, padding, pointer
    held = ctypes.create_string_buffer(steps, len(steps))
    program[0] = len(steps) // 8
    ctypes.c_void_p.from_buffer(program, 8).value = ctypes.addressof(held)
    checked(libc.prctl(SECCOMP, 2, ctypes.byref(program), 0, 0), "seccomp")


def main():
    """Serve; in a candidate, return the code and names to run it with."""
    control, config = connect()
    programs = prepare(config)
    control.send(b"ready")
    return begin(serve(control, config), programs)


def begin(job, programs):
    """Become the job's program; where it is Python's own text, return its code and names."""
    if job["environment"] != os.environ:
        os.environ.clear()
        os.environ.update(job["environment"])
    if job["channel"]:
        os.environ[CHANNEL_VARIABLE] = str(CHANNEL)
    if "python" not in job:
        execute(job)
    sys.argv = list(job["python"])
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    return programs.get(job["program"]) or job["text"], module.__dict__


def run(code, space):
    """Run a candidate's code to its end, which is that of this process."""
    space.update(__builtins__=__builtins__, __annotations__={})
    try:
        exec(code, space)
    except SystemExit as error:
        leave(exit_code(error))
    except BaseException as error:
        sys.excepthook(type(error), error.with_traceback(error.__traceback__.tb_next), error.__traceback__)
        leave(1)
    leave(0)


if __name__ == "__main__":
    run(*main())
