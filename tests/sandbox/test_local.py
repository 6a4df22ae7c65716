from __future__ import annotations

import asyncio
import dataclasses
import os
import time

import pytest

from codeflow.core.errors import InfrastructureError
from codeflow.sandbox import local
from codeflow.sandbox.bubblewrap import find_host, find_python
from codeflow.sandbox.control_groups import groups
from codeflow.sandbox.local import BACKENDS, open_sandbox, probe, sandbox_of
from codeflow.sandbox.policy import MIB, Limits, Policy
from codeflow.sandbox.result import Result, Status
from codeflow.sandbox.sandbox import Sandbox

pytestmark = pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works")


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    if not probe(request.param).backend:
        pytest.skip(probe(request.param).problem)
    return request.param


def _run(code: str, sandbox: Sandbox | str, **arguments) -> Result:
    async def one() -> Result:
        async with open_sandbox(backend=sandbox) if isinstance(sandbox, str) else sandbox as opened:
            return await opened.exec([*opened.python, "-c", code], **arguments)

    return asyncio.run(one())


def _host(backend: str):
    found = probe(backend).host
    assert found is not None
    return found


def test_result_of_a_plain_run(backend):
    result = _run("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)", backend)
    assert (result.status, result.exit_code) == (Status.FAILED, 3)
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
    assert result.backend == backend
    assert 0 < result.cpu_seconds < 3
    assert result.peak_memory_bytes is not None
    assert MIB < result.peak_memory_bytes < 200 * MIB


_ENDLESS = """
import time
shown = 0.0
print(shown, flush=True)
while True:
    used = time.process_time()
    if used > shown + 0.1:
        print(shown, flush=True)  # what it has surely used, 0.1 s late
        shown = used
"""


def test_usage_is_the_programs_own(backend):
    size = 60 * MIB
    result = _run(
        f"a = bytearray({size})\nfor i in range(0, {size}, 4096): a[i] = 1\nwhile sum(range(1000)) < 0: pass", backend
    )
    assert result.peak_memory_bytes is not None
    assert size < result.peak_memory_bytes < size + 60 * MIB
    busy = _run("import time\nwhile time.process_time() < 0.5: pass", backend)
    assert 0.5 <= busy.cpu_seconds < 1.0
    endless = _run(_ENDLESS, backend, limits=Limits(wall_seconds=2))
    assert endless.status is Status.TIME
    assert float(endless.stdout.split()[-1]) <= endless.cpu_seconds < 2.5


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pass", Status.OK),
        ("1/0", Status.FAILED),
        ("import os; os.abort()", Status.CRASH),
        ("import os; os.kill(os.getpid(), 9)", Status.CRASH),
        ("a = bytearray(10**10)", Status.MEMORY),
        ("print('x' * 3_000_000)", Status.OUTPUT),
        ("while True: pass", Status.TIME),
    ],
)
def test_statuses(backend, code, status):
    result = _run(code, backend, limits=Limits(wall_seconds=10, cpu_seconds=1))
    assert result.status is status
    assert result.truncated is (status is Status.OUTPUT)
    assert len(result.stdout) <= Limits().output_bytes


def test_standard_input_and_channel(backend):
    code = "import os, sys\nos.write(int(os.environ['CODEFLOW_CHANNEL']), sys.stdin.buffer.read()[::-1])\nprint('seen')"
    data = os.urandom(300_000)
    result = _run(code, backend, stdin=data, channel=True)
    assert result.channel == data[::-1]
    assert result.stdout == b"seen\n"
    assert _run("import sys; print(repr(sys.stdin.read()))", backend).stdout == b"''\n"


def test_files_are_carried_only_when_asked(backend):
    async def story() -> None:
        async with open_sandbox(backend=backend) as sandbox:
            await sandbox.write("pkg/deep/answer.txt", b"42")
            command = [*sandbox.python, "-c"]
            code = "open('pkg/deep/answer.txt', 'a').write('!'); open('new', 'w').write('n')"
            code += "; import os; os.symlink('/etc/passwd', 'link')"
            first = await sandbox.exec([*command, code])
            assert first.status is Status.OK
            assert await sandbox.read("pkg/deep/answer.txt") == b"42"
            kept = await sandbox.exec([*command, code], keep_files=True)
            assert kept.status is Status.OK, kept
            assert await sandbox.read("pkg/deep/answer.txt") == b"42!"
            assert await sandbox.read("new") == b"n"
            with pytest.raises(FileNotFoundError):
                await sandbox.read("link")
            third = await sandbox.exec([*command, "import os; print(sorted(os.listdir('.')), open('new').read())"])
            assert third.stdout == b"['new', 'pkg'] n\n"

    asyncio.run(story())


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "."])
def test_paths_stay_inside(backend, path):
    async def write() -> None:
        async with open_sandbox(backend=backend) as sandbox:
            await sandbox.write(path, b"")

    with pytest.raises(ValueError, match="must be relative and stay inside"):
        asyncio.run(write())


def test_faults_of_the_surroundings_have_their_own_status(backend):
    host = _host(backend)
    missing = dataclasses.replace(host, **{"bwrap" if host.bwrap else "python": "/nowhere/program"})
    assert _run("pass", sandbox_of(backend, Policy(), missing)).status is Status.INFRASTRUCTURE
    if backend != "landlock":  # which shows the host's own paths; what is not there is not seen
        unbindable = dataclasses.replace(host, binds=("/nowhere/python",))
        result = _run("pass", sandbox_of(backend, Policy(), unbindable))
        assert result.status is Status.INFRASTRUCTURE
        assert "/nowhere/python" in result.detail


def test_a_program_cannot_pass_for_a_fault(backend):
    """Text of bubblewrap's, a dead monitor, an unheard-of exit code: still the program's own doing."""
    code = (
        "import os, sys\nsys.stderr.write('bwrap: setting up failed\\n'); sys.stderr.flush()\n"
        "for pid in range(1, 60):\n    if pid != os.getpid():\n"
        "        try: os.kill(pid, 9)\n        except OSError: pass\n"
        "os._exit(255)"
    )
    assert _run(code, backend).status in (Status.CRASH, Status.FAILED)


def test_cancelling_leaves_nothing(backend):
    mark = f"cf-cancel-{os.getpid()}"

    async def cancel() -> None:
        async with open_sandbox(backend=backend) as sandbox:
            code = f"import subprocess; subprocess.run(['/bin/sh', '-c', 'sleep 60; true {mark}'])"
            task = asyncio.create_task(sandbox.exec([*sandbox.python, "-c", code]))
            deadline = time.monotonic() + 20
            while not _alive(mark) and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
            assert _alive(mark)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())
    assert not _alive(mark)


def _alive(mark: str) -> bool:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if f"true {mark}".encode() in file.read() and b"subprocess" not in file.read():
                    return True
        except OSError:
            continue
    return False


def test_no_descriptor_and_no_zombie_is_left(backend):
    async def many() -> None:
        async with open_sandbox(backend=backend) as sandbox:
            await asyncio.gather(*[sandbox.exec([*sandbox.python, "-c", "pass"], channel=True) for _ in range(6)])
            await sandbox.exec(["/nowhere"])

    def run() -> None:
        asyncio.run(many())
        if (made := groups()) is not None:
            made.close()  # as many as were lent at once are kept

    run()
    before, already = len(os.listdir("/proc/self/fd")), _zombies()  # other tests of this process may have left some
    run()
    assert len(os.listdir("/proc/self/fd")) == before
    assert _zombies() <= already


def _zombies() -> set[str]:
    children = _read(f"/proc/self/task/{os.getpid()}/children").split()
    return {pid for pid in children if _state(pid) == "Z"}


def _state(pid: str) -> str:
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0]


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def test_limits_say_what_is_wrong():
    with pytest.raises(ValueError, match="wall_seconds=0: must be greater than 0"):
        Limits(wall_seconds=0)
    with pytest.raises(ValueError, match="memory_bytes=1024"):
        Limits(memory_bytes=1024)


def _no_jail(kind: str):
    raise InfrastructureError(f"no {kind}")


def test_without_bubblewrap_it_fails_closed_and_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InfrastructureError, match="apt-get install bubblewrap"):
        find_host()
    fresh = local.probe.__wrapped__
    monkeypatch.setattr(local, "probe", lambda backend="": fresh(backend))
    monkeypatch.setattr(local, "_jail_host", _no_jail)
    missing = "no sandbox: install bubblewrap (apt-get install bubblewrap)"
    assert fresh() == local.Probe("", f"{missing}; no unshare; no landlock")
    with pytest.raises(InfrastructureError, match="apt-get install bubblewrap"):
        open_sandbox()


def test_interpreter_has_its_library_and_nothing_above():
    python, binds = find_python()
    assert os.access(python, os.X_OK)
    for path in binds:
        assert path == python or path.endswith("/lib")
