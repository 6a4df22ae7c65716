"""The chat format: messages to segments, and the same as the jinja template of published tokenizers.

    <|im_start|>ROLE\\n CONTENT <|im_end|>\\n            ROLE: system, user, assistant, tool
    assistant:  [<think>\\n THINKING \\n</think>\\n] CONTENT [\\n<tool_call>\\n JSON \\n</tool_call>]...
    tool:       <tool_response>\\n CONTENT \\n</tool_response>

(without the blanks around the words in capitals). Contents and thinking are stripped of white space at both ends, and
thinking of white space alone is none: after a line break a word of the tokenizer begins, so the ids before a generated
text do not depend on that text. Tools on offer stand in the system turn, behind its content if it has one: a line of
words, then one JSON schema a line.

Difference to the template: what looks like a special token inside a content stays ordinary text here, while the
template makes one text of everything and so lets a content forge a turn. That is why training and rollouts use this.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
TOOLS_ON_OFFER = "Tools that may be called, one JSON schema a line:"

# transformers renders it with its own settings for white space around tags; `-` on every tag makes them irrelevant.
CHAT_TEMPLATE = """\
{%- set has_system = messages and messages[0]['role'] == 'system' -%}
{%- if tools -%}
{%- set head = (messages[0]['content'] or '') | trim if has_system else '' -%}
{{- '<|im_start|>system\\n' + head + ('\\n\\n' if head else '') + 'TOOLS_ON_OFFER' -}}
{%- for tool in tools -%}
{{- '\\n' + (tool | tojson) -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if not (tools and has_system and loop.first) -%}
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
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{{- '<think>\\n' if enable_thinking else '' -}}
{%- endif -%}
""".replace("TOOLS_ON_OFFER", TOOLS_ON_OFFER)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool on offer; `parameters` is the JSON schema of its arguments, an object, as text."""

    name: str
    description: str
    parameters: str = '{"type": "object", "properties": {}}'

    def as_row(self) -> dict[str, Any]:
        """Return the form that OpenAI-compatible servers and `apply_chat_template(tools=)` take.

        Raises UserError for parameters that are no JSON object and for a name that JSON would have to escape.
        """
        parameters = _json_object(self.parameters)
        if parameters is None or not _is_plain(self.name):
            raise UserError(f"tool '{self.name}' with parameters {self.parameters!r}: give a plain name, a JSON object")
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


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


def chat_segments(
    messages: Sequence[Message], train_on: TrainOn = "assistant", tools: Sequence[Tool] = ()
) -> tuple[Segment, ...]:
    """Return the segments of a whole conversation, with the tools on offer in its system turn.

    Loss lies on the assistant's words, from the first after its role up to and with `<|im_end|>`: of every answer
    ("assistant"), of the last one ("last") or nowhere ("none"). Raises UserError for a message that cannot be rendered.
    """
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    trained = {"assistant": answers, "last": answers[-1:], "none": []}[train_on]
    segments: list[Segment] = []
    has_system = bool(messages) and messages[0].role == "system"
    if tools:
        offer = "\n".join((TOOLS_ON_OFFER, *(json.dumps(tool.as_row(), ensure_ascii=False) for tool in tools)))
        system = messages[0] if has_system else Message("system", "")
        head = system.content.strip()
        segments += _message(replace(system, content=f"{head}\n\n{offer}" if head else offer), False)
    for index, message in enumerate(messages):
        if not (tools and has_system and index == 0):
            segments += _message(message, index in trained)
    return tuple(segments)


def prompt_segments(
    messages: Sequence[Message], thinking: bool = False, tools: Sequence[Tool] = ()
) -> tuple[Segment, ...]:
    """Return the segments up to where the assistant begins to write (inside its thinking block with `thinking`).

    None of them carries loss. Raises UserError for a message that cannot be rendered.
    """
    opening = [_special(IM_START, False), Segment("text", "assistant\n", False)]
    if thinking:
        opening += [_special(THINK, False), Segment("text", "\n", False)]
    return (*chat_segments(messages, "none", tools), *opening)


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
        if _json_object(call.arguments) is None or not _is_plain(call.name):
            raise UserError(
                f"tool call '{call.name}' with arguments {call.arguments!r}: give a plain name, a JSON object"
            )


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _is_plain(name: str) -> bool:
    return json.dumps(name) == f'"{name}"'
