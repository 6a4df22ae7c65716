"""What happens around a sandbox is an infrastructure fault, retried, and never a wrong verdict or a leak."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from codeflow.sandbox import forked
from codeflow.sandbox.control_groups import groups
from codeflow.sandbox.fork_server import servers
from codeflow.sandbox.forked import ForkServerSandbox
from codeflow.sandbox.local import probe
from codeflow.sandbox.policy import Policy
from codeflow.sandbox.result import Result, Status

pytestmark = pytest.mark.skipif(probe().backend != "fork server", reason="the fork server does not work here")


def fresh_host(**changes):
    """Return a host that no other test has servers on."""
    host = probe().host
    assert host is not None
    return dataclasses.replace(host, binds=(*host.binds, "/usr/share"), **changes)


async def _run(host, code: str) -> Result:
    async with ForkServerSandbox(Policy(), host) as sandbox:
        return await sandbox.exec([*sandbox.python, "-c", code])


def test_servers_killed_at_random_cost_only_their_own_execution():
    host, rng, done = fresh_host(), random.Random(0), threading.Event()
    group = servers(host, ())
    lent = group.lend
    seen = []

    async def lend():
        server = await lent()
        seen.append(server)
        return server

    group.lend = lend  # type: ignore[method-assign]

    def kill() -> None:
        while not done.wait(0.02):
            for server in seen[-4:]:
                if not server.ended and rng.random() < 0.3:
                    with contextlib.suppress(ProcessLookupError, IndexError, ValueError):
                        os.kill(rng.choice(server.processes()), signal.SIGKILL)

    async def story() -> list[Result]:
        gate = asyncio.Semaphore(3)

        async def one(number: int) -> Result:
            async with gate:
                return await _run(host, f"import time; time.sleep(0.01); print({number})")

        return await asyncio.gather(*[one(number) for number in range(24)])

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        results = asyncio.run(story())
    finally:
        done.set()
        thread.join()
        group.lend = lent  # type: ignore[method-assign]
    for number, result in enumerate(results):
        assert result.status in (Status.OK, Status.INFRASTRUCTURE), result
        if result.status is Status.OK:
            assert result.stdout == f"{number}\n".encode()
        else:
            assert result.detail
    assert any(result.status is Status.INFRASTRUCTURE for result in results)
    after = asyncio.run(_run(host, "print('again')"))
    assert after.stdout == b"again\n"
    group.close()


def test_bubblewrap_taken_away(tmp_path):
    copy = Path(shutil.copy(probe().host.bwrap, tmp_path / "bwrap"))  # type: ignore[union-attr]
    host = fresh_host(bwrap=str(copy))
    assert asyncio.run(_run(host, "print(1)")).status is Status.OK
    copy.unlink()
    assert asyncio.run(_run(host, "print(1)")).status is Status.OK  # the server that is up goes on
    servers(host, ()).close()
    result = asyncio.run(_run(host, "print(1)"))
    assert result.status is Status.INFRASTRUCTURE
    assert str(copy) in result.detail


def _descriptors() -> int:
    if (made := groups()) is not None:
        made.close()  # as many as were lent at once are kept
    return len(os.listdir("/proc/self/fd"))


def test_a_full_disk_and_no_descriptors_are_faults_without_leaks(monkeypatch):
    host = fresh_host()
    assert asyncio.run(_run(host, "pass")).status is Status.OK

    def full(data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def too_many(flags: int):
        raise OSError(errno.EMFILE, "Too many open files")

    before = _descriptors()
    for place, name, broken in ((forked, "in_memory", full), (os, "pipe2", too_many)):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, broken)
            result = asyncio.run(_run(host, "pass"))
        assert result.status is Status.INFRASTRUCTURE
        assert os.strerror(errno.ENOSPC if name == "in_memory" else errno.EMFILE) in result.detail
        assert asyncio.run(_run(host, "pass")).status is Status.OK
        assert _descriptors() == before
    servers(host, ()).close()


def test_a_stopped_server_is_given_up():
    """A frozen server answers nothing; its execution ends by the wall limit, and the next one has another server."""
    host = fresh_host()
    assert asyncio.run(_run(host, "pass")).status is Status.OK
    (server,) = servers(host, ())._idle
    frozen = server.processes()[-1]
    os.kill(frozen, signal.SIGSTOP)
    started = time.monotonic()

    async def one() -> Result:
        async with ForkServerSandbox(Policy(), host) as sandbox:
            limits = dataclasses.replace(sandbox.policy.limits, wall_seconds=0.2)
            return await sandbox.exec([*sandbox.python, "-c", "pass"], limits=limits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forked, "END_SECONDS", 0.3)
        result = asyncio.run(one())
    assert result.status is Status.INFRASTRUCTURE
    assert time.monotonic() - started < 15
    assert asyncio.run(_run(host, "print('fresh')")).stdout == b"fresh\n"
    servers(host, ()).close()
