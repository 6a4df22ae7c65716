"""A checkpoint as a model of Inspect AI (inspect.aisi.org.uk): `--model codeflow/CHECKPOINT`. Needs `inspect-ai`.

It runs in Inspect's process; samples that are asked at the same time are decoded together. Tools are offered and called
in the chat format. What a request asks for and is not understood is an error rather than ignored.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inspect_ai.model import (  # pyright: ignore[reportMissingImports]
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    TopLogprob,
)
from inspect_ai.tool import (  # pyright: ignore[reportMissingImports]
    ToolCall,
    ToolChoice,
    ToolFunction,
    ToolInfo,
)

from codeflow.core.config import validate
from codeflow.core.errors import InfrastructureError, UserError
from codeflow.model.batching import ContinuousBatch, Piece, Request
from codeflow.model.sampling import GenerateSettings
from codeflow.recipes.generate import find_model, load_checkpoint
from codeflow.solve.agent.protocol import read_calls
from codeflow.solve.answer import stops
from codeflow.solve.prompt import render_prompt
from codeflow.solve.serve_decode import DecodeThread
from codeflow.tokens.chat import Message, Tool, prompt_segments
from codeflow.tokens.chat import ToolCall as Call
from codeflow.tokens.special import END_THINK, THINK

_ANSWER_TOKENS = 1024
_STOP = {"stop": "stop", "length": "max_tokens", "context": "model_length"}
_NOT_UNDERSTOOD = (
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "best_of",
    "response_schema",
    "prompt_logprobs",
)


class CodeflowModel(ModelAPI):
    """A checkpoint artifact or a published directory. Temperature is 1 unless the task sets it.

    Arguments (`-M`): `thinking` opens a thinking block, `max_rows` (16) answers are decoded at a time.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        thinking: bool = False,
        max_rows: int = 16,
        **rest: Any,
    ) -> None:
        """Raises UserError for a folder that is no checkpoint and for arguments that there are not."""
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        if rest:
            raise UserError(f"model argument '{next(iter(rest))}' is unknown; there are: thinking, max_rows")
        if max_rows < 1:
            raise UserError(f"model argument max_rows={max_rows} must be at least 1")
        self._model, self._tokenizer = load_checkpoint(find_model(Path(model_name)))
        self._thinking, self._max_rows = thinking, max_rows
        self._decode: DecodeThread | None = None

    def close(self) -> None:
        """End the decode thread; the next question starts another."""
        if self._decode is not None:
            self._decode.stop(0)
            self._decode = None

    def max_tokens(self) -> int | None:
        """Return the longest answer where the task names none."""
        return _ANSWER_TOKENS

    def max_connections(self) -> int:
        """Return how many answers are decoded at a time."""
        return self._max_rows

    async def count_text_tokens(self, text: str) -> int:
        """Return the exact number."""
        return len(self._tokenizer.encode(text))

    async def tokenize(self, text: str) -> list[int]:
        """Return the ids of plain text."""
        return self._tokenizer.encode(text)

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Answer a conversation `num_choices` times.

        A conversation that leaves no room gives the stop reason `model_length`. Raises UserError for what is not
        understood, InfrastructureError when decoding fails.
        """
        settings = _settings(config)
        offered = _offered(tools, tool_choice)
        segments = prompt_segments([_message(one) for one in input], self._thinking, offered)
        prompt = render_prompt(segments, self._tokenizer)
        if len(prompt) >= self._model.config.max_position_embeddings:
            said = f"the prompt has {len(prompt)} tokens, the context {self._model.config.max_position_embeddings}"
            return ModelOutput.from_content(self.model_name, said, stop_reason="model_length")
        seed = secrets.randbits(62) if config.seed is None else config.seed
        streams = [(seed, number) for number in range(config.num_choices or 1)]
        made = await self._decoded([Request(prompt, settings, stream, self._tokenizer) for stream in streams])
        n_made = sum(map(len, made))
        return ModelOutput(
            model=self.model_name,
            choices=[self._choice(pieces, bool(offered), bool(config.logprobs)) for pieces in made],
            usage=ModelUsage(input_tokens=len(prompt), output_tokens=n_made, total_tokens=len(prompt) + n_made),
        )

    async def _decoded(self, requests: Sequence[Request]) -> list[list[Piece]]:
        """Return the pieces of each request, decoded beside those of other conversations."""
        if self._decode is None:
            self._decode = DecodeThread(ContinuousBatch(self._model, self._max_rows), 1 << 20)
        loop, arrived = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Piece | Exception]]()

        def deliver_to(index: int) -> Any:
            return lambda piece: loop.call_soon_threadsafe(arrived.put_nowait, (index, piece))

        made: list[list[Piece]] = [[] for _ in requests]
        tickets = self._decode.submit([(one, deliver_to(index)) for index, one in enumerate(requests)])
        n_open = len(tickets)
        try:
            while n_open:
                index, piece = await arrived.get()
                if isinstance(piece, Exception):
                    raise InfrastructureError(f"decoding failed: {piece}") from piece
                if piece.stop_reason == "invalid":
                    raise UserError(
                        "the model's logits are not numbers: its weights are broken; give another checkpoint"
                    )
                made[index].append(piece)
                n_open -= bool(piece.stop_reason)
        finally:
            if self._decode is not None:
                self._decode.cancel(tickets)
        return made

    def _choice(self, pieces: Sequence[Piece], with_tools: bool, with_logprobs: bool) -> ChatCompletionChoice:
        text = "".join(piece.text for piece in pieces)
        before, closed, after = (THINK + text if self._thinking else text).partition(END_THINK)
        thought, answer = (before.replace(THINK, "", 1).strip(), after) if closed else ("", text)
        if not closed and THINK in before:
            thought, answer = before.replace(THINK, "", 1).strip(), ""  # opened, and never closed
        calls: list[ToolCall] = []
        if with_tools:
            answer, found, problem = read_calls(answer)
            calls = [_call(call) for call in found]
            calls += [ToolCall(secrets.token_hex(8), "tool_call", {}, parse_error=problem)] if problem else []
        content: list[Any] = [ContentReasoning(reasoning=thought)] if thought else []
        content.append(ContentText(text=answer.strip()))
        message = ChatMessageAssistant(
            content=content if thought else answer.strip(),
            tool_calls=calls or None,
            model=self.model_name,
            source="generate",
        )
        stop = "tool_calls" if calls else _STOP[pieces[-1].stop_reason]
        logprobs = Logprobs(content=[self._logprob(piece) for piece in pieces]) if with_logprobs else None
        return ChatCompletionChoice(message=message, stop_reason=stop, logprobs=logprobs)

    def _logprob(self, piece: Piece) -> Logprob:
        top = [TopLogprob(token=self._tokenizer.decode([token]), logprob=value) for token, value in piece.top]
        return Logprob(token=self._tokenizer.decode([piece.id]), logprob=piece.logprob, top_logprobs=top or None)


def _settings(config: GenerateConfig) -> GenerateSettings:
    for name in _NOT_UNDERSTOOD:
        if getattr(config, name, None):
            raise UserError(f"{name}={getattr(config, name)} is not understood by a codeflow model; leave it out")
    stop_ids, texts = stops(config.stop_seqs or [])
    fields = {
        "max_new_tokens": config.max_tokens or _ANSWER_TOKENS,
        "temperature": 1.0 if config.temperature is None else config.temperature,
        "top_p": 1.0 if config.top_p is None else config.top_p,
        "top_k": config.top_k or 0,
        "top_logprobs": (config.top_logprobs or 0) if config.logprobs else 0,
    }
    return validate(GenerateSettings, {**fields, "stop_ids": stop_ids, "stop_texts": texts})


def _offered(tools: Sequence[ToolInfo], choice: ToolChoice) -> list[Tool]:
    """Return the tools on offer. A call cannot be enforced: "any" is like "auto"."""
    if choice == "none":
        return []
    named = choice.name if isinstance(choice, ToolFunction) else None
    return [
        Tool(tool.name, tool.description, json.dumps(tool.parameters.model_dump(exclude_none=True)))
        for tool in tools
        if named in (None, tool.name)
    ]


def _message(message: ChatMessage) -> Message:
    """Return a message in the words of the chat format. Raises UserError for contents that are not text."""
    parts = message.content if isinstance(message.content, list) else []
    other = next((part.type for part in parts if part.type not in ("text", "reasoning")), None)
    if other:
        raise UserError(f"a message holds a part of kind '{other}'; a codeflow model reads text alone")
    if isinstance(message, ChatMessageTool):
        return Message("tool", message.error.message if message.error else message.text)
    calls = message.tool_calls or [] if isinstance(message, ChatMessageAssistant) else []
    return Message(
        message.role, message.text, "", tuple(Call(call.function, json.dumps(call.arguments)) for call in calls)
    )


def _call(call: Call) -> ToolCall:
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        arguments = None
    if isinstance(arguments, dict):
        return ToolCall(secrets.token_hex(8), call.name, arguments)
    return ToolCall(secrets.token_hex(8), call.name, {}, parse_error="the arguments are no JSON object")
