"""What an agent can do in a repository: bash, view, edit (search and replace), search, run_tests, submit.

The schemas are in the common function-call format; `protocol.py` is the same as text. A tool never raises for what the
model asks: the answer says what was wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from codeflow.sandbox.bubblewrap import find_python
from codeflow.solve.repository.workspace import Ran, Workspace
from codeflow.tokens.chat import ToolCall

SUBMIT = "submit"
_MOST_LINES = 400  # shown by one view


def _tool(name: str, description: str, required: Mapping[str, str], optional: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {key: {"type": "string", "description": text} for key, text in required.items()}
    parameters = {"type": "object", "properties": {**fields, **optional}, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


_LINE = {"type": "integer", "minimum": 1}
TOOLS: tuple[dict[str, Any], ...] = (
    _tool(
        "bash",
        "Run a command by bash in the repository's folder. No network; every command starts there anew, and nothing "
        "goes on running behind it.",
        {"command": "the command line"},
        {},
    ),
    _tool(
        "view",
        "Show a file with line numbers, or the files of a folder.",
        {"path": "relative to the repository's folder"},
        {"first": {**_LINE, "description": "first line"}, "last": {**_LINE, "description": "last line"}},
    ),
    _tool(
        "edit",
        "Replace a piece of a file. `old` must occur exactly once, with its white space; empty, it makes a new file.",
        {"path": "relative to the repository's folder", "old": "the text to replace", "new": "the text in its place"},
        {},
    ),
    _tool(
        "search",
        "Find lines by an extended regular expression (grep -E).",
        {"pattern": "the expression"},
        {"path": {"type": "string", "description": "a file or folder to search; all if not given"}},
    ),
    _tool(
        "run_tests",
        "Run tests by pytest.",
        {},
        {"paths": {"type": "string", "description": "files or test ids, by blanks; all if not given"}},
    ),
    _tool(SUBMIT, "End the work: the files as they are now are the answer.", {}, {}),
)
_SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """What one call may take: seconds of a command, characters of its answer."""

    command_seconds: float = 60.0
    output_characters: int = 8000


@dataclass(frozen=True, slots=True)
class Answered:
    """A tool's answer. `fault`: the surroundings failed, and the episode is none of the model's failures."""

    text: str
    exit_code: int | None = None
    submitted: bool = False
    fault: str = ""


async def call_tool(call: ToolCall, workspace: Workspace, limits: ToolLimits) -> Answered:
    """Do what a call asks. Unknown tools and misfitting arguments are answered with what would fit."""
    arguments = _arguments(call)
    if isinstance(arguments, str):
        return Answered(f"error: {arguments}", 2)
    if call.name == SUBMIT:
        return Answered("submitted", 0, submitted=True)
    answered = await _TOOLS[call.name](workspace, arguments, limits)
    return Answered(
        cut(answered.text, limits.output_characters), answered.exit_code, answered.submitted, answered.fault
    )


def _arguments(call: ToolCall) -> dict[str, Any] | str:
    schema = _SCHEMAS.get(call.name)
    if schema is None:
        return f"no tool '{call.name}'; there are: {', '.join(_SCHEMAS)}"
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return "the arguments are no JSON object"
    if not isinstance(arguments, dict):
        return "the arguments are no JSON object"
    for name in schema["required"]:
        if name not in arguments:
            return f"{call.name} needs '{name}'"
    for name, value in arguments.items():
        rule = schema["properties"].get(name)
        if rule is None:
            return f"{call.name} has no argument '{name}'; it takes: {', '.join(schema['properties']) or 'none'}"
        if not isinstance(value, str if rule["type"] == "string" else int) or isinstance(value, bool):
            return f"'{name}' must be of type {rule['type']}"
        if isinstance(value, str) and "\0" in value:
            return f"'{name}' holds a NUL character"
    return arguments


async def _bash(workspace: Workspace, arguments: Mapping[str, Any], limits: ToolLimits) -> Answered:
    line = ["/bin/bash", "-c", arguments["command"]]
    return _ran(await workspace.run(line, limits.command_seconds, 2 * limits.output_characters), limits)


async def _search(workspace: Workspace, arguments: Mapping[str, Any], limits: ToolLimits) -> Answered:
    line = ["grep", "-rnIE", "--exclude-dir=.git", "-e", arguments["pattern"], "--", arguments.get("path") or "."]
    ran = await workspace.run(line, limits.command_seconds, 2 * limits.output_characters)
    if ran.exit_code == 1 and not ran.output:
        return Answered("no line matches", 1)
    return _ran(ran, limits)


async def _run_tests(workspace: Workspace, arguments: Mapping[str, Any], limits: ToolLimits) -> Answered:
    paths = str(arguments.get("paths") or "").split()
    line = [find_python()[0], "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "--", *paths]
    return _ran(await workspace.run(line, limits.command_seconds, 2 * limits.output_characters), limits)


def _ran(ran: Ran, limits: ToolLimits) -> Answered:
    if ran.fault:
        return Answered("the sandbox failed", None, fault=ran.fault)
    if ran.exit_code is None:
        return Answered(f"{ran.output}\n[stopped after {limits.command_seconds:g} s]".lstrip(), None)
    ended = f"[exit code {ran.exit_code}]"
    return Answered(
        f"{ran.output.rstrip()}\n{ended}".lstrip() if ran.exit_code else ran.output or "[no output]", ran.exit_code
    )


async def _view(workspace: Workspace, arguments: Mapping[str, Any], _: ToolLimits) -> Answered:
    path = arguments["path"].strip().rstrip("/") or "."
    try:
        lines = workspace.read(path).decode("utf-8", "replace").splitlines()
    except (FileNotFoundError, ValueError):
        return _folder(workspace, path)
    first = arguments.get("first", 1)
    last = min(arguments.get("last", len(lines)), len(lines), first + _MOST_LINES - 1)
    shown = [f"{number:6}\t{lines[number - 1]}" for number in range(max(first, 1), last + 1)]
    rest = f"[{len(lines)} lines in all]" if last < len(lines) or first > 1 else ""
    return Answered("\n".join([*shown, *([rest] if rest else [])]) or "[empty]", 0)


def _folder(workspace: Workspace, path: str) -> Answered:
    prefix = "" if path == "." else f"{path.removeprefix('./')}/"
    inside = [one.removeprefix(prefix) for one in workspace.paths if one.startswith(prefix)]
    if not inside:
        return Answered(f"error: no file or folder '{path}'", 1)
    names = dict.fromkeys(one if "/" not in one else f"{one.partition('/')[0]}/" for one in inside)
    return Answered("\n".join(names), 0)


async def _edit(workspace: Workspace, arguments: Mapping[str, Any], _: ToolLimits) -> Answered:
    path, old, new = arguments["path"].strip(), arguments["old"], arguments["new"]
    try:
        text: str | None = workspace.read(path).decode("utf-8")
    except FileNotFoundError:
        text = None
    except UnicodeDecodeError:
        return Answered(f"error: {path} is not UTF-8 text", 1)
    except ValueError as error:
        return Answered(f"error: {error}", 1)
    if text is None and old:
        return Answered(f"error: no file '{path}'; with an empty 'old' it is made", 1)
    if text is not None and not old:
        return Answered(f"error: {path} exists; say in 'old' what to replace", 1)
    found = text.count(old) if text is not None else 1
    if found != 1:
        return Answered(f"error: 'old' occurs {found} times in {path}, it must occur once; add lines around it", 1)
    try:
        workspace.write(path, (new if text is None else text.replace(old, new)).encode("utf-8", "replace"))
    except ValueError as error:
        return Answered(f"error: {error}", 1)
    return Answered(f"{path} is {'made' if text is None else 'changed'}", 0)


_TOOLS: dict[str, Callable[[Workspace, Mapping[str, Any], ToolLimits], Awaitable[Answered]]] = {
    "bash": _bash,
    "view": _view,
    "edit": _edit,
    "search": _search,
    "run_tests": _run_tests,
}


def cut(text: str, most: int) -> str:
    """Return `text` with its middle taken out where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"
