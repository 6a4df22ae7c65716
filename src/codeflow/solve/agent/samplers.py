"""Who an agent is: a model in this process, exact to the token, or any OpenAI-compatible endpoint.

A sampler continues a context, which is all that has been read and written since its beginning. In this process the
context is a list of ids that only grows: what was sampled is never encoded again, so training sees the very ids, masks
and log-probabilities that were sampled. A server keeps its ids to itself; turns then have text alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from codeflow.core.errors import InfrastructureError
from codeflow.core.types import Segment
from codeflow.endpoint.completions import Asked, CompletionClient
from codeflow.endpoint.transport import RefusedError, UnfitError
from codeflow.solve.agent.protocol import explained, read_calls
from codeflow.solve.answer import STOP_IDS
from codeflow.solve.prompt import render_prompt
from codeflow.tokens.chat import Message, ToolCall, chat_segments
from codeflow.tokens.special import END_TOOL_RESPONSE, IM_END, IM_START, TOOL_RESPONSE

if TYPE_CHECKING:
    from codeflow.model.batching import Piece
    from codeflow.solve.serve_decode import DecodeThread
    from codeflow.tokens.tokenizer import Tokenizer

_CHARACTERS_PER_TOKEN = 3.0  # of code and English, for estimates where ids are not known; rather too many tokens


@dataclass(frozen=True, slots=True)
class Settings:
    """How turns are sampled."""

    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Said:
    """One sampled turn. `problem`: what is wrong with a call in it."""

    text: str
    content: str
    calls: tuple[ToolCall, ...]
    problem: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: str


@dataclass
class Context:
    """What has been read and written since its beginning."""

    messages: list[Message] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)  # where they are known
    n_tokens: int = 0  # known or estimated
    call_ids: list[str] = field(default_factory=list)  # of the last turn's calls, for servers
    native: list[dict[str, Any]] = field(default_factory=list)  # the messages as a server takes them


class Sampler(Protocol):
    """Continues contexts."""

    name: str
    context_tokens: int  # the longest context

    def tools_prompt(self, tools: Sequence[dict[str, Any]]) -> str:
        """Return what the system prompt must say about tools; "" where they travel apart."""
        ...

    def add(self, context: Context, messages: Sequence[Message]) -> tuple[int, ...]:
        """Append messages that the model is to read, and the beginning of its turn; return their ids, if known."""
        ...

    def cost(self, context: Context, messages: Sequence[Message]) -> int:
        """Return how many tokens `add` would add."""
        ...

    async def sample(self, context: Context, max_tokens: int, seed: int) -> Said:
        """Sample the next turn and append it. Raises InfrastructureError when the model cannot be reached."""
        ...


class ModelSampler:
    """A model in this process. Turns of many episodes are decoded together."""

    def __init__(
        self, decode: DecodeThread, tokenizer: Tokenizer, name: str, context_tokens: int, settings: Settings
    ) -> None:
        self._decode, self._tokenizer, self._settings = decode, tokenizer, settings
        self.name, self.context_tokens = name, context_tokens

    def tools_prompt(self, tools: Sequence[dict[str, Any]]) -> str:
        """Return the text protocol."""
        return explained(tools)

    def add(self, context: Context, messages: Sequence[Message]) -> tuple[int, ...]:
        """Render and append; the turn before is closed where the model did not do so itself."""
        ids = self._rendered(context, messages)
        context.messages += messages
        context.ids += ids
        context.n_tokens = len(context.ids)
        return ids

    def cost(self, context: Context, messages: Sequence[Message]) -> int:
        """Return the exact number."""
        return len(self._rendered(context, messages))

    def _rendered(self, context: Context, messages: Sequence[Message]) -> tuple[int, ...]:
        segments: list[Segment] = []
        if context.ids:
            closed = context.ids[-1] in STOP_IDS
            segments += [] if closed else [Segment("special", IM_END, False)]
            segments.append(Segment("text", "\n", False))
        opening = (Segment("special", IM_START, False), Segment("text", "assistant\n", False))
        segments += [*chat_segments(messages, "none"), *opening]
        return tuple(render_prompt(segments, self._tokenizer))

    async def sample(self, context: Context, max_tokens: int, seed: int) -> Said:
        """Decode until the turn ends or `max_tokens` are made."""
        from codeflow.model.batching import Request
        from codeflow.model.sampling import GenerateSettings

        settings = GenerateSettings(
            max_new_tokens=max_tokens,
            temperature=self._settings.temperature,
            top_p=self._settings.top_p,
            stop_ids=STOP_IDS,
        )
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue["Piece | Exception"]()

        def deliver(piece: Piece | Exception) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        tickets = self._decode.submit([(Request(tuple(context.ids), settings, (seed, 0)), deliver)])
        made: list[Piece] = []
        try:
            while not made or not made[-1].stop_reason:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise InfrastructureError(f"decoding failed: {piece}")
                made.append(piece)
        finally:
            self._decode.cancel(tickets)
        if made[-1].stop_reason == "invalid":
            raise InfrastructureError("the model's logits are not numbers; its weights are broken")
        ids = tuple(piece.id for piece in made)
        text = self._tokenizer.decode([token for token in ids if token not in STOP_IDS])
        content, calls, problem = read_calls(text)
        context.ids += ids
        context.n_tokens = len(context.ids)
        context.messages.append(Message("assistant", text))
        return Said(text, content, calls, problem, ids, tuple(piece.logprob for piece in made), made[-1].stop_reason)


class EndpointSampler:
    """A model behind a url. With `native` tools travel in the API's own fields, else as text."""

    def __init__(
        self,
        client: CompletionClient,
        context_tokens: int,
        settings: Settings,
        tools: Sequence[dict[str, Any]],
        native: bool = True,
        logprobs: bool = False,
    ) -> None:
        self._client, self._settings, self._native, self._logprobs = client, settings, native, logprobs
        self._tools = tuple(tools) if native else ()
        self.name, self.context_tokens = client.model, context_tokens

    def tools_prompt(self, tools: Sequence[dict[str, Any]]) -> str:
        """Return the text protocol, or nothing where the server is given the schemas."""
        return "" if self._native else explained(tools)

    def add(self, context: Context, messages: Sequence[Message]) -> tuple[int, ...]:
        """Append; answers of tools name their calls."""
        context.n_tokens += self.cost(context, messages)
        for message in messages:
            row = message.as_row()
            if message.role == "tool" and self._native and context.call_ids:
                row["tool_call_id"] = context.call_ids.pop(0)
            elif message.role == "tool":  # it answers no call that the server knows of
                row |= {"role": "user", "content": f"{TOOL_RESPONSE}\n{message.content}\n{END_TOOL_RESPONSE}"}
            context.native.append(row)
        context.messages += messages
        return ()

    def cost(self, context: Context, messages: Sequence[Message]) -> int:
        """Return an estimate from the number of characters."""
        return sum(8 + round(len(message.content) / _CHARACTERS_PER_TOKEN) for message in messages)

    async def sample(self, context: Context, max_tokens: int, seed: int) -> Said:
        """Ask the server; its count of tokens replaces the estimate."""
        asked = Asked(
            messages=tuple(context.native),
            temperature=self._settings.temperature,
            top_p=self._settings.top_p,
            max_tokens=max_tokens,
            seed=seed,
            tools=self._tools,
            logprobs=self._logprobs,
        )
        try:
            made = await asyncio.to_thread(self._client.sample, asked)
        except (RefusedError, UnfitError) as error:
            raise InfrastructureError(str(error)) from None
        content, calls, problem = read_calls(made.text)
        row: dict[str, Any] = {"role": "assistant", "content": made.text}
        if made.tool_calls:
            calls, problem = tuple(ToolCall(*call) for call in made.tool_calls), ""
            context.call_ids = [f"call_{len(context.native)}_{n}" for n in range(len(calls))]
            row["tool_calls"] = [
                {"id": name, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for name, call in zip(context.call_ids, calls, strict=True)
            ]
        else:
            context.call_ids = []
        context.native.append(row)
        context.messages.append(Message("assistant", made.text))
        known = made.prompt_tokens + made.answer_tokens
        context.n_tokens = known or context.n_tokens + round(len(made.text) / _CHARACTERS_PER_TOKEN)
        return Said(made.text, content, calls, problem, (), made.logprobs, made.finish_reason)
