"""Back ends without bubblewrap: what they do beyond what the tests of all back ends ask."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.sandbox import landlock, local
from codeflow.sandbox.control_groups import groups
from codeflow.sandbox.forked import ForkServerSandbox
from codeflow.sandbox.local import BACKENDS, open_sandbox, probe
from codeflow.sandbox.policy import MIB, Limits, Policy
from codeflow.sandbox.result import Result, Status

WITHOUT_BUBBLEWRAP = ("unshare", "landlock")


@pytest.fixture(params=WITHOUT_BUBBLEWRAP)
def backend(request) -> str:
    if not probe(request.param).backend:
        pytest.skip(probe(request.param).problem)
    return request.param


def needs(backend: str) -> None:
    if not probe(backend).backend:
        pytest.skip(probe(backend).problem)


def _run(code: str, backend: str, unsafe: bool = False, **arguments) -> Result:
    async def one() -> Result:
        async with open_sandbox(backend=backend, unsafe=unsafe) as sandbox:
            return await sandbox.exec([*sandbox.python, "-c", code], **arguments)

    return asyncio.run(one())


def test_plain_is_only_for_those_who_say_so():
    assert "plain" not in BACKENDS
    for ask in (lambda: probe("plain"), lambda: open_sandbox(backend="plain")):
        with pytest.raises(UserError, match="isolates nothing"):
            ask()
    result = _run("import os; print(os.path.exists('/etc/hostname'), sorted(os.environ))", "plain", unsafe=True)
    assert (result.status, result.backend) == (Status.OK, "plain")
    assert result.stdout.startswith(b"True ['HOME', 'LANG', ")  # the host's files are seen, its environment is not
    assert _run("while True: pass", "plain", unsafe=True, limits=Limits(wall_seconds=0.3)).status is Status.TIME


def test_unsafe_alone_still_chooses_isolation():
    if not probe().backend:
        pytest.skip(probe().problem)
    assert probe("", unsafe=True).backend in BACKENDS


def test_a_kernel_that_lacks_what_is_needed_fails_closed(monkeypatch):
    monkeypatch.setattr(landlock, "version", lambda: 2)
    with pytest.raises(InfrastructureError, match=r"version 3 \(Linux 6\.2\) needed, 2 here"):
        local._jail_host("landlock")
    monkeypatch.setattr(local.seccomp, "program", lambda: None)
    with pytest.raises(InfrastructureError, match="no filter of system calls"):
        local._jail_host("unshare")


def test_tracebacks_and_modules_are_the_programs_own(backend):
    result = _run("import sys\nprint([n for n in sys.modules if 'codeflow' in n])\ndef f(): 1/0\nf()", backend)
    assert (result.status, result.stdout) == (Status.FAILED, b"[]\n")
    lines = result.stderr.decode().splitlines()
    assert [line.strip() for line in lines if "File" in line] == [
        'File "<string>", line 4, in <module>',
        'File "<string>", line 3, in f',
    ]


def test_what_cannot_be_shown_elsewhere_is_a_fault(tmp_path):
    needs("landlock")
    host = probe("landlock").host
    assert host is not None
    sandbox = ForkServerSandbox(Policy(readable=((str(tmp_path), "/packages"),)), host, "landlock")
    result = asyncio.run(sandbox.exec([*sandbox.python, "-c", "pass"]))
    assert result.status is Status.INFRASTRUCTURE
    assert "cannot be shown as /packages" in result.detail


def test_readable_folders_are_seen(backend):
    async def story(shown: str) -> Result:
        async with open_sandbox(Policy(readable=((shown, shown),)), backend) as sandbox:
            code = f"print(open('{shown}/a.txt').read())\nopen('{shown}/b.txt', 'w')"
            return await sandbox.exec([*sandbox.python, "-c", code])

    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        (Path(folder) / "a.txt").write_text("seen")
        result = asyncio.run(story(folder))
        assert (result.status, result.stdout) == (Status.FAILED, b"seen\n"), result
        assert os.listdir(folder) == ["a.txt"]


def test_files_are_not_hidden_by_depth():
    """Folders deeper than the kernel takes in one path count as too much, so nothing lies below them unseen."""
    needs("landlock")
    code = (
        "import os, time\nfor _ in range(60):\n    os.mkdir('d' * 200); os.chdir('d' * 200)\n"
        "open('hidden', 'w')\ntime.sleep(20)"
    )
    result = _run(code, "landlock", limits=Limits(wall_seconds=15))
    assert (result.status, result.exit_code) == (Status.CRASH, 137)
    assert result.wall_seconds < 10


def test_a_word_that_comes_too_late_is_no_job(backend):
    """The parent's stop may cross the end of a job; the next job must not find it or its answer."""

    async def story() -> list[Result]:
        async with open_sandbox(backend=backend) as sandbox:
            command = [*sandbox.python, "-c"]
            results = [await sandbox.exec([*command, "print(1)"])]
            server = await sandbox._servers.lend()  # type: ignore[attr-defined]
            server.control.send(b"stop")
            sandbox._servers.give_back(server)  # type: ignore[attr-defined]
            return [*results, await sandbox.exec([*command, "print(2)"])]

    assert [result.stdout for result in asyncio.run(story())] == [b"1\n", b"2\n"]


_PARENT = """
import asyncio, sys
from codeflow.sandbox.local import open_sandbox

async def main():
    async with open_sandbox(backend=sys.argv[1]) as sandbox:
        code = "import subprocess; subprocess.run(['/bin/sh', '-c', 'sleep 77; true %s'])"
        await sandbox.exec([*sandbox.python, "-c", code])

asyncio.run(main())
"""


def test_nothing_outlives_a_parent_that_is_killed(backend):
    mark = f"cf-orphan-{os.getpid()}"
    parent = subprocess.Popen([sys.executable, "-c", _PARENT % mark, backend])
    assert _within(30, lambda: bool(_marked(mark)))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert _within(10, lambda: not _marked(mark))


def _within(seconds: float, holds) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def _marked(mark: str) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith(b"/bin/sh") and f"true {mark}".encode() in command:
            found.append(pid)
    return found


def test_folders_of_jails_are_removed():
    needs("landlock")
    host = dataclasses.replace(probe("landlock").host, binds=("/usr/share",))  # type: ignore[type-var]

    async def story() -> str:
        async with ForkServerSandbox(Policy(), host, "landlock") as sandbox:
            result = await sandbox.exec(["/bin/sh", "-c", "pwd; echo x > left; mkdir -p a/b; ln -s / a/top"])
            folder = result.stdout.decode().strip()
            assert os.path.basename(folder) == "work"
            assert os.listdir(os.path.dirname(folder)) == []  # emptied as soon as the job has ended
            for server in [await sandbox._servers.lend()]:
                server.end()
            return os.path.dirname(folder)

    assert not os.path.exists(asyncio.run(story()))


def test_memory_is_bound_in_all_where_groups_can_be_made(backend):
    if groups() is None:
        pytest.skip("no control group can be made here")
    code = (
        "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n        held = bytearray(60 << 20)\n"
        "        time.sleep(0.5)\n        os._exit(0)\n"
        "import sys\nsys.exit(any([os.wait()[1] for _ in range(6)]))"
    )
    tight = Limits(wall_seconds=60, memory_bytes=128 * MIB, disk_bytes=4 * MIB)
    result = _run(code, backend, limits=tight)
    assert (result.status, result.exit_code) == (Status.MEMORY, 1)
    assert result.limited_by == groups().place.version  # type: ignore[union-attr]
    assert _run("print(1)", backend, limits=tight).status is Status.OK  # the next one is not blamed
    assert _run(code, backend, limits=Limits(wall_seconds=60, memory_bytes=512 * MIB)).status is Status.OK
