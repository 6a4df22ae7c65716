"""Sampling from any OpenAI-compatible server: conversations and texts, with tools, log-probabilities and usage.

Nothing is cached here: whoever asks keeps the answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codeflow.core.errors import UserError
from codeflow.endpoint.transport import ServerConfig, Transport, TryAgainError

_MAX_SEED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be sampled: `messages` as the API takes them, or a `prompt` to continue (perhaps up to `suffix`)."""

    messages: tuple[Mapping[str, Any], ...] = ()
    prompt: str = ""
    suffix: str = ""
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 1024
    seed: int = 0
    stop: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()  # in the function-call format
    logprobs: bool = True


@dataclass(frozen=True, slots=True)
class Sampled:
    """What came back. `logprobs` holds one number per token of the answer, or nothing where the server gives none."""

    text: str
    tool_calls: tuple[tuple[str, str], ...]  # (name, arguments as JSON text)
    finish_reason: str
    prompt_tokens: int
    answer_tokens: int
    logprobs: tuple[float, ...]

    @property
    def confidence(self) -> float:
        """The geometric mean of the tokens' probabilities; NaN where they are not known."""
        return math.exp(sum(self.logprobs) / len(self.logprobs)) if self.logprobs else math.nan


class CompletionClient:
    """Samples from one model. Thread-safe."""

    def __init__(self, transport: Transport, model: str = "") -> None:
        """Without a name, the model that the server has. Raises UserError when it has several."""
        self.transport = transport
        self.model = model or transport.config.model or self._only_model()

    @classmethod
    def of(cls, config: ServerConfig) -> CompletionClient:
        """Return a client of a configured server."""
        return cls(Transport(config))

    def sample(self, asked: Asked) -> Sampled:
        """Return one answer. Raises what `Transport.ask` raises."""
        path = "chat/completions" if asked.messages else "completions"
        return self.transport.ask(path, self._body(asked), self._read)

    def _only_model(self) -> str:
        def read(tree: Mapping[str, Any]) -> list[str]:
            try:
                return [str(one["id"]) for one in tree["data"]]
            except (KeyError, TypeError):
                raise TryAgainError("the list of models is none", unreachable=True) from None

        names = self.transport.ask("models", None, read)
        if len(names) != 1:
            shown = ", ".join(names[:10]) or "none"
            raise UserError(f"{self.transport.config.url} has models {shown}; name one with server.model=NAME")
        return names[0]

    def _body(self, asked: Asked) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "max_tokens": asked.max_tokens,
            "seed": asked.seed % _MAX_SEED,
        }
        body |= {"stop": list(asked.stop)} if asked.stop else {}
        if asked.messages:
            body["messages"] = [dict(message) for message in asked.messages]
            body |= {"tools": [dict(tool) for tool in asked.tools]} if asked.tools else {}
            return body | ({"logprobs": True} if asked.logprobs else {})
        body["prompt"] = asked.prompt
        body |= {"suffix": asked.suffix} if asked.suffix else {}
        return body | ({"logprobs": 1} if asked.logprobs else {})

    def _read(self, tree: Mapping[str, Any]) -> Sampled:
        try:
            choice = tree["choices"][0]
            message = choice.get("message")
            text = message["content"] if message is not None else choice["text"]
            calls = [one["function"] for one in (message or {}).get("tool_calls") or []]
            usage = tree.get("usage") or {}
            sampled = Sampled(
                text=str(text or ""),
                tool_calls=tuple((str(call["name"]), str(call["arguments"])) for call in calls),
                finish_reason=str(choice.get("finish_reason") or ""),
                prompt_tokens=int(usage.get("prompt_tokens") or 0),
                answer_tokens=int(usage.get("completion_tokens") or 0),
                logprobs=_logprobs(choice.get("logprobs")),
            )
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise TryAgainError("the response is no completion", unreachable=True) from None
        self.transport.count(sampled.prompt_tokens, sampled.answer_tokens)
        return sampled


def _logprobs(found: Any) -> tuple[float, ...]:
    if not found:
        return ()
    content: Sequence[Any] | None = found.get("content")
    values = [one["logprob"] for one in content] if content else found.get("token_logprobs") or []
    return tuple(float(value) for value in values if value is not None)
