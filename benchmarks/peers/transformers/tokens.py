"""Runs in transformers' environment: the ids that it gives to conversations and texts.

    python tokens.py FOLDER JOBS OUTPUT

FOLDER holds an exported tokenizer. JOBS is a JSON file {"conversations": [[message, ...]], "tools": [[tool, ...]],
"texts": [text, ...]}, with the tools on offer in each conversation. OUTPUT gets the ids of each conversation, of its
prompt (up to its last user message) without and with thinking, and of each text, in which what looks like a special
token is text.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import transformers


def main() -> None:
    """Render and encode all jobs."""
    folder, jobs_file, output = sys.argv[1:]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    jobs = json.loads(Path(jobs_file).read_text())

    def rendered(messages: list[dict], tools: list[dict], **settings: object) -> list[int]:
        settings |= {"tools": tools} if tools else {}
        found = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **settings)
        return [int(token) for token in found]

    found: dict[str, object] = {"version": transformers.__version__}
    questions = []
    for messages in jobs["conversations"]:
        last = max(n for n, message in enumerate(messages) if message["role"] == "user")
        questions.append(messages[: last + 1])
    tools = jobs["tools"]
    found["conversations"] = list(map(rendered, jobs["conversations"], tools))
    found["prompts"] = [
        rendered(messages, offered, add_generation_prompt=True)
        for messages, offered in zip(questions, tools, strict=True)
    ]
    found["thinking_prompts"] = [
        rendered(messages, offered, add_generation_prompt=True, enable_thinking=True)
        for messages, offered in zip(questions, tools, strict=True)
    ]
    found["texts"] = [tokenizer(text, split_special_tokens=True)["input_ids"] for text in jobs["texts"]]
    Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
