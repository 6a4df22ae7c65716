"""Runs inside the sandbox: executes a Python program line by line and reports it. Never imported by the parent.

Arguments: the program's file, how many steps to write down. The channel gets one JSON object: {"lines": {line: [times,
microseconds]}, "executable": [lines], "steps": [[line, function]], "more": were there further steps}. Microseconds are
those between one line event and the next, so a line is charged with what it calls outside the program's own text.
"""
# pyright: basic

import json
import os
import sys
import threading
import time


class Recorder:
    """Counts line events of one file, and their time."""

    def __init__(self, file, most_steps):
        self.file, self.most_steps = file, most_steps
        self.lines, self.steps, self.more = {}, [], False
        self.last, self.since = None, 0

    def trace(self, frame, event, argument):
        if frame.f_code.co_filename != self.file:
            return None
        if event in ("line", "return"):
            self.pass_on(frame if event == "line" else None)
        return self.trace

    def pass_on(self, frame):
        now = time.perf_counter_ns()
        if self.last is not None:
            self.lines[self.last][1] += now - self.since
        self.last = None
        if frame is not None:
            line = self.last = frame.f_lineno
            self.lines.setdefault(line, [0, 0])[0] += 1
            if len(self.steps) < self.most_steps:
                self.steps.append([line, frame.f_code.co_name])
            else:
                self.more = True
        self.since = time.perf_counter_ns()


def executable(code):
    """Return the lines of a program that can run."""
    found, waiting = set(), [code]
    while waiting:
        top = waiting.pop()
        waiting += [part for part in top.co_consts if isinstance(part, type(code))]
        found.update(line for _, _, line in top.co_lines() if line)
    return found


def main():
    """Run the program of the first argument and report."""
    file, most_steps = sys.argv[1], int(sys.argv[2])
    channel = int(os.environ.pop("CODEFLOW_CHANNEL"))
    with open(file, "rb") as opened:
        code = compile(opened.read(), file, "exec")
    lines = sorted(executable(code))
    recorder = Recorder(file, most_steps)
    space = {"__name__": "__main__", "__builtins__": __builtins__, "__file__": file}
    sys.argv = [file]
    threading.settrace(recorder.trace)
    sys.settrace(recorder.trace)
    try:
        exec(code, space)
    finally:
        sys.settrace(None)
        threading.settrace(None)
        counted = {line: [times, spent // 1000] for line, (times, spent) in list(recorder.lines.items())}
        body = {"lines": counted, "executable": lines, "steps": recorder.steps, "more": recorder.more}
        data = json.dumps(body).encode()
        while data:
            data = data[os.write(channel, data) :]


main()
