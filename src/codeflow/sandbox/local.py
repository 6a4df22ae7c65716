"""The choice of a local back end: found by trying, recorded in every result, closed when there is none."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from codeflow.core.errors import InfrastructureError
from codeflow.sandbox.bubblewrap import BACKEND, BubblewrapSandbox, Host, find_host
from codeflow.sandbox.policy import Limits, Policy
from codeflow.sandbox.result import Result, Status
from codeflow.sandbox.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class Probe:
    """Which back end works here. `backend` is "" when none does; then `problem` says in one line what to do."""

    backend: str
    problem: str
    host: Host | None = None


@functools.cache
def probe() -> Probe:
    """Try the back ends with a small program and return the first that works. The answer is kept for the process."""
    problem = ""
    for mount_proc in (True, False):  # inside some containers a fresh /proc is forbidden; the rest still holds
        try:
            host = find_host(mount_proc)
        except InfrastructureError as error:
            return Probe("", str(error))
        with ThreadPoolExecutor(1) as thread:  # a loop may be running in this one
            result = thread.submit(asyncio.run, _try(host)).result()
        if result.status is Status.OK and result.stdout == b"works\n":
            return Probe(BACKEND, "", host)
        problem = problem or (result.detail or result.stderr.decode("utf-8", "replace").strip().partition("\n")[0])
    return Probe("", f"no sandbox: bubblewrap does not work here ({problem}); allow user namespaces, or run on a host")


async def _try(host: Host) -> Result:
    sandbox = BubblewrapSandbox(Policy(), host)
    return await sandbox.exec([*sandbox.python, "-c", "print('works')"], limits=Limits(wall_seconds=20))


def open_sandbox(policy: Policy | None = None) -> Sandbox:
    """Return a sandbox of the back end that works here. Raises InfrastructureError when none does: it fails closed."""
    found = probe()
    if found.host is None:
        raise InfrastructureError(found.problem)
    return BubblewrapSandbox(policy or Policy(), found.host)
