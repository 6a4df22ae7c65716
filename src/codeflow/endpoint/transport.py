"""Requests to an OpenAI-compatible server: retries with growing pauses, a rate, the count of what was sent.

Retried, with growing pauses (longer ones where the server asks for them): no connection, time-outs, 408, 409, 429 and
5xx, and answers that their reader does not accept. Not retried: other statuses, which are the request's fault. The key
is read from the environment when a request is sent; it is in no configuration, file or message.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

from pydantic import Field, field_validator

from codeflow.core.config import Config
from codeflow.core.errors import InfrastructureError, UserError

_RETRIED = {408, 409, 429, *range(500, 600)}
_MOST_SHOWN = 200  # characters of a server's refusal in an error
_LONGEST_WISHED_SECONDS = 60.0
T = TypeVar("T")


class ServerConfig(Config):
    """Where the server is, which model, how patiently and how fast it is asked."""

    url: str = "http://127.0.0.1:8000/v1"  # up to and without /chat/completions
    model: str = ""
    key_variable: str = "OPENAI_API_KEY"  # the environment variable with the key; unset: no key is sent
    timeout_seconds: float = Field(default=60.0, gt=0)
    retries: int = Field(default=4, ge=0)
    first_pause_seconds: float = Field(default=1.0, ge=0)  # doubled at each retry
    parallel: int = Field(default=8, ge=1)  # requests under way at a time
    requests_per_minute: float | None = Field(default=None, gt=0)  # None: as fast as it answers

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return url.rstrip("/")


@dataclass
class Usage:
    """What has been sent and received, cached answers aside."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0


class RefusedError(UserError):
    """The server does not take this request. `status` and `text` are its own."""

    def __init__(self, url: str, status: int, text: str) -> None:
        super().__init__(f"{url} refused the request with status {status}: {text[:_MOST_SHOWN]}")
        self.status, self.text = status, text


class TryAgainError(Exception):
    """An answer of no use; another may be. `unreachable`: in the end the server is at fault, not the answer."""

    def __init__(self, reason: str, unreachable: bool, pause_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.unreachable, self.pause_seconds = unreachable, pause_seconds


class UnfitError(Exception):
    """No answer that its reader accepts, after all retries. The message says what was wrong with the last one."""


class Transport:
    """Sends requests to one server. Thread-safe."""

    def __init__(
        self,
        config: ServerConfig,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self.usage = config, Usage()
        self._sleep, self._clock = sleep, clock
        self._lock, self._next = Lock(), 0.0

    def ask(self, path: str, body: Mapping[str, Any] | None, read: Callable[[Mapping[str, Any]], T]) -> T:
        """POST `body` (GET without one) to the url and `path`; return what `read` makes of the answer's JSON.

        `read` raises TryAgainError for an answer of no use. Raises RefusedError where the server refuses,
        InfrastructureError where it cannot be reached, UnfitError where no answer was of use.
        """
        reason, unreachable, pause_seconds = "", False, 0.0
        for attempt in range(self.config.retries + 1):
            if attempt:
                with self._lock:
                    self.usage.retries += 1
                self._sleep(max(pause_seconds, self.config.first_pause_seconds * 2 ** (attempt - 1)))
            self._wait_for_turn()
            try:
                return read(self._send(path, body))
            except TryAgainError as error:
                reason, unreachable, pause_seconds = str(error), error.unreachable, error.pause_seconds
        if unreachable:
            raise InfrastructureError(f"{self.config.url}: {reason} (asked {self.config.retries + 1} times)")
        raise UnfitError(reason)

    def count(self, prompt_tokens: int, answer_tokens: int) -> None:
        """Note what an answer has cost in tokens."""
        with self._lock:
            self.usage.prompt_tokens += prompt_tokens
            self.usage.answer_tokens += answer_tokens

    def _wait_for_turn(self) -> None:
        """Keep requests at least 60 / requests_per_minute seconds apart."""
        rate = self.config.requests_per_minute
        if rate is None:
            return
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + 60.0 / rate
        if turn > now:
            self._sleep(turn - now)

    def _send(self, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self.config.key_variable, "")
        if key:
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.config.url}/{path}"
        data = None if body is None else json.dumps(body).encode()
        http = urllib.request.Request(url, data, headers, method="GET" if data is None else "POST")
        with self._lock:
            self.usage.requests += 1
        try:
            with urllib.request.urlopen(http, timeout=self.config.timeout_seconds) as response:
                tree = json.loads(response.read())
        except urllib.error.HTTPError as error:
            if error.code in _RETRIED:
                pause = _wished_pause(error.headers.get("Retry-After"))
                raise TryAgainError(f"status {error.code}", True, pause) from None
            raise RefusedError(url, error.code, error.read().decode("utf-8", "replace")) from None
        except ValueError:
            raise TryAgainError("the response is not JSON", unreachable=True) from None
        except OSError as error:  # urllib's URLError and time-outs are OSErrors
            raise TryAgainError(f"no connection: {error}", unreachable=True) from None
        if not isinstance(tree, dict):
            raise TryAgainError("the response is no JSON object", unreachable=True)
        return tree


def _wished_pause(retry_after: str | None) -> float:
    """Return the seconds that the server asks to wait, at most a minute; 0 where it names none, or a date."""
    return min(float(retry_after), _LONGEST_WISHED_SECONDS) if retry_after and retry_after.isdigit() else 0.0
