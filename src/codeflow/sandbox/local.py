"""The choice of a local back end: found by trying, recorded in every result, closed when there is none."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.sandbox import bubblewrap, fork_server
from codeflow.sandbox.bubblewrap import BubblewrapSandbox, Host, find_host
from codeflow.sandbox.forked import ForkServerSandbox
from codeflow.sandbox.policy import Limits, Policy
from codeflow.sandbox.result import Result, Status
from codeflow.sandbox.sandbox import Sandbox

_KINDS: dict[str, type[ForkServerSandbox] | type[BubblewrapSandbox]] = {
    fork_server.BACKEND: ForkServerSandbox,
    bubblewrap.BACKEND: BubblewrapSandbox,
}
BACKENDS = tuple(_KINDS)  # in the order in which they are tried


@dataclass(frozen=True, slots=True)
class Probe:
    """Which back end works here. `backend` is "" when none does; then `problem` says in one line what to do."""

    backend: str
    problem: str
    host: Host | None = None


@functools.cache
def probe(backend: str = "") -> Probe:
    """Try the back ends, or one, with a small program and return the first that works. The answer is kept.

    Raises UserError for a name that is none of `BACKENDS`.
    """
    if backend and backend not in _KINDS:
        raise UserError(f"no sandbox back end '{backend}'; choose one of: {', '.join(BACKENDS)}")
    problem = ""
    for kind in [backend] if backend else BACKENDS:
        for mount_proc in (True, False):  # inside some containers a fresh /proc is forbidden; the rest still holds
            try:
                host = find_host(mount_proc)
            except InfrastructureError as error:
                return Probe("", str(error))
            with ThreadPoolExecutor(1) as thread:  # a loop may be running in this one
                result = thread.submit(asyncio.run, _try(_KINDS[kind](Policy(), host))).result()
            if result.status is Status.OK and result.stdout == b"works\n":
                return Probe(kind, "", host)
            problem = problem or (result.detail or result.stderr.decode("utf-8", "replace").strip().partition("\n")[0])
    return Probe("", f"no sandbox: bubblewrap does not work here ({problem}); allow user namespaces, or run on a host")


async def _try(sandbox: Sandbox) -> Result:
    return await sandbox.exec([*sandbox.python, "-c", "print('works')"], limits=Limits(wall_seconds=20))


def open_sandbox(policy: Policy | None = None, backend: str = "") -> Sandbox:
    """Return a sandbox of the back end that works here, or of the one named.

    Raises InfrastructureError when none does: it fails closed.
    """
    found = probe(backend)
    if found.host is None:
        raise InfrastructureError(found.problem)
    return _KINDS[found.backend](policy or Policy(), found.host)
