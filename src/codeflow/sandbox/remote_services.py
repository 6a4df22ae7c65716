"""Transports to services that lend containers: SWE-ReX servers, Kubernetes pods, E2B.

    async with RemoteSandbox(SweRex("http://127.0.0.1:8000", token)) as sandbox: ...

SWE-ReX's own deployments (Docker, Modal, Fargate, Daytona) come in as `SweRexDeployment(deployment)`. Its package and
E2B's are optional and imported when needed; Kubernetes needs the program kubectl. Secrets come in as arguments or from
the variables that the services name, and are never part of an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import secrets
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

from codeflow.core.errors import InfrastructureError, UserError

_PYTHON = "python3"
_SHORT_SECONDS = 30.0


def _job_file() -> str:
    return f"/tmp/codeflow-{secrets.token_hex(12)}.job"


class SweRex:
    """A SWE-ReX server that is up, by its HTTP interface."""

    name = "swe-rex"

    def __init__(self, url: str, token: str = "") -> None:
        """`token` is what the server was started with (`--auth-token`)."""
        self._url, self._token = url.rstrip("/"), token

    async def start(self) -> None:
        answer = await asyncio.to_thread(self._ask, "is_alive", None, _SHORT_SECONDS)
        if not answer.get("is_alive"):
            raise InfrastructureError(f"the SWE-ReX server at {self._url} is not alive: {answer.get('message', '')}")

    async def run(self, driver: str, job: bytes, seconds: float) -> bytes:
        path = _job_file()
        await asyncio.to_thread(self._ask, "write_file", {"path": path, "content": job.decode("ascii")}, _SHORT_SECONDS)
        command = {"command": [_PYTHON, "-c", driver, path], "timeout": seconds, "shell": False}
        answer = await asyncio.to_thread(self._ask, "execute", command, seconds + _SHORT_SECONDS)
        if (code := answer.get("exit_code")) != 0:
            raise InfrastructureError(f"SWE-ReX: exit code {code}: {str(answer.get('stderr', ''))[-200:]}")
        return str(answer.get("stdout", "")).encode()

    async def close(self) -> None:
        """The server is its owner's."""

    def _ask(self, call: str, body: Any, seconds: float) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-API-Key": self._token, "Content-Type": "application/json", "X-Request-ID": secrets.token_hex(16)}
        request = urllib.request.Request(f"{self._url}/{call}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as response:
                answer = json.loads(response.read())
        except urllib.error.HTTPError as error:
            raise InfrastructureError(f"SWE-ReX: {call}: HTTP {error.code}: {_reason(error)}") from None
        except (OSError, ValueError) as error:
            raise InfrastructureError(f"SWE-ReX: no answer from {self._url}/{call} ({error})") from None
        if not isinstance(answer, dict):
            raise InfrastructureError(f"SWE-ReX: {call}: not an object")
        return answer


def _reason(error: urllib.error.HTTPError) -> str:
    """Return a server's own words; SWE-ReX sends its exceptions with the status 511."""
    text = error.read(1 << 16).decode("utf-8", "replace")
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(text)["swerexception"]["message"])[:200]
    return text.strip()[:200]


class SweRexDeployment:
    """A deployment of the package swe-rex (Docker, Modal, Fargate, Daytona), started and stopped with the sandbox."""

    name = "swe-rex"

    def __init__(self, deployment: Any) -> None:
        """Raises UserError when the package is not installed."""
        self._deployment, self._requests = deployment, _library("swerex.runtime.abstract", "swerex", "swe-rex")

    async def start(self) -> None:
        with _as_faults("SWE-ReX"):
            await self._deployment.start()

    async def run(self, driver: str, job: bytes, seconds: float) -> bytes:
        path, kinds = _job_file(), self._requests
        with _as_faults("SWE-ReX"):
            runtime = self._deployment.runtime
            await runtime.write_file(kinds.WriteFileRequest(path=path, content=job.decode("ascii")))
            command = kinds.Command(command=[_PYTHON, "-c", driver, path], timeout=seconds, shell=False)
            answer = await runtime.execute(command)
        if answer.exit_code != 0:
            raise InfrastructureError(f"SWE-ReX: exit code {answer.exit_code}: {answer.stderr[-200:]}")
        return answer.stdout.encode()

    async def close(self) -> None:
        with _as_faults("SWE-ReX"):
            await self._deployment.stop()


class Kubernetes:
    """A pod of its own, made from an image and deleted at the end, or one that is there; spoken to by kubectl."""

    name = "kubernetes"

    def __init__(self, image: str = "", pod: str = "", namespace: str = "default", options: Sequence[str] = ()) -> None:
        """Give `image` or `pod`. `options` go to every kubectl (`--context=...`). Raises UserError where both, neither
        or no kubectl is there."""
        if bool(image) == bool(pod):
            raise UserError("a Kubernetes sandbox needs an image (its pod is made) or the name of a pod: one of both")
        if shutil.which("kubectl") is None:
            raise UserError("a Kubernetes sandbox needs kubectl; see kubernetes.io/docs/tasks/tools")
        self._image, self._pod = image, pod or f"codeflow-{secrets.token_hex(6)}"
        self._line = ["kubectl", f"--namespace={namespace}", *options]
        self._made = False

    async def start(self) -> None:
        if self._image and not self._made:
            self._made = True
            await self._call(["apply", "-f", "-"], json.dumps(self._manifest()).encode(), _SHORT_SECONDS)
        wait = ["wait", "--for=condition=Ready", f"pod/{self._pod}", "--timeout=120s"]
        await self._call(wait, b"", 120 + _SHORT_SECONDS)

    def _manifest(self) -> dict[str, Any]:
        container = {
            "name": "sandbox",
            "image": self._image,
            "command": ["sleep", "infinity"],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "runAsNonRoot": True,
                "runAsUser": 65534,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containers": [container],
        }
        labels = {"app": "codeflow-sandbox"}  # for a NetworkPolicy that denies all traffic
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self._pod, "labels": labels}, "spec": spec}

    async def run(self, driver: str, job: bytes, seconds: float) -> bytes:
        return await self._call(["exec", "-i", self._pod, "--", _PYTHON, "-c", driver], job, seconds)

    async def close(self) -> None:
        if self._made:
            self._made = False
            await self._call(["delete", "pod", self._pod, "--wait=false", "--grace-period=0"], b"", _SHORT_SECONDS)

    async def _call(self, words: Sequence[str], data: bytes, seconds: float) -> bytes:
        return await asyncio.to_thread(self._ask, [*self._line, *words], words[0], data, seconds)

    def _ask(self, line: list[str], verb: str, data: bytes, seconds: float) -> bytes:
        try:
            done = subprocess.run(line, input=data, capture_output=True, check=False, timeout=seconds)
        except OSError as error:
            raise InfrastructureError(f"cannot start kubectl: {error}") from None
        except subprocess.TimeoutExpired:
            raise InfrastructureError(f"kubectl {verb}: no answer within {seconds:.0f} s") from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise InfrastructureError(f"kubectl {verb}: exit code {done.returncode}: {said[:200]}")
        return done.stdout


class E2B:
    """A sandbox of E2B (package e2b; the key is in E2B_API_KEY), killed at the end."""

    name = "e2b"

    def __init__(self, template: str = "base", seconds: int = 300) -> None:
        """`seconds` is how long the service keeps the sandbox. Raises UserError without the package or the key."""
        self._library = _library("e2b", "e2b", "e2b")
        if not os.environ.get("E2B_API_KEY"):
            raise UserError("E2B needs its key in the environment variable E2B_API_KEY; see e2b.dev/docs")
        self._template, self._seconds = template, seconds
        self._sandbox: Any = None

    async def start(self) -> None:
        if self._sandbox is None:
            with _as_faults("E2B"):
                self._sandbox = await self._library.AsyncSandbox.create(
                    template=self._template, timeout=self._seconds, allow_internet_access=False
                )

    async def run(self, driver: str, job: bytes, seconds: float) -> bytes:
        path = _job_file()
        with _as_faults("E2B"):
            await self._sandbox.files.write(path, job.decode("ascii"))
            line = shlex.join([_PYTHON, "-c", driver, path])
            answer = await self._sandbox.commands.run(line, timeout=seconds)
        return answer.stdout.encode()

    async def close(self) -> None:
        if self._sandbox is not None:
            sandbox, self._sandbox = self._sandbox, None
            with _as_faults("E2B"):
                await sandbox.kill()


@contextlib.contextmanager
def _as_faults(service: str) -> Iterator[None]:
    """Turn whatever a service's package raises into an infrastructure fault, in one line."""
    try:
        yield
    except (InfrastructureError, AssertionError):
        raise
    except Exception as error:
        line = (str(error).strip() or "no words").splitlines()[0]
        raise InfrastructureError(f"{service}: {type(error).__name__}: {line[:200]}") from None


def _library(module: str, extra: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"this sandbox needs the package {package}; pip install 'codeflow[{extra}]'") from None
