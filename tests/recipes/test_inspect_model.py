"""Checkpoints as models of Inspect AI, and a whole task with one and with our sandbox, where Inspect is installed."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path

import pytest
import torch

pytest.importorskip("inspect_ai", reason="inspect-ai is not installed (pip install 'codeflow[inspect]')")

from inspect_ai import Task, eval  # pyright: ignore[reportMissingImports]
from inspect_ai.dataset import Sample  # pyright: ignore[reportMissingImports]
from inspect_ai.model import (  # pyright: ignore[reportMissingImports]
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    GenerateConfig,
    get_model,
)
from inspect_ai.scorer import Score, Target, accuracy, scorer  # pyright: ignore[reportMissingImports]
from inspect_ai.solver import generate  # pyright: ignore[reportMissingImports]
from inspect_ai.tool import ToolCall, ToolInfo  # pyright: ignore[reportMissingImports]
from inspect_ai.util import sandbox  # pyright: ignore[reportMissingImports]

from codeflow.core.errors import UserError
from codeflow.core.storage import write_text
from codeflow.model.batching import Piece
from codeflow.model.config import ModelConfig
from codeflow.model.generate import GenerateSettings
from codeflow.model.generate import generate as generate_batch
from codeflow.model.huggingface import ExportSettings, save
from codeflow.model.looped import LoopCoder
from codeflow.recipes import inspect_extensions
from codeflow.recipes.generate import load_checkpoint
from codeflow.recipes.inspect_model import CodeflowModel, _message, _offered
from codeflow.sandbox.local import probe
from codeflow.solve.answer import STOP_IDS
from codeflow.solve.prompt import render_prompt
from codeflow.tokens.chat import Message, prompt_segments
from codeflow.tokens.chat import ToolCall as Call
from codeflow.tokens.tokenizer import Tokenizer, TokenizerConfig, train

needs_sandbox = pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works")
CONTEXT_TOKENS = 256


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of random weights."""
    folder = tmp_path_factory.mktemp("checkpoint")
    made = train(["def add(a, b):\n    return a + b\n"] * 3, TokenizerConfig(vocab_size=300))
    shape = ModelConfig(
        vocab_size=Tokenizer(made).vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=0.3,
    )
    save(LoopCoder(shape, 3), folder, ExportSettings(bos_token_id=1, eos_token_ids=(2, 4), pad_token_id=0))
    write_text(folder / "tokenizer.json", made)
    return folder


def test_answers_are_those_of_the_model(checkpoint):
    model, tokenizer = load_checkpoint(checkpoint)
    prompt = render_prompt(prompt_segments([Message("system", "s"), Message("user", "def add")]), tokenizer)
    settings = GenerateSettings(max_new_tokens=12, temperature=0.0, stop_ids=STOP_IDS)
    [expected] = generate_batch(model, [prompt], settings)
    ours = get_model(f"codeflow/{checkpoint}", memoize=False)
    assert isinstance(ours.api, CodeflowModel)
    config = GenerateConfig(temperature=0.0, max_tokens=12, logprobs=True, top_logprobs=2, num_choices=2, seed=1)
    made = asyncio.run(
        ours.generate([ChatMessageSystem(content="s"), ChatMessageUser(content="def add")], config=config)
    )
    text = tokenizer.decode([token for token in expected.ids if token not in STOP_IDS]).strip()
    assert [choice.message.text for choice in made.choices] == [text, text]
    found = made.choices[0].logprobs.content
    assert [one.logprob for one in found] == pytest.approx(expected.logprobs, abs=1e-4)
    assert all(len(one.top_logprobs) == 2 for one in found)
    assert made.usage.input_tokens == len(prompt)
    assert made.usage.output_tokens == 2 * len(expected.ids)
    ours.api.close()
    again = asyncio.run(ours.generate("def add", config=GenerateConfig(seed=1, max_tokens=3)))
    assert again.stop_reason in ("max_tokens", "stop")
    ours.api.close()


def test_calls_and_thoughts_are_told_apart(checkpoint):
    api = CodeflowModel(str(checkpoint), thinking=True)

    def said(text: str):
        return api._choice([Piece(0, 5, -0.5, -0.5, text, "stop")], True, False)

    good = said('because\n</think>\nNow.\n<tool_call>\n{"name": "bash", "arguments": {"cmd": "ls"}}\n</tool_call>')
    assert good.message.text == "Now."
    assert good.message.content[0].reasoning == "because"
    [call] = good.message.tool_calls
    assert (call.function, call.arguments, call.parse_error) == ("bash", {"cmd": "ls"}, None)
    assert good.stop_reason == "tool_calls"
    [bad] = said("x</think><tool_call>{no}</tool_call>").message.tool_calls
    assert "is not JSON" in bad.parse_error
    [listed] = said('x</think><tool_call>{"name": "a", "arguments": [1]}</tool_call>').message.tool_calls
    assert "no JSON object" in listed.parse_error
    unclosed = said("for ever")
    assert unclosed.message.text == ""
    assert unclosed.stop_reason == "stop"


def test_messages_and_tools_in_the_words_of_the_chat_format():
    call = ToolCall("1", "bash", {"cmd": "ls"})
    assert _message(ChatMessageAssistant(content="a", tool_calls=[call])) == Message(
        "assistant", "a", "", (Call("bash", '{"cmd": "ls"}'),)
    )
    assert _message(ChatMessageTool(content="out", tool_call_id="1")) == Message("tool", "out")
    with pytest.raises(UserError, match="image"):
        _message(ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AA==")]))
    tools = [ToolInfo(name="a", description="d"), ToolInfo(name="b", description="d")]
    assert [tool.name for tool in _offered(tools, "auto")] == ["a", "b"]
    assert _offered(tools, "none") == []


@pytest.mark.parametrize(
    ("config", "said"), [({"frequency_penalty": 0.5}, "frequency_penalty"), ({"top_p": 0.0}, "top_p")]
)
def test_what_is_not_understood_is_refused(checkpoint, config, said):
    ours = get_model(f"codeflow/{checkpoint}", memoize=False)
    with pytest.raises(UserError, match=said):
        asyncio.run(ours.generate("x", config=GenerateConfig(**config)))
    with pytest.raises(UserError, match="rows"):
        get_model(f"codeflow/{checkpoint}", memoize=False, rows=3)
    with pytest.raises(UserError, match="no folder"):
        get_model("codeflow/not/there", memoize=False)


def test_a_conversation_that_leaves_no_room(checkpoint):
    ours = get_model(f"codeflow/{checkpoint}", memoize=False)
    made = asyncio.run(ours.generate("word " * CONTEXT_TOKENS))
    assert made.stop_reason == "model_length"


@scorer(metrics=[accuracy()])
def runs():
    """Whether the answer is a program that runs, in the sandbox."""

    async def score(state, target: Target) -> Score:
        await sandbox().write_file("answer.py", state.output.completion)
        ran = await sandbox().exec(["python3", "answer.py"], timeout=20)
        return Score(value="C" if ran.success else "I", explanation=ran.stderr)

    return score


@needs_sandbox
def test_a_task_with_our_model_and_our_sandbox(checkpoint, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    task = Task([Sample("def add", id=n) for n in range(1, 4)], solver=generate(), scorer=runs(), sandbox="codeflow")
    [log] = eval(task, model=f"codeflow/{checkpoint}", max_tokens=8, seed=1, log_dir=str(tmp_path), display="none")
    torch.set_num_threads(before)
    assert log.status == "success", log.error
    assert [sample.error for sample in log.samples] == [None] * 3
    assert all(sample.output.usage.output_tokens for sample in log.samples)
    assert log.eval.model == f"codeflow/{checkpoint}"


def test_the_entry_point_names_the_module():
    tree = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    assert tree["project"]["entry-points"]["inspect_ai"]["codeflow"] == inspect_extensions.__name__
