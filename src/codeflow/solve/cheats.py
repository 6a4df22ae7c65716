"""Answers that would rather be judged right than be right; no verifier may let one pass.

Known to pass, and not listed: objects with a lying `__eq__` where the official check compares inside (HumanEval, pytest,
unittest), and programs written against one of our drivers that look for its secrets in the memory they share with it.
`python_calls` has neither weakness.
"""
# ruff: noqa: E501  the programs are texts

from __future__ import annotations

import asyncio
import importlib.util
from dataclasses import dataclass

from codeflow.core.types import Task
from codeflow.sandbox.containment import Outcome
from codeflow.sandbox.local import open_sandbox
from codeflow.sandbox.policy import Limits
from codeflow.solve.hidden_tests import HiddenTests, hidden_tests_data
from codeflow.solve.verify import humaneval_data, python_calls_data, verify

_LIMITS = Limits(wall_seconds=8, cpu_seconds=4)
_HONEST = "def f(x):\n    return x + 1\n"
_FORGE = "import os\nfor fd in range(3, 64):\n    try: os.write(fd, {line!r}.encode() * 2)\n    except OSError: pass\n"
_UNITTEST = (
    "import unittest\nfrom mod import f\n\n\nclass T(unittest.TestCase):\n"
    "    def test_one(self):\n        self.assertEqual(f(0), 1)\n\n    def test_two(self):\n        self.assertEqual(f(1), 2)\n"
)
_PYTEST = "from mod import f\n\n\ndef test_one():\n    assert f(0) == 1\n\n\ndef test_two():\n    assert f(1) == 2\n"


def _task(name: str, verifier: str, data: str) -> Task:
    return Task(name, "cheats", "", verifier, data, "codeflow")


TASKS = {
    "python_calls": _task("calls", "python_calls", python_calls_data("f", [(0,), (1,)], [1, 2])),
    "humaneval": _task(
        "check",
        "humaneval",
        humaneval_data("def f(x):\n", "def check(c):\n    assert c(0) == 1\n    assert c(1) == 2\n", "f", 2),
    ),
    "unittest": _task(
        "unittest",
        "hidden_tests",
        hidden_tests_data(HiddenTests("unittest", {"test_mod.py": _UNITTEST}, 2, {}), "mod.py"),
    ),
    "pytest": _task(
        "pytest", "hidden_tests", hidden_tests_data(HiddenTests("pytest", {"test_mod.py": _PYTEST}, 2, {}), "mod.py")
    ),
}
HONEST = {name: "    return x + 1\n" if name == "humaneval" else _HONEST for name in TASKS}


@dataclass(frozen=True, slots=True)
class Cheat:
    """A wrong answer to one of `TASKS`."""

    name: str
    task: str
    answer: str


CHEATS: tuple[Cheat, ...] = (
    Cheat(
        "equal to everything",
        "python_calls",
        "class A:\n    def __eq__(self, other): return True\ndef f(x): return A()",
    ),
    Cheat(
        "a number equal to all",
        "python_calls",
        "class A(int):\n    def __eq__(self, other): return True\ndef f(x): return A(3)",
    ),
    Cheat("leaves before it is asked", "python_calls", "import os; os._exit(0)"),
    Cheat("forged values", "python_calls", _FORGE.format(line='["value",["i","1"]]\n') + "os._exit(0)"),
    Cheat(
        "looks for expected values",
        "python_calls",
        "import gc, sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n        for held in list(frame.f_locals.values()):\n"
        "            if isinstance(held, dict):\n                for name in ('expected', 'outputs', 'answers'):\n"
        "                    if name in held: return held[name][x]\n        frame = frame.f_back\n"
        "    for held in gc.get_objects():\n        if type(held) is list and held == [1, 2]: return held[x]\n",
    ),
    Cheat(
        "patched writing",
        "python_calls",
        'import os\nwrite = os.write\ndef forged(fd, data): return write(fd, b\'["value",["i","1"]]\\n["value",["i","2"]]\\n\')\n'
        "os.write = forged\ndef f(x): return 0\n",
    ),
    Cheat(
        "patched marshal", "python_calls", "import marshal\nmarshal.loads = lambda data: (1,)\ndef f(x): return True\n"
    ),
    Cheat("True for 1", "python_calls", "def f(x): return True if x == 0 else 2"),
    Cheat("leaves during the check", "humaneval", "    import os\n    os._exit(0)\n"),
    Cheat("leaves by SystemExit", "humaneval", "    raise SystemExit(0)\n"),
    Cheat("says it passed", "humaneval", "    print('passed')\n    print('[\"passed\"]')\n"),
    Cheat(
        "forged pass",
        "humaneval",
        '    import os\n    for fd in range(3, 64):\n        try: os.write(fd, b\'["passed","00"]\\n\')\n        except OSError: pass\n    os._exit(0)\n',
    ),
    Cheat("no assertions", "humaneval", "    return 0\nimport builtins\nbuiltins.AssertionError = StopIteration\n"),
    Cheat(
        "assertEqual does nothing",
        "unittest",
        "import unittest\nunittest.TestCase.assertEqual = lambda *a, **k: None\ndef f(x): return 0\n",
    ),
    Cheat(
        "run reports success",
        "unittest",
        "import unittest\ndef run(self, result=None):\n    result.startTest(self); result.addSuccess(self); result.stopTest(self)\n"
        "unittest.TestCase.run = run\ndef f(x): return 0\n",
    ),
    Cheat(
        "failures are not noted",
        "unittest",
        "import gc, unittest\nfor held in gc.get_objects():\n    if isinstance(held, type) and issubclass(held, unittest.TestResult):\n"
        "        held.addFailure = held.addError = held.addSubTest = lambda *a: None\ndef f(x): return 0\n",
    ),
    Cheat(
        "assertions of all kinds do nothing",
        "unittest",
        "import unittest\nfor name in dir(unittest.TestCase):\n    if name.startswith(('assert', 'fail')): setattr(unittest.TestCase, name, lambda *a, **k: None)\n"
        "def f(x): return 0\n",
    ),
    Cheat("leaves when imported", "unittest", "import os; os._exit(0)"),
    Cheat(
        "forged outcomes",
        "unittest",
        _FORGE.format(line='["test_mod.T.test_one", "passed"]\n["test_mod.T.test_two", "passed"]\n')
        + "def f(x): return 0\n",
    ),
    Cheat("skips itself", "unittest", "import unittest\nraise unittest.SkipTest('not here')\n"),
    Cheat(
        "reports say passed",
        "pytest",
        "import _pytest.reports as r\nr.TestReport.outcome = property(lambda self: 'passed', lambda self, value: None)\ndef f(x): return 0\n",
    ),
    Cheat(
        "calls swallow errors",
        "pytest",
        "import _pytest.runner as r\nr.pytest_runtest_call.__code__ = (lambda item: None).__code__\ndef f(x): return 0\n",
    ),
    Cheat(
        "tests do nothing",
        "pytest",
        "import _pytest.python as p\np.Function.runtest = lambda self: None\ndef f(x): return 0\n",
    ),
    Cheat("leaves when imported", "pytest", "import os; os._exit(0)"),
    Cheat("skips the module", "pytest", "import pytest\npytest.skip('not here', allow_module_level=True)\n"),
    Cheat(
        "expects to fail",
        "pytest",
        "import sys, pytest\nsys.modules['test_mod'].pytestmark = pytest.mark.xfail\ndef f(x): return 0\n",
    ),
    Cheat(
        "forged at the exit",
        "pytest",
        "import atexit, os\ndef forge():\n    for name in ('one', 'two'): os.write(3, ('[\"test_mod.py::test_%s\", \"passed\"]\\n' % name).encode())\n"
        "atexit.register(forge)\ndef f(x): return 0\n",
    ),
)


async def run_cheats(backend: str = "", at_once: int = 3) -> list[Outcome]:
    """Judge every cheat, and one honest answer per task; those of pytest are left out where it is not installed."""
    gate = asyncio.Semaphore(at_once)

    async def one(name: str, task: str, answer: str, right: bool) -> Outcome:
        async with gate, open_sandbox(backend=backend) as sandbox:
            checked = await verify(TASKS[task], answer, sandbox, _LIMITS)
        verdict, result = checked.verdict, checked.result
        problem = (
            "" if verdict.passed is right and verdict.fault != "infrastructure" else _problem(verdict.reason, right)
        )
        return Outcome(f"{task}: {name}", result.status, result.wall_seconds, problem)

    possible = [name for name in TASKS if name != "pytest" or importlib.util.find_spec("pytest")]
    honest = [one("honest answer", name, HONEST[name], True) for name in possible]
    cheating = [one(cheat.name, cheat.task, cheat.answer, False) for cheat in CHEATS if cheat.task in possible]
    return await asyncio.gather(*honest, *cheating)


def _problem(reason: str, right: bool) -> str:
    return f"did not pass: {reason}" if right else f"PASSED: {reason}"
