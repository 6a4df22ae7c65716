"""Tool calls as text: how a prompt explains them, and how they are read from what a model wrote.

    <tool_call>
    {"name": "bash", "arguments": {"command": "ls"}}
    </tool_call>

as in the chat format (`tokens/chat.py`). A call that cannot be read becomes a problem that the model is told about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from codeflow.tokens.chat import ToolCall, answer_text
from codeflow.tokens.special import END_TOOL_CALL, IM_END, TOOL_CALL

_EXPLAINED = """\
You change a repository by calling tools. A call is one JSON object between tags:

{open}
{{"name": NAME, "arguments": {{...}}}}
{close}

Its answer comes before your next turn. The tools:

{tools}"""


def explained(tools: Sequence[Mapping[str, Any]]) -> str:
    """Return the part of a system prompt that explains the tools."""
    lines = [json.dumps(tool["function"], ensure_ascii=False) for tool in tools]
    return _EXPLAINED.format(open=TOOL_CALL, close=END_TOOL_CALL, tools="\n".join(lines))


def read_calls(text: str) -> tuple[str, tuple[ToolCall, ...], str]:
    """Return what a turn says before its first call, its calls, and what is wrong with one that cannot be read.

    Calls inside a thinking block are none. Reading stops at the first one that is wrong.
    """
    parts = answer_text(text).removesuffix(IM_END).split(TOOL_CALL)
    calls: list[ToolCall] = []
    for part in parts[1:]:
        body, closed, _ = part.partition(END_TOOL_CALL)
        try:
            tree = json.loads(body)
        except (ValueError, RecursionError):
            how = "is not JSON" if closed else f"is not closed by {END_TOOL_CALL}"
            return parts[0].strip(), tuple(calls), f"a tool call {how}"
        if not isinstance(tree, dict) or not isinstance(tree.get("name"), str):
            return parts[0].strip(), tuple(calls), 'a tool call must be {"name": ..., "arguments": {...}}'
        arguments = tree.get("arguments", {})
        calls.append(ToolCall(tree["name"], arguments if isinstance(arguments, str) else json.dumps(arguments)))
    return parts[0].strip(), tuple(calls), ""
