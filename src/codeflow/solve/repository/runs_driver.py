"""Runs inside the sandbox: a fresh copy of a repository, then its tests by pytest, or a command of an agent.

Never imported by the parent. The job comes as marshalled data on standard input. Files that the parent has put into the
working folder stand for those of the copy; `deleted` paths are left out of it. Tests: one JSON line [test id, outcome]
per test goes to the channel. A command: a JSON line (exit code or null, output, deleted paths), then a tar archive of
the files that differ from the repository's.
"""
# pyright: basic, reportMissingImports=false

import contextlib
import filecmp
import io
import json
import marshal
import os
import shutil
import signal
import subprocess
import sys
import tarfile


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


_PASSED_BY = {".git", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"}


def _command(job):
    """Run a command; what it writes is kept in a file, so that no amount of it fills the memory."""
    with open("/tmp/.output", "w+b") as output:
        environment = {**os.environ, **job["environment"]}
        environment.pop("CODEFLOW_CHANNEL", None)
        process = subprocess.Popen(
            job["argv"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/work",
            env=environment,
            start_new_session=True,
        )
        try:
            code = process.wait(job["seconds"])
        except subprocess.TimeoutExpired:
            code = None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        size, most = output.seek(0, os.SEEK_END), job["output_bytes"]
        output.seek(0)
        if size <= most:
            return code, output.read()
        head = output.read(most // 2)
        output.seek(size - most // 2)
        return code, head + b"\n[... %d bytes left out ...]\n" % (size - most) + output.read()


def _same(path, origin):
    try:
        here, there = os.lstat(path), os.lstat(origin)
    except FileNotFoundError:
        return False
    if here.st_size == there.st_size and here.st_mtime_ns == there.st_mtime_ns:
        return True
    return here.st_size == there.st_size and filecmp.cmp(path, origin, shallow=False)


def _changed(base):
    """Return a tar archive of the regular files in /work that differ from `base`, and the paths that are gone."""
    archive, seen = io.BytesIO(), set()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for folder, names, files in os.walk("/work"):
            names[:] = sorted(name for name in names if name not in _PASSED_BY)
            for name in sorted(files):
                path = os.path.join(folder, name)
                inside = os.path.relpath(path, "/work")
                seen.add(inside)
                if os.path.islink(path) or not os.path.isfile(path):
                    continue
                if not _same(path, os.path.join(base, inside)):
                    tar.add(path, inside, recursive=False)
    gone = []
    for folder, _, files in os.walk(base):
        inside = (os.path.normpath(os.path.join(os.path.relpath(folder, base), name)) for name in files)
        gone += [path for path in inside if path not in seen]
    return archive.getvalue(), sorted(gone)


def _main():
    job = marshal.loads(sys.stdin.buffer.read())
    _copy_over(job["base"], job["deleted"])
    if "argv" in job:
        channel = int(os.environ["CODEFLOW_CHANNEL"])
        code, output = _command(job)
        archive, gone = _changed(job["base"])
        line = json.dumps([code, output.decode("utf-8", "replace"), gone])
        with open(channel, "wb") as file:
            file.write(line.encode() + b"\n" + archive)
        return
    report = _reporter()
    if not job["tests"]:
        return
    roots = [root for root in job["roots"] if os.path.isdir(root)]
    sys.path.append(job["packages"])
    import pytest  # noqa: F401  before anything of the repository can stand in its place

    sys.path[-1:] = [*roots, job["packages"]]
    os.environ["PYTHONPATH"] = os.pathsep.join([*roots, job["packages"]])
    _run(job["tests"], report)


_main()
