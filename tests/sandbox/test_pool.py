from __future__ import annotations

import asyncio

import pytest

from codeflow.sandbox.local import probe
from codeflow.sandbox.pool import Pool

pytestmark = pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works")


def test_leases_are_bounded_and_begin_empty():
    held, most = 0, 0

    async def user(pool: Pool, number: int) -> bytes:
        nonlocal held, most
        async with pool.lease() as sandbox:
            held, most = held + 1, max(most, held + 1)
            await sandbox.write("mine", str(number).encode())
            result = await sandbox.exec([*sandbox.python, "-c", "import os; print(os.listdir(), open('mine').read())"])
            held -= 1
            return result.stdout

    async def story() -> list[bytes]:
        pool = Pool(2)
        found = await asyncio.gather(*[user(pool, number) for number in range(6)])
        with pytest.raises(RuntimeError, match="mine"):
            async with pool.lease() as sandbox:
                await sandbox.write("left", b"")
                raise RuntimeError("mine")
        for _ in range(2):
            async with pool.lease() as sandbox:
                assert (await sandbox.snapshot()).files == ()
        await pool.close()
        return found

    assert asyncio.run(story()) == [f"['mine'] {number}\n".encode() for number in range(6)]
    assert most == 2


def test_snapshots_bring_files_back():
    async def story() -> None:
        async with Pool(1).lease() as sandbox:
            await sandbox.write("a", b"1")
            saved = await sandbox.snapshot()
            await sandbox.write("a", b"2")
            await sandbox.write("b", b"3")
            await sandbox.reset(saved)
            result = await sandbox.exec(["/bin/sh", "-c", "cat *; ls"])
            assert result.stdout == b"1a\n"

    asyncio.run(story())
