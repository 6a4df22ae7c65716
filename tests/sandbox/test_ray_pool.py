"""Sandboxes on actors of a Ray cluster, on one that is started here."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import time

import pytest

from codeflow.core.errors import InfrastructureError
from codeflow.execute.ray import cluster
from codeflow.sandbox.local import BACKENDS, probe
from codeflow.sandbox.policy import Limits
from codeflow.sandbox.ray_pool import BACKEND, RaySandbox, RaySandboxes
from codeflow.sandbox.result import Result, Status

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works"),
]


@pytest.fixture(scope="module")
def address():
    with cluster("") as pool:
        yield pool.address


def test_leases_run_on_actors_with_files_of_their_own(address):
    held, most = 0, 0

    async def user(sandboxes: RaySandboxes, number: int) -> Result:
        nonlocal held, most
        async with sandboxes.lease() as sandbox:
            held, most = held + 1, max(most, held + 1)
            await sandbox.write("mine", str(number).encode())
            code = "import os; print(os.listdir(), open('mine').read()); open('new', 'w').write('n')"
            result = await sandbox.exec([*sandbox.python, "-c", code], keep_files=True)
            assert dict((await sandbox.snapshot()).files) == {"mine": str(number).encode(), "new": b"n"}
            held -= 1
            return result

    async def story() -> list[Result]:
        async with RaySandboxes(1, 2, address=address) as sandboxes:
            results = await asyncio.gather(*[user(sandboxes, number) for number in range(5)])
            async with sandboxes.lease() as sandbox:
                assert (await sandbox.snapshot()).files == ()
                late = await sandbox.exec([*sandbox.python, "-c", "while True: pass"], limits=Limits(wall_seconds=0.5))
                assert late.status is Status.TIME
            return results

    results = asyncio.run(story())
    assert [r.stdout for r in results] == [f"['mine'] {number}\n".encode() for number in range(5)]
    assert {r.backend for r in results} <= set(BACKENDS)
    assert most == 2


def test_an_actor_that_is_killed_is_a_fault_and_comes_again(address):
    async def story() -> None:
        async with RaySandboxes(1, 1, address=address) as sandboxes, sandboxes.lease() as sandbox:
            command = [*sandbox.python, "-c", "import time; time.sleep(30)"]
            _, _, pid = await sandboxes._actors[0].exec.remote(await sandbox.snapshot(), {"argv": ["/bin/true"]}, False)
            running = asyncio.create_task(sandbox.exec(command, limits=Limits(wall_seconds=60)))
            await asyncio.sleep(1)
            os.kill(pid, signal.SIGKILL)
            result = await running
            assert (result.status, result.backend) == (Status.INFRASTRUCTURE, BACKEND), result
            assert result.detail
            deadline = time.monotonic() + 60
            while (again := await sandbox.exec(["/bin/echo", "again"])).status is Status.INFRASTRUCTURE:
                assert time.monotonic() < deadline, again
                await asyncio.sleep(0.5)
            assert again.stdout == b"again\n"

    asyncio.run(story())


def test_an_error_on_the_node_is_a_fault():
    class Broken(Exception):
        pass

    class Task(Broken):
        cause = InfrastructureError("no sandbox there")

    class Method:
        async def remote(self, *_):
            raise Task

    class Actor:
        exec = Method()

    class Library:
        class exceptions:
            RayTaskError = Task
            RayError = Broken

    result = asyncio.run(RaySandbox(Actor(), Library(), ("python3",)).exec(["true"]))
    assert (result.status, result.detail) == (Status.INFRASTRUCTURE, "on the node: no sandbox there")
