"""A sampler that says what a script tells it, with one id per byte: what the model read and wrote can be spelt out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from codeflow.core.errors import InfrastructureError
from codeflow.solve.agent.protocol import explained, read_calls
from codeflow.solve.agent.samplers import Context, Said
from codeflow.tokens.chat import Message

Line = str | Callable[[str], str]  # what is said, perhaps of what was read last


def call(name: str, **arguments: Any) -> str:
    """Return a call as text."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


class Scripted:
    """Says its lines one after the other."""

    name = "script"

    def __init__(self, lines: Sequence[Line], context_tokens: int = 1_000_000) -> None:
        self.lines, self.context_tokens = list(lines), context_tokens
        self.prompts: list[bytes] = []  # what it had read each time it spoke
        self.limits: list[int] = []

    def tools_prompt(self, tools: Sequence[dict[str, Any]]) -> str:
        return explained(tools)

    def _ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple("".join(f"<{message.role}>{message.content}</>" for message in messages).encode())

    def add(self, context: Context, messages: Sequence[Message]) -> tuple[int, ...]:
        ids = self._ids(messages)
        context.ids += ids
        context.n_tokens = len(context.ids)
        context.messages += messages
        return ids

    def cost(self, context: Context, messages: Sequence[Message]) -> int:
        return len(self._ids(messages))

    async def sample(self, context: Context, max_tokens: int, seed: int) -> Said:
        self.prompts.append(bytes(context.ids))
        self.limits.append(max_tokens)
        if not self.lines:
            raise InfrastructureError("the script is at its end")
        line = self.lines.pop(0)
        text = line if isinstance(line, str) else line(context.messages[-1].content)
        text = text.encode()[:max_tokens].decode("utf-8", "ignore")
        ids = tuple(text.encode())
        context.ids += ids
        context.n_tokens = len(context.ids)
        context.messages.append(Message("assistant", text))
        content, calls, problem = read_calls(text)
        return Said(text, content, calls, problem, ids, tuple(-0.5 for _ in ids), "stop")
