"""Verdicts by test files that must run beside the candidate: pytest or unittest, in a sandbox of the verifier's own.

The original test files are written over whatever the candidate left; files that steer a runner (conftest.py, pytest.ini
and the like) count only when they are the task's. A pass needs exactly the expected number of tests, each reported once
and passed. Each run also holds **canaries**, tests with random names in the same files: some must pass, others must
fail, by a plain assertion, each common assertion method, an exception. A candidate that patches pytest, unittest,
`assert` methods or the reporting turns a canary as well, and the verdict is "tampering".

Residual risk: candidate and tests share a process, so a program written against this very harness, which finds the
canaries by looking through loaded modules and writes a whole forged report, can pass. Objects with a lying `__eq__`
pass where a test compares with `==`. Where a task allows it, `python_calls` has neither weakness.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import marshal
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from codeflow.core.errors import UserError
from codeflow.core.types import Verdict
from codeflow.sandbox.local import open_sandbox
from codeflow.sandbox.policy import Limits, Policy
from codeflow.sandbox.result import Result, Status

_DRIVER = Path(__file__).with_name("hidden_tests_driver.py").read_text(encoding="utf-8")
_PACKAGES = "/packages"
_PYTEST_NEEDS = ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments")
_STEERING = ("conftest.py", "pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml", "sitecustomize.py")
_ATTEMPTS = 3
_UNITTEST_CANARIES = """

import unittest as _unittest


class {name}(_unittest.TestCase):
    def test_{a}(self): self.assertEqual(1, 2)
    def test_{b}(self): self.assertTrue(0)
    def test_{c}(self): self.assertRaises(ValueError, int)
    def test_{d}(self): assert [1] == [2]
    def test_{e}(self): raise KeyError(1)
    def test_{f}(self): self.assertIn(1, ())
    def test_{g}(self): self.assertEqual([1], [1])
"""
PYTEST_CANARIES = """

import pytest as _pytest


def test_{a}(): assert 1 == 2
def test_{b}(): assert not [1]
def test_{c}():
    with _pytest.raises(ValueError): int()
def test_{d}(): _pytest.fail("no")
def test_{e}(): raise KeyError(1)
def test_{f}(): assert 1.0 == _pytest.approx(2.0)
def test_{g}(): assert [1] == [1]
"""
FAILING_CANARIES = "abcdef"  # g passes


@dataclass(frozen=True, slots=True)
class HiddenTests:
    """Test files by path, support files of the task by path, and how many tests there are."""

    runner: Literal["pytest", "unittest"]
    tests: Mapping[str, str]
    n_tests: int
    files: Mapping[str, str]


def hidden_tests_data(suite: HiddenTests, path: str) -> str:
    """Return `Task.data` of the verifier `hidden_tests`; the answer is the text of the module at `path`."""
    fields = {"runner": suite.runner, "tests": dict(suite.tests), "n_tests": suite.n_tests, "files": dict(suite.files)}
    return json.dumps({**fields, "path": path})


async def judge_tests(
    suite: HiddenTests, candidate: Mapping[str, bytes], limits: Limits, policy: Policy | None = None
) -> tuple[Verdict, Result]:
    """Run the tests on the candidate's files in a fresh sandbox; the reward is the share of tests passed.

    `policy` makes further packages readable under `/packages`. Raises UserError where pytest is needed and missing.
    """
    policy = policy or Policy()
    if suite.runner == "pytest":
        policy = replace(policy, readable=(*policy.readable, *pytest_packages()))
    canaries = {letter: secrets.token_hex(6) for letter in "abcdefg"}
    files = _files(suite, candidate, canaries)
    job = {"runner": suite.runner, "tests": sorted(suite.tests), "packages": _PACKAGES}
    attempt = 1
    while True:
        async with open_sandbox(policy) as sandbox:
            for path, data in files.items():
                await sandbox.write(path, data)
            argv = [*sandbox.python, "-c", _DRIVER]
            result = await sandbox.exec(argv, stdin=marshal.dumps(job, 4), limits=limits, channel=True)
        if result.status is not Status.INFRASTRUCTURE:
            return _verdict(suite, canaries, result), result
        if attempt == _ATTEMPTS:
            return Verdict(False, 0.0, result.detail, "infrastructure", 0, suite.n_tests), result
        attempt += 1


@functools.cache
def pytest_packages() -> tuple[tuple[str, str], ...]:
    """Return what of this interpreter's packages pytest needs, to be made readable. Raises UserError when missing."""
    found: list[tuple[str, str]] = []
    for name in _PYTEST_NEEDS:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            raise UserError("tests of this task run with pytest, which is not installed; pip install pytest")
        origin = Path(spec.origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        found.append((str(source), f"{_PACKAGES}/{source.name}"))
    return tuple(found)


def _files(suite: HiddenTests, candidate: Mapping[str, bytes], canaries: Mapping[str, str]) -> dict[str, bytes]:
    files = {path: data for path, data in candidate.items() if Path(path).name not in _STEERING}
    files |= {path: text.encode() for path, text in suite.files.items()}
    template = PYTEST_CANARIES if suite.runner == "pytest" else _UNITTEST_CANARIES
    for path, text in suite.tests.items():
        planted = template.format(name=f"Test_{canaries['a']}", **canaries) if path == min(suite.tests) else ""
        files[path] = (text + planted).encode()
    return files


def _verdict(suite: HiddenTests, canaries: Mapping[str, str], result: Result) -> Verdict:
    """Read the report: one JSON line [test id, outcome] per test."""
    try:
        lines: list[Any] = [json.loads(line) for line in result.channel.splitlines()]
        outcomes = [(str(name), str(outcome)) for name, outcome in lines]
    except (ValueError, TypeError):
        return _failed(suite, 0, "the report is not one")
    letters = {f"test_{word}": letter for letter, word in canaries.items()}
    seen = Counter(name for name, _ in outcomes)
    found: dict[str, str] = {}
    passed: list[str] = []
    n_other = 0
    for name, outcome in outcomes:
        letter = letters.get(name.replace("::", ".").rpartition(".")[2])
        if letter:
            found[letter] = outcome
        else:
            n_other += 1
            passed += [name] if outcome == "passed" else []
    if max(seen.values(), default=0) > 1:
        return _failed(suite, 0, "tampering: a test was reported twice")
    if any(found[letter] != ("failed" if letter in FAILING_CANARIES else "passed") for letter in found):
        return _failed(suite, 0, "tampering: a test that must fail passed, or the other way round")
    if set(found) != set(canaries) or n_other != suite.n_tests:
        said = result.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = f"the program ended ({result.status}) after {n_other} of {suite.n_tests} tests"
        return _failed(suite, min(len(passed), suite.n_tests), f"{reason}: {said[-1]}" if said else reason)
    if len(passed) == suite.n_tests:
        return Verdict(True, 1.0, "passed", "", len(passed), suite.n_tests)
    first = next(name for name, outcome in outcomes if outcome != "passed" and name.rpartition(".")[2] not in letters)
    return _failed(suite, len(passed), f"failed: {first}")


def _failed(suite: HiddenTests, n_passed: int, reason: str) -> Verdict:
    return Verdict(False, n_passed / max(suite.n_tests, 1), reason[:300], "model", n_passed, suite.n_tests)
