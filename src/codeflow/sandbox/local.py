"""The choice of a local back end: found by trying, recorded in every result, closed when there is none.

Back ends that isolate, in the order in which they are tried: `fork server`, `bubblewrap`, `unshare`, `landlock`.
`plain` isolates nothing; it is never chosen, only taken when named with `unsafe=True`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.sandbox import bubblewrap, fork_server, landlock, seccomp
from codeflow.sandbox.bubblewrap import BubblewrapSandbox, Host, find_host, find_python
from codeflow.sandbox.fork_server import LANDLOCK, PLAIN, UNSHARE
from codeflow.sandbox.forked import ForkServerSandbox
from codeflow.sandbox.policy import Limits, Policy
from codeflow.sandbox.result import Result, Status
from codeflow.sandbox.sandbox import Sandbox

OLDEST_LANDLOCK = 3  # Linux 6.2; before, files could be truncated by path

_OPENED: dict[str, Callable[[Policy, Host], Sandbox]] = {
    fork_server.BACKEND: ForkServerSandbox,
    bubblewrap.BACKEND: BubblewrapSandbox,
    UNSHARE: functools.partial(ForkServerSandbox, kind=UNSHARE),
    LANDLOCK: functools.partial(ForkServerSandbox, kind=LANDLOCK),
}
BACKENDS = tuple(_OPENED)  # in the order in which they are tried
_BY_NAME = _OPENED | {PLAIN: functools.partial(ForkServerSandbox, kind=PLAIN)}
_WITH_BUBBLEWRAP = (fork_server.BACKEND, bubblewrap.BACKEND)


@dataclass(frozen=True, slots=True)
class Probe:
    """Which back end works here. `backend` is "" when none does; then `problem` says in one line what to do."""

    backend: str
    problem: str
    host: Host | None = None


@functools.cache
def probe(backend: str = "", unsafe: bool = False) -> Probe:
    """Try the back ends, or one, with a small program and return the first that works. The answer is kept.

    Raises UserError for a name that is none of `BACKENDS`, and for `plain` without `unsafe`.
    """
    if backend and backend not in _BY_NAME:
        raise UserError(f"no sandbox back end '{backend}'; choose one of: {', '.join(BACKENDS)}")
    if backend == PLAIN and not unsafe:
        raise UserError("the back end 'plain' isolates nothing; take another, or say unsafe=True for trusted programs")
    problems: list[str] = []
    for kind in [backend] if backend else BACKENDS:
        found = _probe_one(kind)
        if found.backend:
            return found
        if found.problem not in problems:
            problems.append(found.problem)
    return Probe("", "; ".join(problems))


def _probe_one(kind: str) -> Probe:
    problem = ""
    for mount_proc in (True, False):  # inside some containers a fresh /proc is forbidden; the rest still holds
        try:
            host = find_host(mount_proc) if kind in _WITH_BUBBLEWRAP else _jail_host(kind)
        except InfrastructureError as error:
            return Probe("", str(error))
        with ThreadPoolExecutor(1) as thread:  # a loop may be running in this one
            result = thread.submit(asyncio.run, _try(_BY_NAME[kind](Policy(), host))).result()
        if result.status is Status.OK and result.stdout == b"works\n":
            return Probe(kind, "", host)
        problem = problem or (result.detail or result.stderr.decode("utf-8", "replace").strip().partition("\n")[0])
        if kind not in _WITH_BUBBLEWRAP:
            return Probe("", f"no sandbox by {kind}: {problem}")
    return Probe("", f"no sandbox: bubblewrap does not work here ({problem}); allow user namespaces, or run on a host")


def _jail_host(kind: str) -> Host:
    """Return what a back end without bubblewrap needs. Raises InfrastructureError where it is not there."""
    abi = min(landlock.version(), landlock.NEWEST)
    if kind != PLAIN and seccomp.program() is None:
        raise InfrastructureError(f"no sandbox by {kind}: no filter of system calls for {os.uname().machine}")
    if kind == LANDLOCK and abi < OLDEST_LANDLOCK:
        raise InfrastructureError(f"no sandbox by landlock: version {OLDEST_LANDLOCK} (Linux 6.2) needed, {abi} here")
    python, binds = find_python()
    if kind != UNSHARE and os.geteuid() == 0 and not _open_to_all(python):
        python, binds = _system_python(), ()  # its programs are run as a user that nobody knows
    return Host("", "", python, binds, False, landlock=abi)


def _open_to_all(path: str) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (Path(path), *Path(path).parents))


def _system_python() -> str:
    found = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    new = [found, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"] if found else ["/bin/false"]
    if found is None or subprocess.run(new, check=False, timeout=20).returncode:
        raise InfrastructureError("no Python 3.11 outside private folders; install one below /usr, or be no root")
    return os.path.realpath(found)


def sandbox_of(backend: str, policy: Policy, host: Host) -> Sandbox:
    """Return a sandbox of a back end on a host that was probed."""
    return _BY_NAME[backend](policy, host)


async def _try(sandbox: Sandbox) -> Result:
    return await sandbox.exec([*sandbox.python, "-c", "print('works')"], limits=Limits(wall_seconds=20))


def open_sandbox(policy: Policy | None = None, backend: str = "", unsafe: bool = False) -> Sandbox:
    """Return a sandbox of the back end that works here, or of the one named.

    Raises InfrastructureError when none does: it fails closed.
    """
    found = probe(backend, unsafe) if unsafe else probe(backend)
    if found.host is None:
        raise InfrastructureError(found.problem)
    return _BY_NAME[found.backend](policy or Policy(), found.host)
