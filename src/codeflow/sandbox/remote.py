"""`Sandbox` in a container elsewhere: what all remote back ends share. A transport starts one program there.

Each execution sends its files along, runs `remote_driver.py` in the container's Python and takes one answer. The
container is the isolation: between the executions of one container, and between a program and the driver that measures
it, there is no more than limits, fresh folders, an end to all processes and a token that the program does not know; so
a container is for one task. Whatever the service does not answer well is an infrastructure fault.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import math
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from codeflow.core.errors import InfrastructureError
from codeflow.sandbox.files import CarriedFiles, unpack
from codeflow.sandbox.policy import Limits, Policy
from codeflow.sandbox.result import Result, Status, fault, status_of
from codeflow.sandbox.sandbox import CHANNEL_VARIABLE

_GRACE_SECONDS = 30.0  # what a service may take on top of the program's own time
_LONGEST_WORDS = 300


class Transport(Protocol):
    """How a program is started in one container of a service."""

    name: str  # the back end that results name

    async def start(self) -> None:
        """Have the container ready. Raises InfrastructureError, or UserError where something is to be installed."""
        ...

    async def run(self, driver: str, job: bytes, seconds: float) -> bytes:
        """Run `python3 -c driver` there on a job (base64), for `seconds` at most; return its standard output.

        Raises InfrastructureError when the service does not do that.
        """
        ...

    async def close(self) -> None:
        """Give the container back. Harmless when called twice."""
        ...


class RemoteSandbox(CarriedFiles):
    """`Sandbox` on a transport. Times are measured beside the program, in the container."""

    python: tuple[str, ...] = ("python3", "-s", "-S")

    def __init__(self, transport: Transport, policy: Policy | None = None) -> None:
        """Raises ValueError for a policy that shows files of this machine, which is elsewhere there."""
        super().__init__()
        self.transport, self.policy = transport, policy or Policy()
        if self.policy.readable:
            raise ValueError(
                f"readable={self.policy.readable}: a container elsewhere does not see files of this machine"
            )
        self._started = False

    async def start(self) -> None:
        if not self._started:
            await self.transport.start()
            self._started = True

    async def exec(
        self,
        argv: Sequence[str],
        stdin: bytes = b"",
        limits: Limits | None = None,
        channel: bool = False,
        keep_files: bool = False,
    ) -> Result:
        limits, token = limits or self.policy.limits, secrets.token_hex(16)
        job = self._job(argv, stdin, limits) | {"token": token, "channel": channel, "keep": keep_files}
        seconds = limits.wall_seconds + _GRACE_SECONDS
        started = time.monotonic()
        try:
            await self.start()
            body = base64.b64encode(json.dumps(job).encode())
            said = await asyncio.wait_for(self.transport.run(_driver(), body, seconds), seconds + _GRACE_SECONDS)
            answer = _answer(said, token)
        except InfrastructureError as error:
            return fault(self.transport.name, str(error)[:_LONGEST_WORDS])
        except TimeoutError:
            return fault(self.transport.name, f"no answer within {time.monotonic() - started:.0f} s")
        if answer.get("kept"):
            self._files = unpack(base64.b64decode(answer["kept"]), limits.disk_bytes)
        return _result(answer, limits, self.transport.name)

    def _job(self, argv: Sequence[str], stdin: bytes, limits: Limits) -> dict[str, Any]:
        return {
            "argv": list(argv),
            "stdin": _text(stdin),
            "files": [(path, _text(data)) for path, data in self._files.items()],
            "environment": self.policy.environment,
            "channel_variable": CHANNEL_VARIABLE,
            "limits": {
                "wall_seconds": limits.wall_seconds,
                "cpu_seconds": math.ceil(limits.cpu_seconds),
                "address_bytes": limits.memory_bytes + limits.reserved_bytes,
                "output_bytes": limits.output_bytes,
                "disk_bytes": limits.disk_bytes,
            },
        }

    async def close(self) -> None:
        await super().close()
        self._started = False
        await self.transport.close()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@functools.cache
def _driver() -> str:
    return Path(__file__).with_name("remote_driver.py").read_text(encoding="utf-8")


def _answer(said: bytes, token: str) -> dict[str, Any]:
    """Return what the driver said. Raises InfrastructureError for what is no answer of its."""
    for line in reversed(said.splitlines()):
        if line.startswith(f"{token} ".encode()):
            try:
                answer = json.loads(base64.b64decode(line.split()[1]))
            except (ValueError, IndexError):
                break
            if "fault" in answer:
                raise InfrastructureError(f"in the container: {answer['fault']}")
            return answer
    words = said.decode("utf-8", "replace").strip() or "nothing"
    raise InfrastructureError(f"the container gave no answer, but: {words[-200:]}")


def _result(answer: dict[str, Any], limits: Limits, backend: str) -> Result:
    output = {name: base64.b64decode(answer.get(name, "")) for name in ("out", "err", "channel")}
    code, reason, cpu = answer.get("code"), answer.get("reason", ""), float(answer.get("cpu", 0.0))
    if reason or code is None:
        status, exit_code = (Status.OUTPUT if reason == "output" else Status.TIME), None
    else:
        exit_code = code if code >= 0 else 128 - code
        status = status_of(exit_code, output["err"], cpu, limits)
    return Result(
        status=status,
        exit_code=exit_code,
        wall_seconds=float(answer.get("wall", 0.0)),
        cpu_seconds=cpu,
        peak_memory_bytes=int(answer.get("peak", 0)) or None,
        stdout=output["out"],
        stderr=output["err"],
        channel=output["channel"],
        truncated=reason == "output",
        backend=backend,
    )
