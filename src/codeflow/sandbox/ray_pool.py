"""Sandboxes on the nodes of a Ray cluster: actors that host the local pool, lent through the same interface.

    async with RaySandboxes(n_actors=4, per_actor=8) as sandboxes:
        async with sandboxes.lease() as sandbox: ...

An actor probes the back ends of its own node, so a result names what isolated there. Files are kept here and go along
with each execution. An actor or node that dies is an infrastructure fault; Ray starts the actor anew.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from codeflow.core.errors import InfrastructureError
from codeflow.execute.ray import connected
from codeflow.sandbox.files import CarriedFiles, Snapshot
from codeflow.sandbox.policy import Limits, Policy
from codeflow.sandbox.pool import Leases, Pool
from codeflow.sandbox.result import Result, Status, fault

BACKEND = "ray"
_RESTARTS = 10


class Host:
    """Runs on a node: the local pool there. A Ray actor is made of it."""

    def __init__(self, size: int, policy: Policy) -> None:
        self._size, self._policy, self._pool = size, policy, None

    async def python(self) -> tuple[str, ...]:
        """Return how this node's sandboxes start Python."""
        async with self._lent() as sandbox:
            return sandbox.python

    async def exec(
        self, files: Snapshot, arguments: dict[str, Any], keep_files: bool
    ) -> tuple[Result, Snapshot | None, int]:
        """Run one execution on these files; return its result, the files if they are kept, and this process's id."""
        async with self._lent() as sandbox:
            await sandbox.reset(files)
            result = await sandbox.exec(keep_files=keep_files, **arguments)
            return result, await sandbox.snapshot() if keep_files else None, os.getpid()

    def _lent(self) -> Any:
        if self._pool is None:  # made in the actor's own event loop
            self._pool = Pool(self._size, self._policy)
        return self._pool.lease()


class RaySandbox(CarriedFiles):
    """`Sandbox` on an actor."""

    def __init__(self, actor: Any, ray: Any, python: tuple[str, ...]) -> None:
        super().__init__()
        self._actor, self._ray, self.python = actor, ray, python

    async def exec(
        self,
        argv: Sequence[str],
        stdin: bytes = b"",
        limits: Limits | None = None,
        channel: bool = False,
        keep_files: bool = False,
    ) -> Result:
        arguments = {"argv": list(argv), "stdin": stdin, "limits": limits, "channel": channel}
        try:
            result, files, _ = await self._actor.exec.remote(await self.snapshot(), arguments, keep_files)
        except self._ray.exceptions.RayTaskError as error:
            return fault(BACKEND, f"on the node: {error.cause}")
        except self._ray.exceptions.RayError as error:
            return fault(BACKEND, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
        if files is not None and result.status is not Status.INFRASTRUCTURE:
            await self.reset(files)
        return result


class RaySandboxes(Leases):
    """At most `n_actors * per_actor` leases at once, spread over the cluster at `address`."""

    def __init__(self, n_actors: int, per_actor: int, policy: Policy | None = None, address: str = "auto") -> None:
        """Raises UserError when Ray is not installed or no cluster answers."""
        assert n_actors > 0, "no actor hosts no sandbox"
        assert per_actor > 0, "a pool of nothing lends nothing"
        super().__init__()
        self._ray, self._per_actor = connected(address), per_actor
        actor = self._ray.remote(num_cpus=1, max_restarts=_RESTARTS, max_concurrency=per_actor + 1)(Host)
        self._actors = [actor.remote(per_actor, policy or Policy()) for _ in range(n_actors)]

    async def start(self) -> None:
        """Wait until every actor can serve. Raises InfrastructureError when no sandbox works on the node of one."""
        try:
            pythons = await asyncio.gather(*[actor.python.remote() for actor in self._actors])
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            raise InfrastructureError(f"no sandbox on a node of the cluster: {cause}") from None
        for _ in range(self._per_actor):
            for actor, python in zip(self._actors, pythons, strict=True):
                self._free.put_nowait(RaySandbox(actor, self._ray, tuple(python)))

    async def close(self) -> None:
        """End the actors."""
        actors, self._actors = self._actors, []
        for actor in actors:
            self._ray.kill(actor)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
