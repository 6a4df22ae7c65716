"""Remote back ends against services of our own that speak the same protocols (`_services.py`)."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.sandbox import remote_services
from codeflow.sandbox.policy import MIB, Limits, Policy
from codeflow.sandbox.remote import RemoteSandbox
from codeflow.sandbox.remote_services import E2B, Kubernetes, SweRex, SweRexDeployment
from codeflow.sandbox.result import Result, Status
from tests.sandbox._services import SweRexServer, make_kubectl

SERVICES = ("swe-rex", "kubernetes", "e2b", "swe-rex deployment")


class _Said:
    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.stdout, self.stderr, self.exit_code = done.stdout, done.stderr, done.returncode


class E2BSandbox:
    """What the package's AsyncSandbox does, as documented: files, commands, kill."""

    made: list[dict[str, Any]] = []
    killed = 0

    @classmethod
    async def create(cls, template: str | None = None, timeout: int | None = None, allow_internet_access: bool = True):
        cls.made.append({"template": template, "timeout": timeout, "internet": allow_internet_access})
        self = cls()
        self.files = self.commands = self
        return self

    async def write(self, path: str, data: str) -> None:
        Path(path).write_text(data)

    async def run(self, cmd: str, background: bool = False, timeout: float | None = 60) -> _Said:
        line = ["/bin/bash", "-l", "-c", cmd]
        said = _Said(await asyncio.to_thread(subprocess.run, line, capture_output=True, text=True, timeout=timeout))
        if said.exit_code:
            raise RuntimeError(f"Command exited with code {said.exit_code}\nsecond line")
        return said

    async def kill(self) -> bool:
        type(self).killed += 1
        return True


class Deployment:
    """What a deployment of the package swe-rex does: start, runtime, stop."""

    def __init__(self) -> None:
        self.up = False

    async def start(self) -> None:
        self.up = True

    @property
    def runtime(self):
        if not self.up:
            raise RuntimeError("Deployment not started")
        return self

    async def write_file(self, request) -> None:
        Path(request.path).write_text(request.content)

    async def execute(self, command) -> _Said:
        assert not command.shell
        return _Said(await asyncio.to_thread(subprocess.run, command.command, capture_output=True, text=True))

    async def stop(self) -> None:
        self.up = False


REQUESTS = types.SimpleNamespace(
    WriteFileRequest=types.SimpleNamespace, Command=lambda **fields: types.SimpleNamespace(**fields)
)


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    make_kubectl(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CODEFLOW_TEST_CLUSTER", str(tmp_path))
    return tmp_path


@pytest.fixture(params=SERVICES)
def sandbox(request, monkeypatch, cluster) -> Iterator[RemoteSandbox]:
    monkeypatch.setitem(sys.modules, "e2b", types.SimpleNamespace(AsyncSandbox=E2BSandbox))
    monkeypatch.setitem(sys.modules, "swerex.runtime.abstract", REQUESTS)
    monkeypatch.setenv("E2B_API_KEY", "e2b_secret")
    if request.param == "swe-rex":
        with SweRexServer("token") as server:
            yield RemoteSandbox(SweRex(server.url, "token"))
        return
    transports = {
        "kubernetes": lambda: Kubernetes(image="python:3.12-slim"),
        "e2b": lambda: E2B(),
        "swe-rex deployment": lambda: SweRexDeployment(Deployment()),
    }
    yield RemoteSandbox(transports[request.param]())


def _run(sandbox: RemoteSandbox, code: str, **arguments: Any) -> Result:
    async def one() -> Result:
        async with sandbox:
            return await sandbox.exec([*sandbox.python, "-c", code], **arguments)

    return asyncio.run(one())


def test_result_of_a_plain_run(sandbox):
    code = "import sys; print(sys.stdin.read()[::-1]); print('err', file=sys.stderr); sys.exit(3)"
    result = _run(sandbox, code, stdin=b"abc")
    assert (result.status, result.exit_code) == (Status.FAILED, 3), result
    assert (result.stdout, result.stderr, result.backend) == (b"cba\n", b"err\n", sandbox.transport.name)
    assert 0 < result.wall_seconds < 20
    assert result.peak_memory_bytes is not None
    assert result.peak_memory_bytes > MIB


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pass", Status.OK),
        ("import os; os.kill(os.getpid(), 9)", Status.CRASH),
        ("a = bytearray(10**10)", Status.MEMORY),
        ("print('x' * 3_000_000)", Status.OUTPUT),
        ("while True: pass", Status.TIME),
        ("import time; time.sleep(60)", Status.TIME),
    ],
)
def test_statuses(code, status, cluster):
    (cluster / "there").touch()
    limits = Limits(wall_seconds=1.5, cpu_seconds=5)
    result = _run(RemoteSandbox(Kubernetes(pod="mine")), code, limits=limits)
    assert result.status is status, result
    assert len(result.stdout) <= limits.output_bytes
    assert result.truncated is (status is Status.OUTPUT)


def test_files_channel_snapshot_and_reset(sandbox):
    async def story() -> None:
        async with sandbox:
            await sandbox.write("pkg/deep/a.txt", b"\x00\xff")
            saved = await sandbox.snapshot()
            code = (
                "import os\nos.write(int(os.environ['CODEFLOW_CHANNEL']), open('pkg/deep/a.txt', 'rb').read())\n"
                "open('new', 'w').write('n')\nos.symlink('/etc/passwd', 'link')"
            )
            result = await sandbox.exec([*sandbox.python, "-c", code], channel=True, keep_files=True)
            assert (result.status, result.channel) == (Status.OK, b"\x00\xff"), result
            assert dict((await sandbox.snapshot()).files) == {"pkg/deep/a.txt": b"\x00\xff", "new": b"n"}
            await sandbox.reset(saved)
            assert (await sandbox.exec(["/bin/ls"])).stdout == b"pkg\n"
            missing = await sandbox.exec(["/nowhere/program"])
            assert (missing.status, missing.exit_code) == (Status.FAILED, 127)

    asyncio.run(story())


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where the container keeps jobs and executions: not /tmp, where those of other tests' containers come and go."""
    folder = tmp_path / "in the container"
    folder.mkdir()
    monkeypatch.setattr(remote_services, "_job_file", lambda: f"{folder}/codeflow-1.job")
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_nothing_of_an_execution_is_left(sandbox, folder):
    mark = f"cf-remote-{os.getpid()}"
    code = (
        f"import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        os.execv('/usr/bin/sleep', ['{mark}', '600'])\n    os._exit(0)\ntime.sleep(0.2)\nprint('left')"
    )
    result = _run(sandbox, code)
    assert (result.status, result.stdout) == (Status.OK, b"left\n"), result
    assert not [pid for pid in filter(str.isdigit, os.listdir("/proc")) if _command(pid).startswith(mark)]
    assert not os.listdir(folder)


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_the_token_is_not_for_the_program(sandbox, folder):
    """A program that prints what an answer looks like, or looks for the job, answers for nobody."""
    code = (
        "import os\nprint('x' * 32 + ' e30=')\nhere = os.path.dirname(os.getcwd())\n"
        f"print([name for name in os.listdir(here)], [n for n in os.listdir({str(folder)!r}) if n.endswith('.job')])\n"
        "try: print(open('/proc/%d/mem' % os.getppid(), 'rb'))\nexcept OSError as e: print(type(e).__name__)\n"
        "try: print(os.listdir('/proc/%d/fd' % os.getppid()))\nexcept OSError as e: print(type(e).__name__)"
    )
    result = _run(sandbox, code)
    assert result.status is Status.OK, result
    lines = result.stdout.decode().splitlines()
    assert "'job'" not in lines[1]
    assert lines[1].endswith(" []")
    if os.geteuid() != 0:  # who is root there may look at everything
        assert lines[2:] == ["PermissionError", "PermissionError"]


@pytest.mark.parametrize("status", [500, 511, 401])
def test_faults_of_swe_rex_are_infrastructure(status):
    with SweRexServer("token") as server:
        sandbox = RemoteSandbox(SweRex(server.url, "token" if status != 401 else "wrong"))
        server.broken = status
        if status == 401:
            with pytest.raises(InfrastructureError, match="HTTP 401"):
                asyncio.run(sandbox.start())
            return
        result = _run(sandbox, "pass")
    assert result.status is Status.INFRASTRUCTURE
    assert f"HTTP {status}: broken" in result.detail
    assert "secret" not in result.detail
    after = asyncio.run(sandbox.exec(["true"]))  # the server is gone
    assert after.status is Status.INFRASTRUCTURE
    assert "no answer from" in after.detail


def test_a_service_that_does_not_end_in_time_is_a_fault(monkeypatch):
    with SweRexServer("token") as server:
        monkeypatch.setattr("codeflow.sandbox.remote._GRACE_SECONDS", -0.7)  # less than the program needs
        result = _run(
            RemoteSandbox(SweRex(server.url, "token")), "import time; time.sleep(5)", limits=Limits(wall_seconds=2)
        )
    assert result.status is Status.INFRASTRUCTURE
    assert "Timeout exceeded" in result.detail or "no answer within" in result.detail


def test_kubernetes_makes_and_deletes_its_pod(cluster):
    result = _run(RemoteSandbox(Kubernetes("python:3.12-slim", namespace="lab", options=("--context=c",))), "print(1)")
    assert result.stdout == b"1\n"
    manifest = json.loads((cluster / "deleted").read_text())
    assert manifest["spec"]["containers"][0]["image"] == "python:3.12-slim"
    assert manifest["spec"]["containers"][0]["securityContext"]["runAsNonRoot"] is True
    assert manifest["spec"]["automountServiceAccountToken"] is False
    calls = (cluster / "calls").read_text().splitlines()
    assert all(call.startswith("--namespace=lab --context=c ") for call in calls if call.startswith("--"))
    verbs = [call.split()[2] for call in calls if call.startswith("--")]
    assert verbs == ["apply", "wait", "exec", "delete"]


def test_kubernetes_faults_and_bad_use(cluster, monkeypatch):
    with pytest.raises(InfrastructureError, match="kubectl wait: exit code 1: Error from server"):
        asyncio.run(RemoteSandbox(Kubernetes(pod="nobody")).start())
    (cluster / "there").touch()
    (cluster / "broken").touch()
    result = _run(RemoteSandbox(Kubernetes(pod="mine")), "pass")
    assert result.status is Status.INFRASTRUCTURE
    assert "unable to upgrade connection" in result.detail
    for wrong in ({}, {"image": "a", "pod": "b"}):
        with pytest.raises(UserError, match="one of both"):
            Kubernetes(**wrong)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="needs kubectl"):
        Kubernetes(pod="mine")


def test_e2b_is_made_without_network_and_killed(monkeypatch):
    monkeypatch.setitem(sys.modules, "e2b", types.SimpleNamespace(AsyncSandbox=E2BSandbox))
    monkeypatch.setenv("E2B_API_KEY", "e2b_secret")
    killed = E2BSandbox.killed
    assert _run(RemoteSandbox(E2B(template="mine", seconds=60)), "print(1)").stdout == b"1\n"
    assert E2BSandbox.made[-1] == {"template": "mine", "timeout": 60, "internet": False}
    assert E2BSandbox.killed == killed + 1

    async def refuse(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("sandbox was not found\nwith details")

    monkeypatch.setattr(E2BSandbox, "run", refuse)
    result = _run(RemoteSandbox(E2B()), "print(1)")
    assert (result.status, result.detail) == (Status.INFRASTRUCTURE, "E2B: RuntimeError: sandbox was not found")


def test_missing_packages_and_keys_say_what_to_do(monkeypatch):
    monkeypatch.delenv("E2B_API_KEY", raising=False)
    for make, module, word in (
        (E2B, "e2b", r"codeflow\[e2b\]"),
        (lambda: SweRexDeployment(None), "swerex.runtime.abstract", r"codeflow\[swerex\]"),
    ):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
        with pytest.raises(UserError, match=word):
            make()
    monkeypatch.setitem(sys.modules, "e2b", types.SimpleNamespace())
    with pytest.raises(UserError, match="E2B_API_KEY"):
        E2B()
    with pytest.raises(ValueError, match="does not see files of this machine"):
        RemoteSandbox(SweRex("http://x"), Policy(readable=(("/a", "/a"),)))
