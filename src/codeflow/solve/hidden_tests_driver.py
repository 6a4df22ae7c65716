"""Runs inside the verifier's sandbox: the task's tests by pytest or unittest. Never imported by the parent.

Its job comes as marshalled data on standard input; it writes one JSON line [test id, outcome] per test to the channel.
The outcomes are "passed", "failed" and "skipped"; a test with an error while it is set up or torn down has failed.
"""
# pyright: basic, reportMissingImports=false

import json
import marshal
import os
import sys


def _reporter():
    channel, write, dumps = int(os.environ.pop("CODEFLOW_CHANNEL")), os.write, json.dumps

    def report(name, outcome):
        write(channel, dumps([name, outcome]).encode() + b"\n")

    return report


def _by_unittest(paths, report):
    import unittest

    class Result(unittest.TestResult):
        def __init__(self):
            super().__init__()
            self.bad, self.left_out = set(), set()

        def addFailure(self, test, err):
            self.bad.add(test.id())

        addError = addFailure

        def addUnexpectedSuccess(self, test):
            self.bad.add(test.id())

        def addSubTest(self, test, subtest, err):
            if err is not None:
                self.bad.add(test.id())

        def addSkip(self, test, reason):
            self.left_out.add(test.id())

        def stopTest(self, test):
            super().stopTest(test)
            name = test.id()
            report(name, "failed" if name in self.bad else "skipped" if name in self.left_out else "passed")

    loader, suite = unittest.TestLoader(), unittest.TestSuite()
    for path in paths:
        suite.addTests(loader.loadTestsFromName(path.removesuffix(".py").replace("/", ".")))
    suite.run(Result())


def _by_pytest(paths, report):
    import pytest

    class Reporter:
        def __init__(self):
            self.outcomes = {}

        def pytest_runtest_logreport(self, report):
            self.outcomes.setdefault(report.nodeid, []).append(report.outcome)

        def pytest_runtest_logfinish(self, nodeid, location):
            seen = self.outcomes.pop(nodeid, [])
            outcome = "failed" if "failed" in seen else "skipped" if "skipped" in seen else "passed"
            report(nodeid, outcome if seen else "failed")

    arguments = ["-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", os.getcwd(), *paths]
    pytest.main(arguments, plugins=[Reporter()])


def _main():
    job = marshal.loads(sys.stdin.buffer.read())
    report = _reporter()
    sys.path[:0] = [os.getcwd(), job["packages"]]
    {"unittest": _by_unittest, "pytest": _by_pytest}[job["runner"]](job["tests"], report)


_main()
