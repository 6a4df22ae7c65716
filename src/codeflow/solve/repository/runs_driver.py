"""Runs inside the sandbox: a fresh copy of a repository, then its tests by pytest. Never imported by the parent.

The job comes as marshalled data on standard input. Files that the parent has put into the working folder stand for
those of the copy; `deleted` paths are left out of it. One JSON line [test id, outcome] per test goes to the channel.
"""
# pyright: basic, reportMissingImports=false

import json
import marshal
import os
import shutil
import sys


def _copy_over(base, deleted):
    gone = set(deleted)
    for folder, names, files in os.walk(base):
        inside = os.path.relpath(folder, base)
        target = os.path.normpath(os.path.join("/work", inside))
        os.makedirs(target, exist_ok=True)
        links = [name for name in names if os.path.islink(os.path.join(folder, name))]
        for name in files + links:
            path = os.path.normpath(os.path.join(inside, name))
            there = os.path.join(target, name)
            if path not in gone and not os.path.lexists(there):
                shutil.copy2(os.path.join(folder, name), there, follow_symlinks=False)


def _reporter():
    channel, write, dumps = int(os.environ.pop("CODEFLOW_CHANNEL")), os.write, json.dumps

    def report(name, outcome):
        write(channel, dumps([name, outcome]).encode() + b"\n")

    return report


def _run(paths, report):
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

    arguments = ["-q", "--tb=line", "--no-header", "-p", "no:cacheprovider", "-o", "addopts=", "--rootdir", "/work"]
    arguments += ["--continue-on-collection-errors", *paths]
    pytest.main(arguments, plugins=[Reporter()])


def _main():
    job = marshal.loads(sys.stdin.buffer.read())
    report = _reporter()
    _copy_over(job["base"], job["deleted"])
    if not job["tests"]:
        return
    roots = [root for root in job["roots"] if os.path.isdir(root)]
    sys.path.append(job["packages"])
    import pytest  # noqa: F401  before anything of the repository can stand in its place

    sys.path[-1:] = [*roots, job["packages"]]
    os.environ["PYTHONPATH"] = os.pathsep.join([*roots, job["packages"]])
    _run(job["tests"], report)


_main()
