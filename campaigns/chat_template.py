"""Render random conversations as we do and by transformers' `apply_chat_template`; ids and loss mask must be right.

Conversations have system, user, assistant and tool turns, thinking blocks, tools on offer and calls of them, with
troublesome texts. What
looks like a special token inside a content is left out: there ours and the template differ by intent. The mask is right
when the tokens with loss are, turn by turn, exactly what the assistant writes: all between its role's line and the end
of turn, and the end of turn. Plain texts of all kinds and files are compared as well. transformers runs in environments
of its own, one for each end of the versions supported (benchmarks/peers/transformers, made by
scripts/check_transformers.py).

    python -m campaigns chat_template --conversations 10000 --table docs/campaigns/chat_template.md
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from campaigns.tokenizer import TROUBLE, hypothesis_texts, random_texts
from codeflow.core.storage import write_text
from codeflow.core.types import Segment
from codeflow.tokens.chat import Message, Tool, ToolCall, chat_segments, prompt_segments
from codeflow.tokens.render import render_segments
from codeflow.tokens.special import (
    END_THINK,
    END_TOOL_CALL,
    IM_END,
    SPECIAL_TOKENS,
    THINK,
    TOOL_CALL,
)
from codeflow.tokens.tokenizer import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    Tokenizer,
    TokenizerConfig,
    train,
    transformers_config,
)

ENVIRONMENTS = ("requirements", "requirements-4.55")
PEER = Path(__file__).parents[1] / "benchmarks" / "peers" / "transformers"
_PARTS = [part for part in TROUBLE if part not in SPECIAL_TOKENS]
_ORDINARY = (
    "def f(x):\n    return x\n",
    "Look here: ",
    "```python\n",
    '{"a": 1}',
    "…",
    "The answer is ",
    "\n\n\n",
    "   ",
)


def conversation(rng: random.Random) -> list[Message]:
    """Return a random conversation: maybe a system turn, then questions with answers, calls and their results."""
    messages = [Message("system", _text(rng))] if rng.random() < 0.5 else []
    for _ in range(rng.randrange(1, 4)):
        messages.append(Message("user", _text(rng)))
        for _ in range(rng.choice((0, 0, 1, 2))):
            calls = tuple(_call(rng) for _ in range(rng.randrange(1, 3)))
            messages.append(Message("assistant", _text(rng), _text(rng) if rng.random() < 0.5 else "", calls))
            messages += [Message("tool", _text(rng)) for _ in calls]
        messages.append(Message("assistant", _text(rng), _text(rng) if rng.random() < 0.5 else ""))
    return messages


def _text(rng: random.Random) -> str:
    text = "".join(rng.choice(_PARTS if rng.random() < 0.6 else _ORDINARY) for _ in range(rng.randrange(12)))
    return "" if any(token in text for token in SPECIAL_TOKENS) else text


def _call(rng: random.Random) -> ToolCall:
    arguments = {rng.choice(("command", "path", "näme", "a b")): rng.choice((_text(rng), 1.5, None, ["x", {}]))}
    return ToolCall(
        rng.choice(("shell", "read_file", "search-2")), json.dumps(arguments, ensure_ascii=rng.random() < 0.5)
    )


def tools_on_offer(rng: random.Random) -> list[Tool]:
    """Return random tools, in half of the cases none."""
    return [_tool(rng) for _ in range(rng.randrange(1, 4))] if rng.random() < 0.5 else []


def _tool(rng: random.Random) -> Tool:
    """Return a tool with schemas of odd order, nesting, numbers and texts, written as JSON in any way."""
    fields = {
        rng.choice(("command", "path", "näme", "a b")): {
            "type": rng.choice(("string", "integer", ["number", "null"])),
            "description": _text(rng),
            rng.choice(("default", "enum")): rng.choice(
                (None, True, 1.5e-7, 10**20, [_text(rng)], {"b": 1, "a": "<&>"})
            ),
        }
        for _ in range(rng.randrange(3))
    }
    schema = {"type": "object", "required": list(fields), "properties": fields}
    parameters = json.dumps(
        schema, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 2)), sort_keys=rng.random() < 0.5
    )
    return Tool(rng.choice(("shell", "read_file", "search-2")), _text(rng), parameters)


def ours(messages: Sequence[Message], tokenizer: Tokenizer, tools: Sequence[Tool] = ()) -> tuple[list[int], list[bool]]:
    """Return ids and whether each carries loss."""
    return _rendered(chat_segments(messages, tools=tools), tokenizer)


def _rendered(segments: Sequence[Segment], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    rows = ({"role": part.role, "text": part.text, "train": part.train} for part in segments)
    ids, trained = render_segments(rows, tokenizer)
    return ids.tolist(), trained.tolist()


def written(message: Message) -> str:
    """Return what the assistant writes in its turn, put together without the code that is tested."""
    thinking, content = message.thinking.strip(), message.content.strip()
    block = f"{THINK}\n{thinking}\n{END_THINK}\n" if thinking else ""
    calls = "\n".join(
        f'{TOOL_CALL}\n{{"name": "{call.name}", "arguments": {call.arguments}}}\n{END_TOOL_CALL}'
        for call in message.tool_calls
    )
    return block + content + ("\n" if content and calls else "") + calls + IM_END


def mask_is_exact(messages: Sequence[Message], ids: list[int], trained: list[bool], tokenizer: Tokenizer) -> bool:
    """Return whether runs of tokens with loss are the assistant's turns, byte for byte, in order."""
    edges = np.flatnonzero(np.diff(np.array([False, *trained, False]).astype(np.int8)))
    runs = [tokenizer.decode_bytes(ids[a:b]) for a, b in edges.reshape(-1, 2).tolist()]
    return runs == [written(message).encode() for message in messages if message.role == "assistant"]


@dataclass(frozen=True)
class Jobs:
    """What is compared: conversations, the tools on offer in each, and texts."""

    conversations: list[list[Message]]
    tools: list[list[Tool]]
    texts: list[str]

    def as_row(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "conversations": [[message.as_row() for message in each] for each in self.conversations],
            "tools": [[tool.as_row() for tool in each] for each in self.tools],
            "texts": self.texts,
        }


def by_transformers(folder: Path, jobs: Jobs, environment: str) -> dict[str, Any]:
    """Return the ids of transformers: of whole conversations, of prompts without and with thinking, and of texts."""
    python = PEER / ".venv" / environment / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"no environment {environment}; make it: python scripts/check_transformers.py")
    (folder / "jobs.json").write_text(json.dumps(jobs.as_row()))
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "TRANSFORMERS_VERBOSITY": "error"}
    command = [str(python), str(PEER / "tokens.py"), str(folder), str(folder / "jobs.json"), str(folder / "ids.json")]
    subprocess.run(command, check=True, env=os.environ | offline)
    return json.loads((folder / "ids.json").read_text())


def library_texts(pattern: str) -> list[str]:
    """Return modules of the standard library."""
    return [path.read_text(encoding="utf-8") for path in sorted(Path(sysconfig.get_path("stdlib")).glob(pattern))]


def export(folder: Path) -> Tokenizer:
    """Train a small tokenizer on the standard library and write it as the stage does."""
    write_text(folder / TOKENIZER_FILE, train(library_texts("[a-h]*.py"), TokenizerConfig(vocab_size=2048)))
    write_text(folder / CONFIG_FILE, json.dumps(transformers_config()))
    return Tokenizer.load(folder)


def run(n_conversations: int, n_texts: int, seed: int) -> tuple[Counter[str], list[str], list[str]]:
    """Return counts of what was compared with each version of transformers, what differs, and the versions."""
    rng = random.Random(seed)
    conversations = [conversation(rng) for _ in range(n_conversations)]
    tools = [tools_on_offer(rng) for _ in conversations]
    texts = [*hypothesis_texts(n_texts // 2, seed), *random_texts(n_texts - n_texts // 2, seed)]
    files = library_texts("[i-z]*.py")[:n_texts]
    jobs = Jobs(conversations, tools, [*texts, *files])
    with tempfile.TemporaryDirectory() as name:
        tokenizer = export(Path(name))
        theirs = [by_transformers(Path(name), jobs, environment) for environment in ENVIRONMENTS]
    counts = Counter({"texts": len(texts), "files": len(files)})
    differences: list[str] = []
    for number, messages in enumerate(conversations):
        ids, trained = ours(messages, tokenizer, tools[number])
        if not mask_is_exact(messages, ids, trained, tokenizer):
            differences.append(f"mask of {messages}")
        for other in theirs:
            different = _different(messages, tools[number], tokenizer, {name: other[name][number] for name in _KINDS})
            differences += [f"{other['version']}: {kind} of {messages} with {tools[number]}" for kind in different]
        counts += Counter(message.role for message in messages)
        counts += Counter({"conversations": 1, "tokens": len(ids), "tokens with loss": sum(trained)})
        counts += Counter({"tools on offer": len(tools[number]), "conversations with tools": bool(tools[number])})
        counts["thinking blocks"] += sum(bool(message.thinking.strip()) for message in messages)
        counts["tool calls"] += sum(len(message.tool_calls) for message in messages)
    mine = tokenizer.encode_batch(jobs.texts)
    for other in theirs:
        pairs = zip(jobs.texts, mine, other["texts"], strict=True)
        differences += [f"{other['version']}: ids of text {text[:60]!r}" for text, a, b in pairs if a != b]
    return counts, differences, [other["version"] for other in theirs]


_KINDS = ("conversations", "prompts", "thinking_prompts")


def _different(
    messages: Sequence[Message], tools: Sequence[Tool], tokenizer: Tokenizer, theirs: dict[str, list[int]]
) -> list[str]:
    """Return which renderings of a conversation are not transformers'."""
    question = messages[: max(n for n, message in enumerate(messages) if message.role == "user") + 1]
    mine = {
        "conversations": chat_segments(messages, tools=tools),
        "prompts": prompt_segments(question, False, tools),
        "thinking_prompts": prompt_segments(question, True, tools),
    }
    return [kind for kind in _KINDS if _rendered(mine[kind], tokenizer)[0] != theirs[kind]]


def main() -> int:
    """Run, print the table, write it where asked; exit code 1 when anything differs."""
    parser = argparse.ArgumentParser(prog="campaigns chat_template", description="Our rendering against transformers'")
    parser.add_argument("--conversations", type=int, default=10_000)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    counts, differences, versions = run(arguments.conversations, arguments.texts, arguments.seed)
    rows = [*counts.items(), ("differences", len(differences))]
    text = "\n".join(["| what | number |", "|---|---|", *(f"| {name} | {n:,} |" for name, n in rows)])
    print(text)
    print(*differences[:10], sep="\n", file=sys.stderr)
    if arguments.table:
        head = "# Chat template campaign\n\nRandom conversations rendered by us and by `apply_chat_template` of "
        head += f"transformers {' and '.join(versions)} from\nthe exported files, half of them with `tools=`: ids of "
        head += "the whole, of the prompt and of the thinking prompt, and the\nloss mask turn by turn; plain texts by "
        head += "their tokenizers. A difference is any of these that is not equal.\n"
        head += f"`make campaign NAME=chat_template`, seed {arguments.seed}, "
        head += f"{date.today():%d %B %Y}, two cores of an {platform.machine()} server.\n\n"
        arguments.table.write_text(f"{head}{text}\n")
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main())
