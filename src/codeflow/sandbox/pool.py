"""A bounded number of sandboxes, lent one at a time to whoever needs one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from codeflow.sandbox.local import open_sandbox
from codeflow.sandbox.policy import Policy
from codeflow.sandbox.sandbox import Sandbox


class Leases:
    """Sandboxes that are there, each lent to one at a time."""

    def __init__(self) -> None:
        self._free: asyncio.Queue[Sandbox] = asyncio.Queue()

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Sandbox]:
        """Lend an empty sandbox, as soon as one is free; what it holds at the end is thrown away."""
        sandbox = await self._free.get()
        try:
            yield sandbox
        finally:
            await sandbox.reset()
            self._free.put_nowait(sandbox)


class Pool(Leases):
    """At most `size` leases at once. Belongs to one event loop; what it costs to start a sandbox is paid once.

    Raises InfrastructureError when no sandbox works here.
    """

    def __init__(self, size: int, policy: Policy | None = None, backend: str = "") -> None:
        assert size > 0, "a pool of nothing lends nothing"
        super().__init__()
        for _ in range(size):
            self._free.put_nowait(open_sandbox(policy, backend))

    async def close(self) -> None:
        """Close the sandboxes that are not lent."""
        while not self._free.empty():
            await self._free.get_nowait().close()
