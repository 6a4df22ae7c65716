"""The chat format: messages to segments, and the same as the jinja template of published tokenizers.

    <|im_start|>ROLE\\n CONTENT <|im_end|>\\n            ROLE: system, user, assistant, tool
    assistant:  [<think>\\n THINKING \\n</think>\\n] CONTENT [\\n<tool_call>\\n JSON \\n</tool_call>]...
    tool:       <tool_response>\\n CONTENT \\n</tool_response>

(without the blanks around the words in capitals). Contents and thinking are stripped of white space at both ends, and
thinking of white space alone is none: after a line break a word of the tokenizer begins, so the ids before a generated
text do not depend on that text.

Difference to the template: what looks like a special token inside a content stays ordinary text here, while the
template makes one text of everything and so lets a content forge a turn. That is why training and rollouts use this.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from codeflow.core.errors import UserError
from codeflow.core.types import Segment
from codeflow.tokens.special import (
    END_THINK,
    END_TOOL_CALL,
    END_TOOL_RESPONSE,
    IM_END,
    IM_START,
    THINK,
    TOOL_CALL,
    TOOL_RESPONSE,
)

ROLES = ("system", "user", "assistant", "tool")
TrainOn = Literal["assistant", "last", "none"]

# transformers renders it with its own settings for white space around tags; `-` on every tag makes them irrelevant.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- set content = (message['content'] or '') | trim -%}
{%- if message['role'] == 'tool' -%}
{{- '<tool_response>\\n' + content + '\\n</tool_response>' -}}
{%- else -%}
{%- set thinking = (message['reasoning_content'] or '') | trim -%}
{%- if message['role'] == 'assistant' and thinking -%}
{{- '<think>\\n' + thinking + '\\n</think>\\n' -}}
{%- endif -%}
{{- content -}}
{%- for call in message['tool_calls'] or [] -%}
{%- set function = call['function'] if call['function'] else call -%}
{%- set arguments = function['arguments'] -%}
{{- '\\n' if content or not loop.first else '' -}}
{{- '<tool_call>\\n{"name": "' + function['name'] + '", "arguments": ' -}}
{{- arguments if arguments is string else (arguments | tojson) -}}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{{- '<think>\\n' if enable_thinking else '' -}}
{%- endif -%}
"""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool; `arguments` is a JSON object as text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `thinking` and `tool_calls` are the assistant's only."""

    role: str
    content: str
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    def as_row(self) -> dict[str, Any]:
        """Return the plain form that chat templates and OpenAI-compatible servers take."""
        calls = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in self.tool_calls
        ]
        row: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.thinking:
            row["reasoning_content"] = self.thinking
        return {**row, "tool_calls": calls} if calls else row


def chat_segments(messages: Sequence[Message], train_on: TrainOn = "assistant") -> tuple[Segment, ...]:
    """Return the segments of a whole conversation.

    Loss lies on the assistant's words, from the first after its role up to and with `<|im_end|>`: of every answer
    ("assistant"), of the last one ("last") or nowhere ("none"). Raises UserError for a message that cannot be rendered.
    """
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    trained = {"assistant": answers, "last": answers[-1:], "none": []}[train_on]
    segments: list[Segment] = []
    for index, message in enumerate(messages):
        segments += _message(message, index in trained)
    return tuple(segments)


def prompt_segments(messages: Sequence[Message], thinking: bool = False) -> tuple[Segment, ...]:
    """Return the segments up to where the assistant begins to write (inside its thinking block with `thinking`).

    None of them carries loss. Raises UserError for a message that cannot be rendered.
    """
    opening = [_special(IM_START, False), Segment("text", "assistant\n", False)]
    if thinking:
        opening += [_special(THINK, False), Segment("text", "\n", False)]
    return (*chat_segments(messages, "none"), *opening)


def answer_text(generated: str) -> str:
    """Return the answer in what a model wrote after a prompt: behind its thinking block, before its end of turn.

    A thinking block that was opened and never closed leaves no answer.
    """
    turn = generated.partition(IM_END)[0]
    before, closed, after = turn.partition(END_THINK)
    if closed:
        return after.strip()
    return "" if THINK in before else before.strip()


def _message(message: Message, train: bool) -> list[Segment]:
    _check(message)
    content = message.content.strip()
    found = [_special(IM_START, False), Segment("text", f"{message.role}\n", False)]
    if message.role == "tool":
        found += [_special(TOOL_RESPONSE, False), Segment("text", f"\n{content}\n", False)]
        found.append(_special(END_TOOL_RESPONSE, False))
    else:
        found += _body(message, content, train)
    return [*found, _special(IM_END, train), Segment("text", "\n", False)]


def _body(message: Message, content: str, train: bool) -> list[Segment]:
    found: list[Segment] = []
    thinking = message.thinking.strip()
    if thinking:
        found += [_special(THINK, train), Segment("text", f"\n{thinking}\n", train), _special(END_THINK, train)]
        content = f"\n{content}"
    for number, call in enumerate(message.tool_calls):
        content += "\n" if message.content.strip() or number else ""
        found += [Segment("text", content, train)] if content else []
        text = f'\n{{"name": "{call.name}", "arguments": {call.arguments}}}\n'
        found += [_special(TOOL_CALL, train), Segment("text", text, train), _special(END_TOOL_CALL, train)]
        content = ""
    return [*found, Segment("text", content, train)] if content else found


def _special(name: str, train: bool) -> Segment:
    return Segment("special", name, train)


def _check(message: Message) -> None:
    if message.role not in ROLES:
        raise UserError(f"message role '{message.role}' is unknown; choose one of: {', '.join(ROLES)}")
    if message.role != "assistant" and (message.thinking or message.tool_calls):
        raise UserError(f"a message of role '{message.role}' thinks or calls tools; only the assistant's may")
    for call in message.tool_calls:
        try:
            arguments = json.loads(call.arguments)
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict) or json.dumps(call.name) != f'"{call.name}"':
            raise UserError(
                f"tool call '{call.name}' with arguments {call.arguments!r}: give a plain name, a JSON object"
            )
