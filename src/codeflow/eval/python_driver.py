"""Runs inside the sandbox, beside the program under test. Never imported by the parent.

The job comes marshalled on standard input, reports go as JSON lines to the channel. No expected value is in a job of
kind `calls` or `stdin`; in kinds `program` and `timed` the benchmark's own tests run beside the program, so a pass is
reported with a token that only this frame knows.
"""
# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false

import builtins
import contextlib
import io
import json
import marshal
import os
import signal
import sys
import time
import types

_REFUSED = (
    *("kill", "system", "putenv", "remove", "removedirs", "rmdir", "fchdir", "setuid", "fork", "forkpty", "killpg"),
    *("rename", "renames", "truncate", "replace", "unlink", "fchmod", "fchown", "chmod", "chown", "chroot", "lchown"),
    *("getcwd", "chdir"),
)


class _TimedOut(BaseException):
    pass


def _on_alarm(number, frame):
    raise _TimedOut


def _limited(seconds, function, *arguments):
    """Call a function; raise _TimedOut when it takes longer."""
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return function(*arguments)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _reason(error):
    try:
        return (type(error).__name__ + ": " + str(error))[:300]
    except BaseException:
        return "error that cannot be shown"


def _tree(value):
    """Return a value as the JSON tree of `solve.plain`; instances of subclasses become those of the plain class."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return ["i", format(int(value), "x")]
    if isinstance(value, float):
        return ["f", float(value).hex()]
    if isinstance(value, complex):
        return ["c", value.real.hex(), value.imag.hex()]
    if isinstance(value, bytes):
        return ["b", value.hex()]
    if isinstance(value, dict):
        return ["d", *(_tree(part) for pair in dict.items(value) for part in pair)]
    for tag, kind in (("l", list), ("t", tuple), ("s", set), ("z", frozenset)):
        if isinstance(value, kind):
            return [tag, *(_tree(item) for item in kind.__iter__(value))]
    raise _NotPlain(type(value).__name__)


class _NotPlain(Exception):
    """A value that cannot leave the sandbox."""


class _Sink(io.StringIO):
    """Swallows what is written, refuses to be read."""

    def read(self, *arguments):
        raise OSError

    readline = readlines = read


def _quiet():
    sys.stdin = sys.stdout = sys.stderr = _Sink()


def _refuse():
    """Take away what official harnesses take away; isolation is not the point, programs that rely on it must fail."""
    for name in _REFUSED:
        setattr(os, name, None)
    for name in ("quit", "help"):
        setattr(builtins, name, None)
    for name in ("ipdb", "joblib", "resource", "psutil", "tkinter"):
        sys.modules[name] = None


def _program(job, report):
    """Run a program with its tests to the end."""
    _quiet()
    _refuse()
    builtins.exit = None
    try:
        _limited(job["seconds"], exec, job["program"], {})
    except _TimedOut:
        report(["time"])
    except BaseException as error:
        report(["error", _reason(error)])
    else:
        report(["passed", job["token"]])


def _loaded(code, seconds):
    module = types.ModuleType("solution")
    _limited(seconds, exec, code, module.__dict__)
    return module


def _calls(job, report):
    """Call a function, or a method of a fresh `Solution`, on each input; stop at the first failure."""
    _quiet()
    _refuse()
    try:
        place = _loaded(job["program"], job["seconds"])
        if job["solution_class"]:
            place = place.Solution()
        function = getattr(place, job["entry_point"])
    except BaseException as error:
        report(["load", _reason(error)])
        return
    for arguments in job["inputs"]:
        try:
            value = _limited(job["seconds"], function, *marshal.loads(arguments))
            report(["value", _tree(value)])
        except _NotPlain as error:
            report(["object", str(error)])
            continue
        except _TimedOut:
            report(["time"])
        except BaseException as error:
            report(["error", _reason(error)])
        else:
            continue
        if job["stop_at_error"]:
            return


class _Bytes:
    """`sys.stdin.buffer` of the official harness: `read` gives all, `readline` always the first line."""

    def __init__(self, text):
        self._data = text.encode()

    def read(self, *arguments):
        return self._data

    def readline(self, *arguments):
        return self._data.split(b"\n")[0] + b"\n"


class _Input(io.StringIO):
    """Standard input of the official harness: read whole, in lines without their ends, or by `input()`."""

    def __init__(self, text):
        super().__init__(text)
        self._text, self._rest = text, iter(text.split("\n"))
        self.buffer = _Bytes(text)

    def read(self, *arguments):
        return self._text

    def readlines(self, *arguments):
        return self._text.split("\n")

    def readline(self, *arguments):
        return next(self._rest)


class _Output(io.StringIO):
    def close(self):
        pass


def _as_function(code, imports):
    """Put a program into a function, its imports before it, and drop a last `if __name__ == '__main__'`."""
    import ast

    tree = ast.parse(code)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.If) and ast.unparse(last.test).strip() == "__name__ == '__main__'":
        tree = ast.parse(ast.unparse(tree.body[:-1]) + "\n" + ast.unparse(last.body))
    outside = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    inside = [node for node in tree.body if node not in outside]
    shell = ast.parse("def wrapped_function():\n    pass")
    shell.body[0].body = inside
    return imports + "\n" + ast.unparse(outside) + "\n" + ast.unparse(shell)


def _run_once(function):
    with contextlib.suppress(SystemExit):
        function()


def _stdin(job, report):
    """Run a program once for each input; report what it prints; stop at the first failure."""
    _refuse()
    builtins.exit = sys.exit
    try:
        function = _loaded(_as_function(job["program"], job["imports"]), job["seconds"]).wrapped_function
    except BaseException as error:
        report(["load", _reason(error)])
        return
    real = sys.stdout
    for text in job["inputs"]:
        sys.stdin, sys.stdout = _Input(text), _Output()
        builtins.open = lambda *arguments, _text=text, **named: io.StringIO(_text)
        try:
            _limited(job["seconds"], _run_once, function)
            line = ["output", sys.stdout.getvalue()]
        except _TimedOut:
            line = ["time"]
        except BaseException as error:
            line = ["error", _reason(error)]
        finally:
            sys.stdout = real
        report(line)
        if line[0] != "output":
            return


def _timed(job, report):
    """Mercury: load a `Solution`, run its cases with the benchmark's own converter and judge, and take the time."""
    _quiet()
    _refuse()
    clock, status = time.perf_counter, "passed"
    space = {}
    exec(job["imports"], space)
    space["print"] = lambda *arguments: None

    def run():
        nonlocal status
        try:
            for code in (job["program"], "solution = Solution()", job["convert"], job["evaluate"]):
                exec(code, space)
        except Exception as error:
            return "failed@load", _reason(error)
        try:
            passed = True
            for given, expected in job["cases"]:
                inputs, wanted = space["convert_offline"]((given, expected))
                outputs = getattr(space["solution"], job["entry_point"])(*inputs)
                passed = bool(space["evaluate_offline"](inputs, outputs, wanted)) and passed
        except Exception as error:
            return "failed@eval", _reason(error)
        return ("passed" if passed else "failed@cases"), ""

    started = clock()
    try:
        status, reason = _limited(job["seconds"], run)
    except _TimedOut:
        status, reason = "timeout", ""
    except BaseException as error:
        status, reason = "failed@error", _reason(error)
    report(["timed", job["token"], status, clock() - started, reason])


def _reporter(descriptor):
    write, dumps = os.write, json.dumps

    def report(line):
        data = memoryview(dumps(line).encode("ascii") + b"\n")
        while data:
            data = data[write(descriptor, data) :]

    return report


def _main():
    report = _reporter(int(os.environ.pop("CODEFLOW_CHANNEL")))
    job = marshal.loads(sys.stdin.buffer.read())
    sys.set_int_max_str_digits(50000)
    {"program": _program, "calls": _calls, "stdin": _stdin, "timed": _timed}[job["kind"]](job, report)


_main()
