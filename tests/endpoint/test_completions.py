from __future__ import annotations

import json
import math
from typing import Any

import pytest

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.endpoint.completions import Asked, CompletionClient
from codeflow.endpoint.transport import RefusedError, ServerConfig, Transport
from tests.endpoint.fake_server import fake_server

ASKED = Asked(
    messages=({"role": "user", "content": "2+2?"},), temperature=0.5, top_p=0.9, max_tokens=7, seed=2**40, stop=("#",)
)


def choice(**fields: Any) -> bytes:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    return json.dumps({"choices": [{"index": 0, "finish_reason": "stop", **fields}], "usage": usage}).encode()


def client(url: str, **fields: Any) -> CompletionClient:
    config = ServerConfig(url=url, **{"model": "m", "first_pause_seconds": 0, "retries": 2, **fields})
    return CompletionClient(Transport(config))


def test_conversations_with_logprobs_and_tools() -> None:
    logprobs = {"content": [{"token": "4", "logprob": -0.5}, {"token": "", "logprob": -1.5}]}
    call = {"id": "1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
    tool = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object", "properties": {}}}}
    reply = choice(message={"content": None, "tool_calls": [call]}, logprobs=logprobs)
    with fake_server(lambda body, before: (200, reply)) as server:
        asker = client(server.url)
        made = asker.sample(Asked(messages=ASKED.messages, tools=(tool,)))
    assert (made.text, made.tool_calls, made.finish_reason) == ("", (("bash", '{"command": "ls"}'),), "stop")
    assert made.confidence == pytest.approx(math.exp(-1))
    assert server.bodies[0]["tools"] == [tool]
    assert server.bodies[0]["logprobs"] is True
    assert (asker.transport.usage.prompt_tokens, asker.transport.usage.answer_tokens) == (3, 2)


def test_texts_and_their_settings() -> None:
    reply = choice(text="4", logprobs={"tokens": ["4"], "token_logprobs": [None, -0.25]})
    with fake_server(lambda body, before: (200, reply)) as server:
        made = client(server.url).sample(Asked(prompt="2+2=", suffix=" ok", seed=5))
        client(server.url).sample(ASKED)
    assert (made.text, made.logprobs) == ("4", (-0.25,))
    assert server.bodies[0] | {"prompt": "2+2=", "suffix": " ok", "seed": 5, "logprobs": 1} == server.bodies[0]
    sent = server.bodies[1]
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], sent["stop"]) == (0.5, 0.9, 7, ["#"])
    assert 0 <= sent["seed"] < 2**31


def test_without_logprobs_the_confidence_is_not_known() -> None:
    with fake_server(lambda body, before: (200, "4")) as server:
        assert math.isnan(client(server.url).sample(ASKED).confidence)


@pytest.mark.parametrize(("models", "words"), [(["a", "b"], "a, b"), ([], "none")])
def test_a_server_with_one_model_needs_no_name(models, words) -> None:
    with fake_server(lambda body, before: (200, "4"), ["only"]) as server:
        assert client(server.url, model="").model == "only"
    with fake_server(lambda body, before: (200, "4"), models) as server, pytest.raises(UserError, match=words):
        client(server.url, model="")


@pytest.mark.parametrize("data", [b'{"choices": []}', b"[1]", b'{"choices": [{"message": 3}]}', b"<html>"])
def test_what_is_no_completion_is_tried_again_and_then_a_fault(data) -> None:
    with fake_server(lambda body, before: (200, data)) as server:
        with pytest.raises(InfrastructureError, match="asked 3 times"):
            client(server.url).sample(ASKED)
        assert len(server.bodies) == 3


def test_a_refusal_says_its_status() -> None:
    long = b"maximum context length"
    with fake_server(lambda body, before: (400, long)) as server, pytest.raises(RefusedError) as refused:
        client(server.url).sample(ASKED)
    assert (refused.value.status, refused.value.text) == (400, "maximum context length")


def test_requests_keep_their_rate() -> None:
    now, pauses = [100.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    with fake_server(lambda body, before: (200, "4")) as server:
        config = ServerConfig(url=server.url, model="m", requests_per_minute=30)
        asker = CompletionClient(Transport(config, sleep, lambda: now[0]))
        for _ in range(3):
            asker.sample(ASKED)
        now[0] += 60
        asker.sample(ASKED)
    assert pauses == [2.0, 2.0]
