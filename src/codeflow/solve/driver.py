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
    {"calls": _calls, "check": _check}[job["kind"]](job, _reporter(channel))


_main()
