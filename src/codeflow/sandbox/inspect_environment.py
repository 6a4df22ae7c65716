"""The sandbox as an environment of Inspect AI (inspect.aisi.org.uk): `Task(..., sandbox="codeflow")`.

One sandbox for each sample. Between two commands the regular files of the working folder stay, with their contents
alone: no modes, links, empty folders, processes, and nothing outside that folder. A command that runs into a limit
leaves the files as they were. A fault of the surroundings is raised as `InfrastructureError`, so the sample ends with
an error and is never scored. There is one user: a command asked for as another is refused. Needs `inspect-ai`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, overload

from inspect_ai.util import (  # pyright: ignore[reportMissingImports]
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentLimits,
    SandboxUserUnsupportedError,
    sandboxenv,
)
from pydantic import BaseModel, Field, PositiveInt

from codeflow.core.config import Config, validate
from codeflow.core.errors import InfrastructureError, UserError
from codeflow.sandbox.files import inside
from codeflow.sandbox.local import open_sandbox
from codeflow.sandbox.policy import MIB, Limits, Policy
from codeflow.sandbox.result import Result, Status
from codeflow.sandbox.sandbox import Sandbox

_WORK = PurePosixPath("/work")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IN_FOLDER = 'cd -- "$1" && shift && exec "$@"'
_NOT_EXECUTABLE = 126  # what a shell says of a file that it may not run
_ATTEMPTS = 3


class EnvironmentConfig(Config):
    """Limits of one command, and the back end ("": the first that works).

    As `SandboxEnvironmentSpec("codeflow", EnvironmentConfig(...))`, or a JSON file of them, `--sandbox codeflow:FILE`.
    """

    wall_seconds: float = Field(default=120.0, gt=0)  # unless the command comes with a time of its own
    memory_bytes: PositiveInt = 1024 * MIB
    processes: PositiveInt = 64
    disk_bytes: PositiveInt = 512 * MIB
    backend: str = ""

    def limits(self, timeout: float | None) -> Limits:
        """Return the limits of a command with a time of its own, or with none."""
        seconds = timeout or self.wall_seconds
        return Limits(
            wall_seconds=seconds,
            cpu_seconds=max(1.0, seconds),
            memory_bytes=self.memory_bytes,
            processes=self.processes,
            output_bytes=SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE,
            disk_bytes=self.disk_bytes,
        )


def _configured(config: BaseModel | str | None) -> EnvironmentConfig:
    if config is None or isinstance(config, EnvironmentConfig):
        return config or EnvironmentConfig()
    if isinstance(config, str):
        try:
            tree = json.loads(Path(config).read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(
                f"sandbox config {config}: {error}; give a JSON file of EnvironmentConfig's fields"
            ) from None
        return validate(EnvironmentConfig, tree, f"sandbox config {config}")
    raise UserError(f"a sandbox config of kind {type(config).__name__}; give an EnvironmentConfig or a JSON file")


@sandboxenv(name="codeflow")
class CodeflowEnvironment(SandboxEnvironment):
    """One sample's sandbox. Commands of a sample run one after the other."""

    def __init__(self, config: EnvironmentConfig) -> None:
        """Raises InfrastructureError when no sandbox works here, UserError for a back end that there is not."""
        super().__init__()
        self._config = config
        self._sandbox: Sandbox = open_sandbox(Policy(), config.backend)
        self._turn = asyncio.Lock()

    @classmethod
    async def sample_init(
        cls, task_name: str, config: BaseModel | str | None, metadata: dict[str, str]
    ) -> dict[str, SandboxEnvironment]:
        """Start one. Raises UserError where Inspect does not run on asyncio."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise UserError(
                "the codeflow sandbox needs Inspect's asyncio back end; unset INSPECT_ASYNC_BACKEND"
            ) from None
        environment = cls(_configured(config))
        await environment._sandbox.start()
        return {"default": environment}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: BaseModel | str | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        """Close what the sample had."""
        for environment in environments.values():
            await environment.as_type(CodeflowEnvironment)._sandbox.close()

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        """Return the configuration of its serialised form. Raises UserError for fields that it does not have."""
        return validate(EnvironmentConfig, config)

    @classmethod
    def default_concurrency(cls) -> int | None:
        """Return how many samples have a sandbox at once: two for each processor."""
        return 2 * (os.cpu_count() or 1)

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        **_: bool,
    ) -> ExecResult[str]:
        """Run a command once; one that runs out of time is not tried again, whatever `timeout_retry` says.

        Raises TimeoutError, OutputLimitExceededError, PermissionError, InfrastructureError, and
        SandboxUserUnsupportedError for any `user`.
        """
        if user is not None:
            raise SandboxUserUnsupportedError(f"the codeflow sandbox has one user; it runs nothing as '{user}'")
        argv = _in_environment(env or {}, ["/bin/sh", "-c", _IN_FOLDER, "sh", _folder(cwd), *cmd])
        stdin = input.encode() if isinstance(input, str) else input or b""
        limits = self._config.limits(timeout)
        async with self._turn:
            result = await self._run(argv, stdin, limits)
        stdout, stderr = (text.decode("utf-8", "replace") for text in (result.stdout, result.stderr))
        if result.status is Status.TIME:
            raise TimeoutError(f"the command did not end within {limits.wall_seconds:g} seconds")
        if result.status is Status.OUTPUT:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR, stdout or stderr)
        if result.exit_code == _NOT_EXECUTABLE and "Permission denied" in stderr:
            raise PermissionError(stderr.strip())
        code = 1 if result.exit_code is None else result.exit_code
        return ExecResult(result.status is Status.OK, code, stdout, stderr)

    async def _run(self, argv: list[str], stdin: bytes, limits: Limits) -> Result:
        for attempt in range(_ATTEMPTS):
            result = await self._sandbox.exec(argv, stdin=stdin, limits=limits, keep_files=True)
            if result.status is not Status.INFRASTRUCTURE:
                return result
            if attempt == _ATTEMPTS - 1:
                raise InfrastructureError(f"the sandbox failed {_ATTEMPTS} times: {result.detail}")
        raise AssertionError("the loop returns or raises")

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Put a file into the working folder.

        Raises PermissionError for a path outside it, IsADirectoryError for that of a folder.
        """
        path = _path(file)
        async with self._turn:
            if await self._is_folder(path):
                raise IsADirectoryError(f"{file} is a directory")
            await self._sandbox.write(path, contents.encode() if isinstance(contents, str) else contents)

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        """Return a file of the working folder.

        Raises FileNotFoundError, IsADirectoryError, UnicodeDecodeError, OutputLimitExceededError, and PermissionError
        for a path outside it.
        """
        path = _path(file)
        async with self._turn:
            if await self._is_folder(path):
                raise IsADirectoryError(f"{file} is a directory")
            content = await self._sandbox.read(path)
        if len(content) > SandboxEnvironmentLimits.MAX_READ_FILE_SIZE:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None)
        return content.decode() if text else content

    async def _is_folder(self, path: str) -> bool:
        return any(name.startswith(f"{path}/") for name, _ in (await self._sandbox.snapshot()).files)


def _in_environment(variables: Mapping[str, str], argv: list[str]) -> list[str]:
    """Return a command with variables set, by the system's own `env`. Raises ValueError for an impossible name."""
    for name, value in variables.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise ValueError(f"env={name!r}: a variable's name is letters, digits and _, its value has no NUL")
    return ["/usr/bin/env", *(f"{name}={value}" for name, value in variables.items()), *argv] if variables else argv


def _folder(cwd: str | None) -> str:
    """Return the folder of a command; the working folder has another place under some back ends."""
    if cwd is None:
        return "."
    pure = PurePosixPath(cwd)
    return f"./{pure.relative_to(_WORK)}" if pure.is_relative_to(_WORK) else cwd


def _path(file: str) -> str:
    """Return a path relative to the working folder. Raises PermissionError for one outside it."""
    pure = PurePosixPath(file)
    try:
        return inside(str(pure.relative_to(_WORK) if pure.is_absolute() else pure))
    except ValueError:
        raise PermissionError(f"{file}: only files in the working folder {_WORK} are kept; give such a path") from None
