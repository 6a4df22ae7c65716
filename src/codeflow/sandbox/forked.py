"""`Sandbox` by a fork server, in bubblewrap or a jail (`fork_server.py`): what the parent does for one execution."""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from codeflow.core.errors import InfrastructureError
from codeflow.sandbox.bubblewrap import PYTHON_OPTIONS, Host
from codeflow.sandbox.control_groups import blamed, entrances, give_back, lend, version
from codeflow.sandbox.files import CarriedFiles, unpack
from codeflow.sandbox.fork_server import BACKEND, END_SECONDS, LANDLOCK, PLAIN, Server, in_memory, key, send, servers
from codeflow.sandbox.launch import Watch
from codeflow.sandbox.policy import Limits, Policy
from codeflow.sandbox.result import Result, Status, fault, status_of


class ForkServerSandbox(CarriedFiles):
    """`Sandbox` by a fork server. Each execution has its own namespaces; the parent carries files between them."""

    def __init__(self, policy: Policy, host: Host, kind: str = BACKEND) -> None:
        super().__init__()
        self.policy, self.kind, self._servers = policy, kind, servers(host, policy.readable, kind)
        self.python: tuple[str, ...] = (host.python, *PYTHON_OPTIONS)

    async def start(self) -> None:
        """Have a server ready."""
        self._servers.give_back(await self._servers.lend())

    async def exec(
        self,
        argv: Sequence[str],
        stdin: bytes = b"",
        limits: Limits | None = None,
        channel: bool = False,
        keep_files: bool = False,
    ) -> Result:
        limits = limits or self.policy.limits
        if self.kind in (LANDLOCK, PLAIN):
            for source, path in self.policy.readable:
                if source != path:
                    return fault(self.kind, f"without mount namespaces {source} cannot be shown as {path}")
        try:
            server = await self._servers.lend()
        except InfrastructureError as error:
            return fault(self.kind, str(error))
        whole, group = False, None
        try:
            job = self._job(argv, stdin, channel, keep_files)
            group = lend(limits)
            names = ["out", "err"] + ["channel"] * channel + ["kept"] * keep_files
            seen = await _execute(server, job, limits, names, entrances(group))
            whole = not seen.fault and (self.kind not in (LANDLOCK, PLAIN) or await _is_clean(server))
        except OSError as error:
            return fault(self.kind, f"cannot run in the fork server: {error}")
        finally:
            if not whole:
                server.end()
            self._servers.give_back(server)
            starved = give_back(group, whole)
        if keep_files and not seen.timed_out and not seen.overflowed and not seen.fault:
            self._files = unpack(seen.output["kept"], limits.disk_bytes)
        result = _result(seen, limits, self.kind)
        return replace(result, limited_by=version(group), status=blamed(result.status, starved))

    def _job(self, argv: Sequence[str], stdin: bytes, channel: bool, keep_files: bool) -> dict[str, Any]:
        job: dict[str, Any] = {
            "environment": dict(self.policy.environment),
            "files": list(self._files.items()),
            "stdin": stdin,
            "channel": channel,
            "keep": keep_files,
        }
        n = len(self.python)
        if tuple(argv[:n]) == self.python and len(argv) > n + 1 and argv[n] == "-c":
            return job | {"python": ["-c", *argv[n + 2 :]], "program": key(argv[n + 1]), "text": argv[n + 1]}
        return job | {"argv": list(argv)}

    async def __aenter__(self) -> Self:
        return self  # a server that does not come up is the fault of an execution


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the parent saw of an execution. `code` is negative for a signal."""

    code: int
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int | None
    output: dict[str, bytes]
    timed_out: bool
    overflowed: bool
    fault: str


async def _execute(
    server: Server, job: dict[str, Any], limits: Limits, names: Sequence[str], groups: Sequence[int]
) -> _Seen:
    """Run one job on a server that is up. Raises OSError; then, and after a fault, the server is of no use any more."""
    loop = asyncio.get_running_loop()
    body = in_memory(marshal.dumps(job, 4))
    try:
        readers, writers = _pipes(names)
    except OSError:
        os.close(body)
        raise
    watch = Watch(set(readers.values()), limits.output_bytes + (limits.disk_bytes if "kept" in readers else 0))
    header = {
        "cpu_seconds": math.ceil(limits.cpu_seconds),
        "address_bytes": limits.memory_bytes + limits.reserved_bytes,
        "processes": limits.processes + 2,  # one that waits when files are kept
        "groups": len(groups),
        "disk_bytes": limits.disk_bytes,
    }
    for descriptor in readers.values():
        watch.add(loop, descriptor)
    try:
        started = time.monotonic()
        send(server.control, marshal.dumps(header, 4), [body, *writers, *groups])
    except OSError:
        watch.close(loop)
        raise
    finally:
        for descriptor in (body, *writers):
            os.close(descriptor)
    loop.add_reader(server.control, watch.stop.set)
    timed_out, report = False, b""
    try:
        try:
            async with asyncio.timeout(limits.wall_seconds):
                await watch.stop.wait()
        except TimeoutError:
            timed_out = True
        wall = time.monotonic() - started
        loop.remove_reader(server.control)
        report = await _last_word(server, timed_out or watch.overflowed)
        if report:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(watch.drained.wait(), END_SECONDS)
    finally:
        loop.remove_reader(server.control)
        lingered = bool(watch.open)
        watch.close(loop)
    code, cpu, peak, problem = _parsed(report, server)
    return _Seen(
        code=code,
        wall_seconds=wall,
        cpu_seconds=cpu,
        peak_memory_bytes=peak,
        output={name: bytes(watch.buffers[readers[name]]) for name in names},
        timed_out=timed_out,
        overflowed=watch.overflowed,
        fault=problem or ("processes outlived their namespace" if lingered else ""),
    )


def _pipes(names: Sequence[str]) -> tuple[dict[str, int], list[int]]:
    readers: dict[str, int] = {}
    writers: list[int] = []
    try:
        for name in names:
            readers[name], writer = os.pipe2(os.O_CLOEXEC)
            writers.append(writer)
    except OSError:
        for descriptor in (*readers.values(), *writers):
            os.close(descriptor)
        raise
    return readers, writers


async def _last_word(server: Server, stop: bool) -> bytes:
    """Return the server's report on its job, after having it stopped; b"" when it has none."""
    with contextlib.suppress(OSError, TimeoutError):
        if stop:
            server.control.send(b"stop")
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(server.control, 4096), END_SECONDS)
    return b""


async def _is_clean(server: Server) -> bool:
    """Wait until a server has removed what its job left, which is nobody's time; else it is of no use any more."""
    with contextlib.suppress(OSError, TimeoutError):
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(server.control, 64), END_SECONDS) == b"clean"
    return False


def _parsed(report: bytes, server: Server) -> tuple[int, float, int | None, str]:
    word, _, rest = report.partition(b" ")
    if word != b"ended":
        said = rest.decode("ascii", "replace").strip() or server.problem() or "the fork server died"
        return 0, 0.0, None, said
    code, microseconds, peak = map(int, rest.split())
    return code, microseconds / 1e6, peak, ""


def _result(seen: _Seen, limits: Limits, kind: str) -> Result:
    ended = seen.timed_out or seen.overflowed
    code = seen.code if seen.code >= 0 else 128 - seen.code
    if seen.fault:
        status = Status.INFRASTRUCTURE
    elif ended:
        status = Status.TIME if seen.timed_out else Status.OUTPUT
    else:
        status = status_of(code, seen.output["err"], seen.cpu_seconds, limits)
    return Result(
        status=status,
        exit_code=None if ended or seen.fault else code,
        wall_seconds=seen.wall_seconds,
        cpu_seconds=seen.cpu_seconds,
        peak_memory_bytes=seen.peak_memory_bytes,
        stdout=seen.output["out"],
        stderr=seen.output["err"],
        channel=seen.output.get("channel", b""),
        truncated=seen.overflowed,
        backend=kind,
        detail=seen.fault,
    )
