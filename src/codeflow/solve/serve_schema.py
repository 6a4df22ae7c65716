"""What clients of the server may ask, in the words of the OpenAI API, and what that means for the model.

Understood beyond it: `top_k`, `min_p`, and `thinking` (the assistant begins inside its thinking block). A field that is
not understood is an error rather than ignored, unless it cannot change the answer.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from codeflow.core.config import Config, validate
from codeflow.core.errors import UserError
from codeflow.model.batching import Request
from codeflow.model.sampling import GenerateSettings
from codeflow.solve.answer import stops
from codeflow.solve.prompt import fim_segments, render_prompt
from codeflow.tokens.chat import Message, ToolCall, prompt_segments
from codeflow.tokens.tokenizer import Tokenizer

_MAX_CHOICES = 128  # prompts times n of one request
_MAX_STOPS = 16


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value or []


class StreamOptions(Config):
    """`include_usage` ends the stream with a chunk that counts tokens."""

    include_usage: bool = False


class AskedFor(Config):
    """Fields of both kinds of request."""

    model: str
    n: PositiveInt = 1
    seed: int | None = None  # None: new random numbers each time
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: NonNegativeInt = 0
    min_p: float = Field(default=0.0, ge=0, le=1)
    stop: Annotated[list[str], BeforeValidator(_listed), Field(max_length=_MAX_STOPS)] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None  # not used
    metadata: dict[str, Any] | None = None  # not used
    frequency_penalty: Literal[0, None] = None  # other values are not understood
    presence_penalty: Literal[0, None] = None


class CompletionAsked(AskedFor):
    """POST /v1/completions. A `suffix` asks for the middle between the prompt and it."""

    prompt: str | list[str] | list[int] | list[list[int]]
    suffix: str | None = None
    max_tokens: PositiveInt = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Literal[False] = False


class FunctionAsked(Config):
    """A tool call's function; `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCallAsked(Config):
    """A tool call in an earlier turn of the assistant."""

    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionAsked


class TextPart(Config):
    """A part of a message's content; only text is understood."""

    type: Literal["text"]
    text: str


class MessageAsked(Config):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallAsked] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    def as_message(self) -> Message:
        """Return it in the words of the chat format."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        calls = tuple(ToolCall(call.function.name, call.function.arguments) for call in self.tool_calls or [])
        role = "system" if self.role == "developer" else self.role
        return Message(role, text, self.reasoning_content or "", calls)


class ChatAsked(AskedFor):
    """POST /v1/chat/completions."""

    messages: Annotated[list[MessageAsked], Field(min_length=1)]
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None  # the newer name
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    thinking: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> ChatAsked:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self


@dataclass(frozen=True, slots=True)
class Planned:
    """The requests that answer a client: `n` for each prompt, in order."""

    requests: list[Request]
    n_prompt_tokens: int  # each distinct prompt once


def plan_completion(asked: CompletionAsked, tokenizer: Tokenizer, context_tokens: int) -> Planned:
    """Return what to decode. Raises UserError for a prompt that is empty or leaves no room in the context."""
    prompts = asked.prompt if isinstance(asked.prompt, list) else [asked.prompt]
    if prompts and isinstance(prompts[0], int):
        prompts = [prompts]
    ids = [_completion_ids(prompt, asked.suffix, tokenizer) for prompt in prompts]
    top = asked.logprobs or 0
    return _plan(asked, ids, asked.max_tokens, top, tokenizer, context_tokens)


def plan_chat(asked: ChatAsked, tokenizer: Tokenizer, context_tokens: int, default_tokens: int) -> Planned:
    """Return what to decode. Raises UserError for messages that cannot be rendered or leave no room."""
    segments = prompt_segments([message.as_message() for message in asked.messages], asked.thinking)
    ids = render_prompt(segments, tokenizer)
    n_new = asked.max_completion_tokens or asked.max_tokens or default_tokens
    return _plan(asked, [ids], n_new, asked.top_logprobs, tokenizer, context_tokens)


def _completion_ids(prompt: Any, suffix: str | None, tokenizer: Tokenizer) -> list[int]:
    if isinstance(prompt, list):
        if suffix is not None:
            raise UserError("suffix needs a prompt of text, not of token ids")
        return prompt
    if suffix is not None:
        return render_prompt(fim_segments(prompt, suffix), tokenizer)
    return tokenizer.encode(prompt)


def _plan(
    asked: AskedFor, ids: list[list[int]], n_new: int, top: int, tokenizer: Tokenizer, context_tokens: int
) -> Planned:
    if not 0 < len(ids) * asked.n <= _MAX_CHOICES:
        raise UserError(f"{len(ids)} prompts times n={asked.n} must give 1 to {_MAX_CHOICES} choices")
    for prompt in ids:
        if len(prompt) >= context_tokens:
            raise UserError(
                f"this model's context is {context_tokens} tokens, and the prompt has {len(prompt)}; shorten it"
            )
    fields = asked.model_dump(include={"temperature", "top_p", "top_k", "min_p"})
    stop_ids, texts = stops(asked.stop)
    rest = {"max_new_tokens": n_new, "stop_ids": stop_ids, "stop_texts": texts, "top_logprobs": top}
    settings = validate(GenerateSettings, fields | rest)
    seed = secrets.randbits(62) if asked.seed is None else asked.seed
    prompts = [prompt for prompt in ids for _ in range(asked.n)]
    requests = [Request(prompt, settings, (seed, i), tokenizer) for i, prompt in enumerate(prompts)]
    return Planned(requests, sum(map(len, ids)))
