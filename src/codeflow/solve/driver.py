"""Runs inside the sandbox, in the isolated interpreter, beside the code under test. Never imported by the parent.

Its job comes as marshalled data on standard input (from the trusted side), its report goes as JSON lines to a channel.
It imports only what is built into the interpreter, because a job's start is most of its time.
"""
# pyright: basic, reportMissingImports=false, reportCallIssue=false, reportArgumentType=false

import _signal
import io
import marshal
import os
import sys
from _json import encode_basestring_ascii


def _text(value):
    """Write a plain value as `plain.to_tree` would, as JSON text."""
    kind = type(value)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is str:
        return encode_basestring_ascii(value)
    if kind is int:
        return '["i","' + format(value, "x") + '"]'
    if kind is float:
        return '["f","' + value.hex() + '"]'
    if kind is complex:
        return '["c","' + value.real.hex() + '","' + value.imag.hex() + '"]'
    if kind is bytes:
        return '["b","' + value.hex() + '"]'
    if kind is dict:
        return '["d"' + "".join("," + _text(part) for pair in value.items() for part in pair) + "]"
    for tag, sequence in (("l", list), ("t", tuple), ("s", set), ("z", frozenset)):
        if kind is sequence:
            return '["' + tag + '"' + "".join("," + _text(item) for item in value) + "]"
    raise TypeError(kind.__name__ + " is not a plain value")


def _reason(error):
    try:
        return encode_basestring_ascii((type(error).__name__ + ": " + str(error))[:300])
    except BaseException:
        return '"error that cannot be shown"'


def _calls(job, report):
    """Call the function on each input; report each result as it comes."""
    space = {"__name__": "candidate"}
    try:
        exec(compile(job["program"], "candidate.py", "exec"), space)
        function = space[job["entry_point"]]
    except BaseException as error:
        report('["load",' + _reason(error) + "]")
        return
    for arguments in job["inputs"]:
        try:
            line = '["value",' + _text(function(*marshal.loads(arguments))) + "]"
        except BaseException as error:
            line = '["error",' + _reason(error) + "]"
        report(line)


_DUMPABLE, _SUBREAPER = 4, 36  # options of prctl(2)
_WRITABLE = ("/work", "/tmp", "/dev/shm")


def _candidates(job, report):
    """Judge several candidates one after the other, each in a process of its own, and report what each reported.

    This process keeps the channel: it cannot be traced or looked into, adopts what a candidate leaves running, ends it,
    and removes files left behind, before the next one starts. Whatever goes wrong here ends the report: the parent then
    judges those without one alone.
    """
    import ctypes

    control = ctypes.CDLL(None).prctl
    if control(_DUMPABLE, 0, 0, 0, 0) or control(_SUBREAPER, 1, 0, 0, 0):
        return
    for number, candidate in enumerate(job["candidates"]):
        how, data = _apart(candidate, job)
        if not _left_alone():
            return
        for folder in _WRITABLE:
            _empty(folder)
        report(
            '["candidate",' + str(number) + ',"' + how + '",' + encode_basestring_ascii(data.decode("latin-1")) + "]"
        )


def _apart(candidate, job):
    """Run one candidate in a child; return how it ended and what it reported."""
    import resource

    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(int(job["channel"]))
            nothing = os.open("/dev/null", os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(nothing, descriptor)
            seconds = job["cpu_seconds"]
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
            _calls(candidate, _reporter(writer))
        finally:
            os._exit(0)
    os.close(writer)
    data, ended = _drain(reader, child, job["wall_seconds"], job["output_bytes"])
    os.close(reader)
    if ended != "exit":
        os.kill(child, _signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if ended == "exit" and os.WIFSIGNALED(status):
        ended = "time" if os.WTERMSIG(status) == _signal.SIGXCPU else "crash"
    return ended, data


def _drain(reader, child, seconds, most):
    """Read until the child has ended, the time is up or too much was written."""
    import select
    import time

    os.set_blocking(reader, False)
    handle, deadline, data = os.pidfd_open(child), time.monotonic() + seconds, b""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(handle, select.POLLIN)
    try:
        while True:
            left = deadline - time.monotonic()
            ready = [descriptor for descriptor, _ in poll.poll(max(left, 0) * 1000)]
            if not ready:
                return data, "late"
            try:
                part = os.read(reader, 65536)
            except BlockingIOError:
                part = b""
            if not part and reader in ready:  # every writer is gone: only the child's end is awaited
                poll.unregister(reader)
            data += part
            if len(data) > most:
                return data[:most], "output"
            if handle in ready and not part:
                return data, "exit"
            if left <= 0:
                return data, "late"
    finally:
        os.close(handle)


def _left_alone():
    """End and reap everything that a candidate left running; say whether nothing is left."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return True
        with open("/proc/self/task/" + str(os.getpid()) + "/children") as file:
            children = file.read().split()
        for child in children:
            os.kill(int(child), _signal.SIGKILL)
        if children:
            os.waitpid(int(children[0]), 0)


def _empty(folder):
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.path, 0o700)
            _empty(entry.path)
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)


class _WriteOnly(io.StringIO):
    """Standard streams of the official HumanEval harness: swallow what is written, refuse to be read."""

    def read(self, *arguments):
        raise OSError

    readline = readlines = read

    def readable(self):
        return False


_REFUSED = (
    *("kill", "system", "putenv", "remove", "removedirs", "rmdir", "fchdir", "setuid", "fork", "forkpty", "killpg"),
    *("rename", "renames", "truncate", "replace", "unlink", "fchmod", "fchown", "chmod", "chown", "chroot", "lchown"),
    *("getcwd", "chdir"),
)


class _TimedOut(Exception):
    pass


def _on_alarm(number, frame):
    raise _TimedOut("Timed out!")


def _check(job, report):
    """Run a check program by the official HumanEval rule: it passes when it ends without an exception, in time."""
    import builtins

    sys.stdin = sys.stdout = sys.stderr = _WriteOnly()
    for name in ("exit", "quit", "help"):
        setattr(builtins, name, None)
    for name in _REFUSED:
        setattr(os, name, None)
    for name in ("ipdb", "joblib", "resource", "psutil", "tkinter"):
        sys.modules[name] = None
    _signal.signal(_signal.SIGALRM, _on_alarm)
    try:
        _signal.setitimer(_signal.ITIMER_REAL, job["timeout_seconds"])
        try:
            exec(job["program"], {})
        finally:
            _signal.setitimer(_signal.ITIMER_REAL, 0)
        line = '["passed","' + job["token"] + '"]'
    except _TimedOut:
        line = '["timed out"]'
    except BaseException as error:
        line = '["failed",' + _reason(error) + "]"
    report(line)


def _reporter(descriptor):
    write = os.write

    def report(line):
        data = memoryview(line.encode("ascii") + b"\n")
        while data:
            data = data[write(descriptor, data) :]

    return report


def _main():
    channel = int(os.environ.pop("CODEFLOW_CHANNEL"))
    job = marshal.loads(sys.stdin.buffer.read())
    job["channel"] = channel
    {"calls": _calls, "check": _check, "candidates": _candidates}[job["kind"]](job, _reporter(channel))


_main()
