from __future__ import annotations

import asyncio
import json

import pytest

from codeflow.core.types import Verdict
from codeflow.sandbox.local import probe
from codeflow.sandbox.policy import Limits
from codeflow.sandbox.result import Result, Status
from codeflow.solve import hidden_tests
from codeflow.solve.hidden_tests import HiddenTests, judge_tests

needs_sandbox = pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works")
LIMITS = Limits(wall_seconds=20, cpu_seconds=10)
CASES = """\
import unittest
from mod import add


class T(unittest.TestCase):
    def test_one(self):
        self.assertEqual(add(1, 2), 3)

    def test_parts(self):
        for n in range(3):
            with self.subTest(n=n):
                self.assertEqual(add(n, 2), n + 2)
"""
FUNCTIONS = """\
import pytest
from mod import add


@pytest.mark.parametrize("n", [1, 2])
def test_many(n):
    assert add(n, 1) == n + 1


def test_fixture(tmp_path, number):
    assert add(2, number) == 9
"""
CONFTEST = "import pytest\n\n\n@pytest.fixture\ndef number():\n    return 7\n"
SUITES = {
    "unittest": HiddenTests("unittest", {"test_mod.py": CASES}, 2, {}),
    "pytest": HiddenTests("pytest", {"test_mod.py": FUNCTIONS}, 3, {"conftest.py": CONFTEST}),
}
GOOD = b"def add(a, b):\n    return a + b\n"


def judged(suite: HiddenTests, **files: bytes) -> Verdict:
    return asyncio.run(judge_tests(suite, {f"{name}.py": data for name, data in files.items()}, LIMITS))[0]


@needs_sandbox
@pytest.mark.parametrize("runner", SUITES)
def test_right_half_right_and_broken(runner):
    suite = SUITES[runner]
    n = suite.n_tests
    assert judged(suite, mod=GOOD) == Verdict(True, 1.0, "passed", "", n, n)
    half = judged(suite, mod=b"def add(a, b):\n    return 3\n")
    assert (half.passed, half.tests_passed, half.fault) == (False, 1, "model")
    broken = judged(suite, mod=b"def add(")
    assert (broken.passed, broken.reward) == (False, 0)


@needs_sandbox
def test_the_candidates_test_files_and_settings_do_not_count():
    easy = (
        b"import unittest\nclass T(unittest.TestCase):\n    def test_one(self): pass\n    def test_parts(self): pass\n"
    )
    verdict = judged(SUITES["unittest"], mod=b"def add(a, b): return 0\n", test_mod=easy)
    assert not verdict.passed
    hooks = b"import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_pyfunc_call(pyfuncitem): return True\n"
    plain = HiddenTests("pytest", {"test_mod.py": "from mod import add\ndef test_it(): assert add(1, 1) == 2\n"}, 1, {})
    assert judged(plain, mod=b"def add(a, b): return 0\n", conftest=hooks).reason == "failed: test_mod.py::test_it"


@needs_sandbox
def test_too_few_and_too_many_tests_fail():
    suite = SUITES["unittest"]
    for n in (1, 3):
        wrong = HiddenTests("unittest", suite.tests, n, {})
        verdict = judged(wrong, mod=GOOD)
        assert not verdict.passed
        assert f"2 of {n} tests" in verdict.reason


def report(*lines: list) -> Result:
    channel = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return Result(Status.OK, 0, 0.1, 0.1, None, b"", b"", channel, False, "fake")


CANARIES = {letter: letter * 12 for letter in "abcdefg"}
FAITHFUL = [[f"test_{CANARIES[c]}", "failed" if c != "g" else "passed"] for c in CANARIES]
TWO = [["m.T.test_one", "passed"], ["m.T.test_parts", "passed"]]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([*FAITHFUL, *TWO], "passed"),
        ([*FAITHFUL[1:], *TWO], "the program ended (ok) after 2 of 2 tests"),
        ([*FAITHFUL, *TWO, TWO[0]], "tampering: a test was reported twice"),
        ([["x.test_gggggggggggg", "failed"], *FAITHFUL[:-1], *TWO], "tampering: a test that must fail passed"),
        ([["test_aaaaaaaaaaaa", "passed"], *FAITHFUL[1:], *TWO], "tampering: a test that must fail passed"),
        ([*FAITHFUL, TWO[0], ["m.T.test_parts", "skipped"]], "failed: m.T.test_parts"),
        ([*FAITHFUL, *TWO, ["only one part"]], "the report is not one"),
    ],
)
def test_reading_of_reports(lines, reason):
    verdict = hidden_tests._verdict(SUITES["unittest"], CANARIES, report(*lines))
    assert verdict.reason.startswith(reason)
    assert verdict.passed is (reason == "passed")
