"""Chat completions of any OpenAI-compatible server: structured answers, retries, an answer cache, the cost.

A request is identified by the hash of everything that decides its answer (model, messages, schema, temperature, seed,
pass); an answer that is in the cache is never asked for again, so interrupted work goes on where it stopped. What is
retried says `transport.py`; answers that are not the JSON asked for are, too.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from codeflow.core.config import canonical_json
from codeflow.core.errors import UserError
from codeflow.core.storage import write_text
from codeflow.endpoint.transport import ServerConfig, Transport, TryAgainError, UnfitError, Usage

_CHARACTERS_PER_TOKEN = 3.5  # of code and English, for estimates before anything is sent


class EndpointConfig(ServerConfig):
    """Where the server is, which model, and what tokens cost there."""

    temperature: float = Field(default=0.0, ge=0)
    max_answer_tokens: int = Field(default=256, ge=1)
    prompt_price: float = Field(default=0.0, ge=0)  # per million tokens
    answer_price: float = Field(default=0.0, ge=0)


@dataclass(frozen=True, slots=True)
class Request:
    """One question. Equal requests have equal answers; another `number` asks the same thing again."""

    messages: tuple[tuple[str, str], ...]  # (role, text)
    schema: Mapping[str, Any] | None = None  # JSON schema of the answer; None: free text
    number: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `value` is the parsed JSON where a schema was given, else the text."""

    value: Any
    prompt_tokens: int
    answer_tokens: int
    cached: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that got no usable answer after all retries."""

    reason: str


class ChatClient:
    """Asks one model. Thread-safe."""

    def __init__(self, config: EndpointConfig, cache: Path, sleep: Callable[[float], None] = time.sleep) -> None:
        """`cache` is a folder for answers. Raises UserError when no model is named."""
        if not config.model:
            raise UserError("endpoint.model is empty; name a model that the server has")
        self.config, self._cache = config, cache
        self._transport = Transport(config, sleep)

    @property
    def usage(self) -> Usage:
        """What has been sent and received so far."""
        return self._transport.usage

    def ask_all(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        """Return the answers in order; `parallel` requests are under way at a time.

        Raises UserError where the server refuses a request, and InfrastructureError where it cannot be reached.
        """
        with ThreadPoolExecutor(self.config.parallel) as pool:
            try:
                return list(pool.map(self.ask, requests))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # what waits would be refused, and cost, as well
                raise

    def ask(self, request: Request) -> Answer | Failure:
        """Return the answer, from the cache where it is there; a Failure where it never fits the schema."""
        body = self._body(request)
        path = self._cache / f"{self._identity(body, request.number)}.json"
        if path.exists():
            kept = json.loads(path.read_text())
            return Answer(kept["value"], kept["prompt_tokens"], kept["answer_tokens"], True)
        try:
            answer = self._transport.ask("chat/completions", body, lambda response: self._parsed(response, request))
        except UnfitError as error:
            return Failure(str(error))
        content = {"value": answer.value, "prompt_tokens": answer.prompt_tokens}
        write_text(path, json.dumps({**content, "answer_tokens": answer.answer_tokens}))
        return answer

    def cost(self) -> float:
        """Return what the usage so far has cost, in the prices' currency."""
        return cost_of(self.config, self.usage.prompt_tokens, self.usage.answer_tokens)

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": [{"role": role, "content": text} for role, text in request.messages],
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_answer_tokens,
            "seed": request.number,
        }
        if request.schema is not None:
            schema = {"name": "answer", "strict": True, "schema": request.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _identity(self, body: Mapping[str, Any], number: int) -> str:
        return hashlib.sha256(f"{self.config.url} {number} {canonical_json(body)}".encode()).hexdigest()

    def _parsed(self, response: Mapping[str, Any], request: Request) -> Answer:
        try:
            text = response["choices"][0]["message"]["content"]
            usage = response.get("usage") or {}
            prompt, answer = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        except (KeyError, IndexError, TypeError, ValueError):
            raise TryAgainError("the response is no chat completion", unreachable=True) from None
        self._transport.count(prompt, answer)
        if request.schema is None:
            return Answer(text, prompt, answer, False)
        value = _json_of(text)
        problem = misfit(value, request.schema)
        if problem:
            raise TryAgainError(f"the answer does not fit its schema: {problem}", unreachable=False)
        return Answer(value, prompt, answer, False)


def _json_of(text: Any) -> Any:
    """Return the JSON object in an answer, which some servers wrap in a code fence; None where there is none."""
    text = str(text)
    first, last = text.find("{"), text.rfind("}")
    try:
        return json.loads(text[first : last + 1]) if 0 <= first < last else None
    except ValueError:
        return None


def misfit(value: Any, schema: Mapping[str, Any]) -> str:
    """Say what of a flat object schema (required integers in ranges, strings) a value breaks, or ""."""
    if not isinstance(value, dict):
        return "no JSON object"
    properties: Mapping[str, Any] = schema["properties"]
    for name in schema.get("required", properties):
        if name not in value:
            return f"'{name}' is missing"
    for name, item in value.items():
        if name not in properties:
            return f"'{name}' was not asked for"
        rule = properties[name]
        if rule["type"] == "integer":
            if not isinstance(item, int) or isinstance(item, bool):
                return f"'{name}' is no integer"
            if not rule.get("minimum", item) <= item <= rule.get("maximum", item):
                return f"'{name}' is {item}, outside its range"
        elif rule["type"] == "string" and not isinstance(item, str):
            return f"'{name}' is no text"
    return ""


def cost_of(config: EndpointConfig, prompt_tokens: float, answer_tokens: float) -> float:
    """Return what so many tokens cost."""
    return (prompt_tokens * config.prompt_price + answer_tokens * config.answer_price) / 1e6


def estimated_cost(config: EndpointConfig, requests: Sequence[Request]) -> float:
    """Return about what requests will cost at most, before they are sent: every answer as long as allowed."""
    characters = sum(len(text) for request in requests for _, text in request.messages)
    return cost_of(config, characters / _CHARACTERS_PER_TOKEN, len(requests) * config.max_answer_tokens)
