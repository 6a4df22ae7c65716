"""Agents as models: one in this process, exact to the token, and one behind a url, with tools of the API or as text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from codeflow.core.errors import InfrastructureError
from codeflow.endpoint.completions import CompletionClient
from codeflow.endpoint.transport import ServerConfig, Transport
from codeflow.model.batching import ContinuousBatch
from codeflow.model.config import ModelConfig
from codeflow.model.generate import GenerateSettings, generate
from codeflow.model.looped import LoopCoder
from codeflow.sandbox.local import probe
from codeflow.solve.agent.loop import AgentConfig, contexts_of, run_episode
from codeflow.solve.agent.samplers import Context, EndpointSampler, ModelSampler, Settings
from codeflow.solve.agent.tools import TOOLS
from codeflow.solve.answer import STOP_IDS
from codeflow.solve.repository.tasks import RepositoryTasks
from codeflow.solve.serve_decode import DecodeThread
from codeflow.tokens.chat import Message, chat_segments
from codeflow.tokens.render import render_segments
from codeflow.tokens.tokenizer import Tokenizer, TokenizerConfig, train
from tests.endpoint.fake_server import fake_server
from tests.solve.agent.scripted import call

needs_sandbox = pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works")
CONTEXT_TOKENS = 4096


@pytest.fixture(scope="module")
def local() -> Iterator[tuple[ModelSampler, LoopCoder, Tokenizer]]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    tokenizer = Tokenizer(train(["def add(a, b):\n    return a + b\n"] * 3, TokenizerConfig(vocab_size=300)))
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=0.3,
    )
    model = LoopCoder(config, seed=3).eval()
    decode = DecodeThread(ContinuousBatch(model, 2), 8)
    yield ModelSampler(decode, tokenizer, "random", CONTEXT_TOKENS, Settings()), model, tokenizer
    decode.stop(5)
    torch.set_num_threads(before)


def test_contexts_are_rendered_as_training_renders_them(local):
    sampler, _, tokenizer = local
    context = Context()
    sampler.add(context, [Message("system", "s"), Message("user", "u")])
    context.ids += [*tokenizer.encode("answer"), STOP_IDS[0]]  # as if sampled, and ended by itself
    sampler.add(context, [Message("tool", "t")])
    talk = (Message("system", "s"), Message("user", "u"), Message("assistant", "answer"), Message("tool", "t"))
    rows = ({"role": part.role, "text": part.text, "train": part.train} for part in chat_segments(talk))
    whole = render_segments(rows, tokenizer)[0].tolist()
    assert context.ids[: len(whole)] == whole
    assert tokenizer.decode(context.ids[len(whole) :]) == "<|im_start|>assistant\n"


def test_a_turn_cut_short_is_closed_before_the_next(local):
    sampler, _, tokenizer = local
    context = Context()
    sampler.add(context, [Message("user", "u")])
    context.ids += tokenizer.encode("answ")
    sampler.add(context, [Message("tool", "t")])
    assert "answ<|im_end|>\n<|im_start|>tool" in tokenizer.decode(context.ids)


def test_turns_are_the_models_own_samples(local):
    sampler, model, tokenizer = local
    context = Context()
    prompt = list(sampler.add(context, [Message("user", "def add")]))
    said = asyncio.run(sampler.sample(context, 20, seed=5))
    settings = GenerateSettings(max_new_tokens=20, temperature=1.0, stop_ids=STOP_IDS)
    [expected] = generate(model, [prompt], settings, [5])
    assert list(said.ids) == list(expected.ids)
    assert said.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert context.ids == [*prompt, *said.ids]


@needs_sandbox
def test_an_episode_of_a_model_knows_every_id(mined, local):
    """A random model talks nonsense; what it sampled has the log-probabilities of one pass over the whole context."""
    sampler, model, _ = local
    tasks = RepositoryTasks(mined[0], mined[1])
    config = AgentConfig(max_idle_turns=3, answer_tokens=30, summary_tokens=30)
    episode = asyncio.run(run_episode(tasks, tasks.tasks[0], sampler, config))
    assert episode.stop_reason == "no call"
    [context] = contexts_of(episode)
    with torch.no_grad():
        found = torch.log_softmax(model.logits(model(torch.tensor([context.ids])))[0], -1)
    for place, (token, sampled) in enumerate(zip(context.ids, context.sampled, strict=True)):
        if sampled:
            assert found[place - 1, token].item() == pytest.approx(context.logprobs[place], abs=2e-3)


def completion(text: str, *calls: tuple[str, dict[str, Any]]) -> bytes:
    made = [
        {"id": f"x{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for n, (name, arguments) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": text or None, "tool_calls": made}
    usage = {"prompt_tokens": 500, "completion_tokens": 10}
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}).encode()


EDIT = {
    "path": "src/calc/core.py",
    "old": "    return a + b",
    "new": "    return a + b\n\n\ndef scale(values, factor):\n    return [value * factor for value in values]",
}


@needs_sandbox
@pytest.mark.parametrize("native", [True, False])
def test_a_model_behind_a_url_solves_the_task(mined, native):
    def reply(body, before):
        n = sum(message["role"] == "assistant" for message in body["messages"])
        steps = [("edit", EDIT), ("view", {"path": "src/calc/core.py"}), ("submit", {})]
        return (200, completion("", steps[n])) if native else (200, call(steps[n][0], **steps[n][1]))

    tasks = RepositoryTasks(mined[0], mined[1])
    with fake_server(reply) as server:
        client = CompletionClient(Transport(ServerConfig(url=server.url, model="m")))
        sampler = EndpointSampler(client, 8000, Settings(temperature=0.5), TOOLS, native=native)
        episode = asyncio.run(run_episode(tasks, tasks.tasks[0], sampler, AgentConfig(command_seconds=20)))
    assert (episode.stop_reason, episode.verdict.passed) == ("submitted", True)
    last = server.bodies[-1]["messages"]
    if native:
        assert server.bodies[0]["tools"] == list(TOOLS)
        assert last[2]["tool_calls"][0]["id"] == last[3]["tool_call_id"]
        assert last[3]["role"] == "tool"
    else:
        assert "tools" not in server.bodies[0]
        assert '"name": "bash"' in last[0]["content"]
        assert last[3]["role"] == "user"
        assert "<tool_response>" in last[3]["content"]
    with pytest.raises(ValueError, match="behind a url"):
        contexts_of(episode)


def test_a_server_that_refuses_is_an_infrastructure_fault():
    with fake_server(lambda body, before: (400, b"no tools here")) as server:
        client = CompletionClient(Transport(ServerConfig(url=server.url, model="m")))
        sampler = EndpointSampler(client, 8000, Settings(), TOOLS)
        context = Context()
        sampler.add(context, [Message("user", "u")])
        with pytest.raises(InfrastructureError, match="no tools here"):
            asyncio.run(sampler.sample(context, 10, 0))
