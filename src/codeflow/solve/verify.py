"""Verdicts on programs, by running them in a sandbox.

`python_calls`: the function is called inside on given inputs; its results leave as plain values with exact types and
are compared here. Expected values never enter the sandbox, so objects that compare equal to everything, early exits and
patched interpreters gain nothing. Each answer is judged in namespaces of its own.

`humaneval`: the official check program runs inside, because its tests are code. A pass is a random token, reported on
a descriptor of its own after `check()` returned; an exit code proves nothing. Residual risk: the token is in the memory
of the process that runs the candidate, so one written against this harness (it walks frames, or reads its own standard
input) can pass; and objects with a lying `__eq__` pass, as they do by the official rule.

`hidden_tests`: test files for pytest or unittest, in a sandbox of its own (`hidden_tests.py`).

An execution that fails for reasons of the surroundings is tried again, then marked as an infrastructure fault.
"""

from __future__ import annotations

import functools
import json
import marshal
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codeflow.core.types import Task, Verdict
from codeflow.sandbox.fork_server import compile_beforehand
from codeflow.sandbox.policy import Limits
from codeflow.sandbox.result import Result, Status
from codeflow.sandbox.sandbox import Sandbox
from codeflow.solve.hidden_tests import HiddenTests, judge_tests
from codeflow.solve.plain import canonical, from_tree, to_tree

_DRIVER = Path(__file__).with_name("driver.py").read_text(encoding="utf-8")
_ATTEMPTS = 3
_START_SECONDS = 2.0  # beyond the program's own time, for the interpreter to come up
_STARVED_SHARE = 0.5  # of its time on a processor: with less, the machine was at fault, or the program slept
_PATIENCE = 4.0


compile_beforehand(_DRIVER)


@dataclass(frozen=True, slots=True)
class Checked:
    """A verdict with the execution that it rests on."""

    verdict: Verdict
    result: Result


def python_calls_data(entry_point: str, inputs: list[tuple[Any, ...]], expected: list[Any]) -> str:
    """Return `Task.data` of the verifier `python_calls`. Raises TypeError for values that are not plain."""
    assert len(inputs) == len(expected), "one expected value for each call"
    trees = {"inputs": [to_tree(item) for item in inputs], "expected": [to_tree(item) for item in expected]}
    return json.dumps({"entry_point": entry_point, **trees})


def humaneval_data(prompt: str, test: str, entry_point: str, timeout_seconds: float = 3.0) -> str:
    """Return `Task.data` of the verifier `humaneval`; the official time limit is 3 s."""
    fields = {"prompt": prompt, "test": test, "entry_point": entry_point, "timeout_seconds": timeout_seconds}
    return json.dumps(fields)


async def verify(task: Task, answer: str, sandbox: Sandbox, limits: Limits | None = None) -> Checked:
    """Judge `answer` to `task`: a whole program for `python_calls`, a completion of the prompt for `humaneval`.

    Raises KeyError for an unknown verifier.
    """
    return await VERIFIERS[task.verifier](task.data, answer, sandbox, limits or Limits())


@dataclass(frozen=True, slots=True)
class _Calls:
    """What judging calls needs of a task: inputs for the driver, and what stays here."""

    entry_point: str
    inputs: tuple[bytes, ...]
    expected: tuple[str, ...]  # canonical texts
    lines: tuple[bytes, ...]  # what the driver writes for the expected values, if it meets sets and the like in order


@functools.lru_cache(maxsize=1024)
def _calls(data: str) -> _Calls:
    fields = json.loads(data)
    texts = [json.dumps(["value", tree], separators=(",", ":")).encode() for tree in fields["expected"]]
    return _Calls(
        fields["entry_point"],
        tuple(marshal.dumps(from_tree(tree), 4) for tree in fields["inputs"]),
        tuple(canonical(tree) for tree in fields["expected"]),
        tuple(texts),
    )


async def _python_calls(data: str, program: str, sandbox: Sandbox, limits: Limits) -> Checked:
    calls = _calls(data)
    job = {"kind": "calls", "program": program, "entry_point": calls.entry_point, "inputs": calls.inputs}
    result = await run_driver(sandbox, job, limits)
    if result.status is Status.TIME and result.cpu_seconds < min(limits.wall_seconds, limits.cpu_seconds) / 2:
        result = await run_driver(sandbox, job, limits)  # it slept, or it had no processor
    if result.status is Status.INFRASTRUCTURE:
        return Checked(_infrastructure(result, len(calls.expected)), result)
    return Checked(_calls_verdict(calls, result.channel, str(result.status)), result)


def _calls_verdict(calls: _Calls, channel: bytes, ended: str) -> Verdict:
    """Compare what a program reported with the expected values' texts. `ended` says how it came to an end."""
    lines, expected = channel.splitlines(), calls.expected
    right = [
        line == text or _holds(_line(line), value)
        for line, text, value in zip(lines, calls.lines, expected, strict=False)
    ]
    passed = sum(right)
    if passed == len(expected) and len(lines) == len(expected):
        return Verdict(True, 1.0, "passed", "", passed, passed)
    reason = _first_failure(lines, right, len(expected), ended)
    return Verdict(False, passed / max(len(expected), 1), reason, "model", passed, len(expected))


async def _humaneval(text: str, completion: str, sandbox: Sandbox, limits: Limits) -> Checked:
    data = json.loads(text)
    token = secrets.token_hex(16)
    program = f"{data['prompt']}{completion}\n{data['test']}\ncheck({data['entry_point']})"
    job = {"kind": "check", "program": program, "token": token, "timeout_seconds": data["timeout_seconds"]}
    seconds = data["timeout_seconds"] + _START_SECONDS
    limits = replace(limits, wall_seconds=seconds, cpu_seconds=seconds)
    result = await run_driver(sandbox, job, limits)
    if result.status is not Status.INFRASTRUCTURE and _starved(result, data["timeout_seconds"]):
        patient = replace(limits, wall_seconds=seconds * _PATIENCE)
        result = await run_driver(sandbox, {**job, "timeout_seconds": data["timeout_seconds"] * _PATIENCE}, patient)
    if result.status is Status.INFRASTRUCTURE:
        return Checked(_infrastructure(result, 1), result)
    lines = _lines(result.channel)
    if lines == [["passed", token]]:
        return Checked(Verdict(True, 1.0, "passed", "", 1, 1), result)
    return Checked(Verdict(False, 0.0, _check_failure(lines, result), "model", 0, 1), result)


def _starved(result: Result, seconds: float) -> bool:
    timed_out = result.status is Status.TIME or _lines(result.channel) == [["timed out"]]
    return timed_out and result.cpu_seconds < seconds * _STARVED_SHARE


async def _hidden_tests(text: str, module: str, sandbox: Sandbox, limits: Limits) -> Checked:
    data = json.loads(text)
    suite = HiddenTests(data["runner"], data["tests"], data["n_tests"], data["files"])
    return Checked(*await judge_tests(suite, {data["path"]: module.encode("utf-8", "replace")}, limits))


VERIFIERS: dict[str, Callable[[str, str, Sandbox, Limits], Awaitable[Checked]]] = {
    "python_calls": _python_calls,
    "humaneval": _humaneval,
    "hidden_tests": _hidden_tests,
}


async def run_driver(sandbox: Sandbox, job: dict[str, Any], limits: Limits) -> Result:
    """Run a job by the driver inside. Infrastructure faults are tried again."""
    stdin = marshal.dumps(job, 4)
    attempt = 1
    while True:
        result = await sandbox.exec([*sandbox.python, "-c", _DRIVER], stdin=stdin, limits=limits, channel=True)
        if result.status is not Status.INFRASTRUCTURE or attempt == _ATTEMPTS:
            return result
        attempt += 1


def _lines(channel: bytes) -> list[Any]:
    """Return the JSON lines of a report; what is not JSON becomes None and can match nothing."""
    return [_line(line) for line in channel.splitlines()]


def _line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _holds(line: Any, expected: str) -> bool:
    if not isinstance(line, list) or len(line) != 2 or line[0] != "value":
        return False
    try:
        return canonical(line[1]) == expected
    except (ValueError, OverflowError, RecursionError):
        return False


def _first_failure(lines: Sequence[bytes], right: Sequence[bool], n_expected: int, ended: str) -> str:
    if False in right:
        number = right.index(False)
        line = _line(lines[number])
        shown = line[1] if isinstance(line, list) and len(line) == 2 and line[0] in ("error", "load") else None
        return f"call {number + 1}: {shown}" if isinstance(shown, str) else f"call {number + 1}: wrong value"
    if len(lines) > n_expected:
        return "more results than calls"
    return _ended(ended, f"after {len(lines)} of {n_expected} calls")


def _check_failure(lines: list[Any], result: Result) -> str:
    for line in lines:
        if isinstance(line, list) and line and line[0] in ("failed", "timed out"):
            return ": ".join(str(part) for part in line)
    return _ended(str(result.status), "before its tests did")


def _ended(how: str, when: str) -> str:
    return f"the program ended ({how}) {when}"


def _infrastructure(result: Result, n_tests: int) -> Verdict:
    return Verdict(False, 0.0, result.detail, "infrastructure", 0, n_tests)
