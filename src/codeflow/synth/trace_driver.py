"""Runs inside the sandbox: executes programs step by step and reports each step. Never imported by the parent.

Its job comes as marshalled data on standard input: {"programs": [(source, call, watched)], "most_steps",
"most_characters"}; `watched` maps a line to the names that it binds. One JSON line per program goes to the channel:
{"steps": [[line, {name: value}, next line or null, printed texts]], "value", "printed"} or {"reason"}.
"""
# pyright: basic

import json
import marshal
import os
import sys

FILE = "program"


class _Refused(BaseException):
    pass


class _Recorder:
    """Follows the frames of one program; a step is written when the next line of its frame begins."""

    def __init__(self, watched, most_steps, most_characters):
        self.watched, self.most_steps, self.most_characters = watched, most_steps, most_characters
        self.steps, self.printed, self.open = [], [], {}

    def print(self, *values):
        self.printed.append(self.show(" ".join(map(str, values)), plain=True))

    def show(self, value, plain=False):
        text = value if plain else repr(value)
        if len(text) > self.most_characters:
            raise _Refused("value too long")
        return text

    def names(self, frame):
        return {
            name: self.show(value)
            for name, value in frame.f_locals.items()
            if not name.startswith("__") and not callable(value)
        }

    def trace(self, frame, event, argument):
        code = frame.f_code
        if code.co_filename != FILE or (code.co_name.startswith("<") and code.co_name != "<module>"):
            return None
        if event == "call":
            self.open[frame] = (None, self.names(frame), len(self.printed))
        elif event == "line":
            self.close(frame, frame.f_lineno)
            self.open[frame] = (frame.f_lineno, self.names(frame), len(self.printed))
        elif event == "return":
            self.close(frame, None, argument)
            del self.open[frame]
        return self.trace

    def close(self, frame, following, value=None):
        line, before, n_printed = self.open[frame]
        if line is None:
            return
        if len(self.steps) == self.most_steps:
            raise _Refused("too many steps")
        after = self.names(frame)
        bound = self.watched.get(line, ())
        changes = {name: text for name, text in after.items() if name in bound or before.get(name) != text}
        if following is None and frame.f_code.co_name != "<module>":
            changes = {"": self.show(value)}
        self.steps.append([line, changes, following, self.printed[n_printed:]])


def _run(source, call, watched, most_steps, most_characters):
    recorder = _Recorder(watched, most_steps, most_characters)
    space = {"__name__": FILE, "print": recorder.print}
    try:
        program = compile(source, FILE, "exec")
        if call:
            exec(program, space)
            program = compile(call, "call", "eval")
        sys.settrace(recorder.trace)
        try:
            value = eval(program, space)
        finally:
            sys.settrace(None)
        return {"steps": recorder.steps, "value": recorder.show(value), "printed": recorder.printed}
    except _Refused as refusal:
        return {"reason": str(refusal)}
    except Exception as error:
        return {"reason": "raises " + type(error).__name__}


def _main():
    job = marshal.loads(sys.stdin.buffer.read())
    with os.fdopen(int(os.environ.pop("CODEFLOW_CHANNEL")), "w") as channel:
        for source, call, watched in job["programs"]:
            found = _run(source, call, watched, job["most_steps"], job["most_characters"])
            channel.write(json.dumps(found) + "\n")


_main()
