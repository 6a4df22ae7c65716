"""The server, driven by the official OpenAI client over a real socket: answers, streams, limits, refusals, its end."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import torch

from codeflow.model.config import ModelConfig
from codeflow.model.generate import GenerateSettings, generate
from codeflow.model.looped import LoopCoder
from codeflow.solve.answer import STOP_IDS
from codeflow.solve.prompt import fim_segments, render_prompt
from codeflow.solve.serve import ServeConfig, Served, make_app
from codeflow.tokens.chat import Message, prompt_segments
from codeflow.tokens.special import SPECIAL_IDS, SPECIAL_TOKENS
from codeflow.tokens.tokenizer import Tokenizer, TokenizerConfig, train

CONTEXT_TOKENS = 128
CONFIG = ModelConfig(
    vocab_size=320,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=CONTEXT_TOKENS,
    initializer_range=0.3,
    loop_num=2,
    loop_window_size=8,
)


class _Running:
    """A server in a thread."""

    def __init__(self, served: Served, config: ServeConfig) -> None:
        import uvicorn

        self.app = make_app(served, config)
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="error"))
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()

    def ask(self, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, Any]:
        """Return status and JSON of a GET, or of a POST of `body`."""
        request = urllib.request.Request(f"{self.url}{path}", body, {"content-type": kind})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@pytest.fixture(scope="module")
def served() -> Served:
    tokenizer = Tokenizer(train(["def add(a, b):\n    return a + b\n"] * 3, TokenizerConfig(vocab_size=300)))
    return Served("mine", LoopCoder(CONFIG, seed=3), tokenizer)


@pytest.fixture(scope="module")
def running(served: Served) -> Iterator[_Running]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    server = _Running(served, ServeConfig(max_rows=3, max_waiting=8, max_body_bytes=100_000, chat_tokens=20))
    yield server
    server.stop()
    torch.set_num_threads(before)


def _alone(served: Served, ids: list[int], seed: int | None = None, **fields: Any) -> Any:
    settings = GenerateSettings.model_validate({"max_new_tokens": 16, "stop_ids": STOP_IDS, **fields})
    return generate(served.model, [ids], settings.model_copy(update={"seed": seed or 0}), tokenizer=served.tokenizer)[0]


def test_a_completion_is_what_the_model_writes(running: _Running, served: Served) -> None:
    expected = _alone(served, served.tokenizer.encode("def add"))
    found = running.client.completions.create(model="mine", prompt="def add", temperature=0, logprobs=2)
    (choice,) = found.choices
    assert choice.text == expected.text
    assert choice.finish_reason == expected.stop_reason
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs == pytest.approx(expected.logprobs, abs=1e-5)
    assert choice.logprobs.top_logprobs is not None
    assert max(choice.logprobs.top_logprobs[0].values()) == pytest.approx(expected.logprobs[0], abs=1e-5)
    assert found.usage is not None
    assert found.usage.completion_tokens == len(expected.ids)
    assert found.usage.prompt_tokens == len(served.tokenizer.encode("def add"))


def test_seeds_and_choices(running: _Running, served: Served) -> None:
    ids = served.tokenizer.encode("def")
    fields = {"model": "mine", "prompt": ["def", "x ="], "n": 2, "seed": 5, "max_tokens": 8}
    first = running.client.completions.create(**fields)
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    assert first.choices[0].text == _alone(served, ids, 5, temperature=1.0, max_new_tokens=8).text
    again = running.client.completions.create(**fields)
    assert [choice.text for choice in again.choices] == [choice.text for choice in first.choices]
    assert first.choices[0].text != first.choices[1].text
    by_ids = running.client.completions.create(**fields | {"prompt": ids, "n": 1})
    assert by_ids.choices[0].text == first.choices[0].text


def test_suffix_asks_for_the_middle(running: _Running, served: Served) -> None:
    expected = _alone(served, render_prompt(fim_segments("def add(", "):"), served.tokenizer))
    found = running.client.completions.create(model="mine", prompt="def add(", suffix="):", temperature=0)
    assert found.choices[0].text == expected.text


def test_chat_whole_and_as_a_stream(running: _Running, served: Served) -> None:
    messages: Any = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "add?"}]
    turns = [Message("system", "Be short."), Message("user", "add?")]
    expected = _alone(served, render_prompt(prompt_segments(turns), served.tokenizer), max_new_tokens=20)
    fields: dict[str, Any] = {"model": "mine", "messages": messages, "temperature": 0}
    found = running.client.chat.completions.create(**fields, logprobs=True, top_logprobs=1)
    assert found.choices[0].message.content == expected.text
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [one.logprob for one in logprobs.content] == pytest.approx(expected.logprobs, abs=1e-5)
    stream = list(running.client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    assert stream[0].choices[0].delta.role == "assistant"
    assert "".join(part.choices[0].delta.content or "" for part in stream[:-1]) == expected.text
    assert stream[-2].choices[0].finish_reason == found.choices[0].finish_reason
    assert stream[-1].usage == found.usage


def test_stop_strings_and_streams_of_several_choices(running: _Running) -> None:
    fields: dict[str, Any] = {"model": "mine", "prompt": "def", "temperature": 1.0, "seed": 1, "max_tokens": 24, "n": 3}
    free = running.client.completions.create(**fields)
    stop = free.choices[0].text[5:7]
    texts = ["", "", ""]
    for part in running.client.completions.create(**fields, stop=stop, stream=True):
        texts[part.choices[0].index] += part.choices[0].text
    assert texts == [choice.text.partition(stop)[0] for choice in free.choices]


def test_special_tokens_stop_by_name(running: _Running, served: Served) -> None:
    every = [name for name in SPECIAL_TOKENS if name not in ("<|im_end|>", "<|endoftext|>")]
    ids = served.tokenizer.encode("def")
    expected = _alone(served, ids, 1, temperature=1.0, max_new_tokens=60, stop_ids=tuple(SPECIAL_IDS.values()))
    fields: dict[str, Any] = {"model": "mine", "prompt": "def", "temperature": 1.0, "seed": 1, "max_tokens": 60}
    found = running.client.completions.create(**fields, stop=every)
    assert (found.choices[0].text, found.choices[0].finish_reason) == (expected.text, expected.stop_reason)
    assert expected.stop_reason == "stop"


def test_models_and_health(running: _Running) -> None:
    (model,) = running.client.models.list().data
    assert model.id == "mine"
    assert running.client.models.retrieve("mine") == model
    assert running.ask("/health")[1]["status"] == "ok"
    with pytest.raises(openai.NotFoundError, match="no model 'other' here; ask for 'mine'"):
        running.client.models.retrieve("other")


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("completions", b"{not json", 400, "the body is not JSON"),
        ("completions", b"[" * 50_000, 400, "the body is not JSON"),
        ("completions", b"[1]", 400, "must be a JSON object"),
        ("completions", b"x" * 10_000_000, 413, "the body is larger than 100,000 bytes"),
        ("completions", {"prompt": "x"}, 400, "model"),
        ("completions", {"model": "other", "prompt": "x"}, 404, "no model 'other' here"),
        ("completions", {"model": "mine", "prompt": ""}, 400, "the prompt is empty"),
        ("completions", {"model": "mine", "prompt": []}, 400, "must give 1 to 128 choices"),
        ("completions", {"model": "mine", "prompt": [4000]}, 400, "holds id 4000"),
        ("completions", {"model": "mine", "prompt": "x y " * 200}, 400, "context is 128 tokens, and the prompt has"),
        ("completions", {"model": "mine", "prompt": "\ud800"}, 400, "surrogate"),
        ("completions", {"model": "mine", "prompt": "x", "temperature": -1}, 400, "temperature=-1"),
        ("completions", {"model": "mine", "prompt": "x", "temperature": 1e-300}, 400, "temperature=1e-300 must be 0"),
        ("completions", b'{"model": "mine", "prompt": "x", "temperature": NaN}', 400, "temperature=nan"),
        ("completions", b'{"model": "mine", "prompt": "x", "temperature": 1e999}', 400, "temperature=inf"),
        ("completions", {"model": "mine", "prompt": "x", "stop": "<|im_ned|>"}, 400, "did you mean '<|im_end|>'"),
        ("completions", {"model": "mine", "prompt": "x", "stop": [""]}, 400, "holds an empty text"),
        ("completions", {"model": "mine", "prompt": {"text": "x"}}, 400, "prompt"),
        ("completions", {"model": "mine", "prompt": "x", "n": 1000}, 400, "must give 1 to 128 choices"),
        ("completions", {"model": "mine", "prompt": "x", "tools": []}, 400, "tools"),
        ("chat/completions", {"model": "mine", "messages": []}, 400, "messages"),
        ("chat/completions", {"model": "mine", "messages": [{"role": "cat", "content": "x"}]}, 400, "role"),
        ("nothing", {}, 404, "Not Found"),
    ],
)
def test_bad_requests_are_clear_and_the_server_goes_on(
    running: _Running, path: str, body: Any, status: int, words: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found, answer = running.ask(f"/v1/{path}", content)
    assert found == status
    assert words in answer["error"]["message"]
    assert running.ask("/v1/completions", b'{"model": "mine", "prompt": "x", "max_tokens": 1}')[0] == 200


def test_a_form_of_another_origin_is_refused(running: _Running) -> None:
    assert running.ask("/v1/completions", b"{}", "text/plain")[0] == 415


def test_more_than_may_wait_is_refused(running: _Running) -> None:
    with pytest.raises(openai.RateLimitError, match="more than 8 requests would wait"):
        running.client.completions.create(model="mine", prompt="x", n=9)


def test_a_client_that_leaves_frees_its_place(running: _Running) -> None:
    stream = running.client.completions.create(
        model="mine", prompt="x", max_tokens=120, temperature=0, n=3, stream=True
    )
    next(iter(stream))
    stream.close()
    assert running.client.completions.create(model="mine", prompt="x", max_tokens=2).choices
    for _ in range(200):
        state = running.ask("/health")[1]
        if state["running"] == state["waiting"] == 0:
            break
    assert (state["running"], state["waiting"]) == (0, 0)


def test_a_broken_model_is_an_error_and_the_server_goes_on(served: Served) -> None:
    model = LoopCoder(CONFIG, seed=3)
    with torch.no_grad():
        model.lm_head.weight[7, 1] = torch.nan
    server = _Running(Served("broken", model, served.tokenizer), ServeConfig(max_rows=2))
    try:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError, match="logits are not numbers"):
                server.client.completions.create(model="broken", prompt="x", stream=stream)
        assert server.ask("/health")[1] == {"status": "ok", "running": 0, "waiting": 0}
    finally:
        server.stop()


def test_requests_at_work_end_before_the_server_does(served: Served) -> None:
    server = _Running(served, ServeConfig(max_rows=2))
    stream = server.client.completions.create(model="mine", prompt="x", max_tokens=100, temperature=0, stream=True)
    parts = iter(stream)
    next(parts)
    server.server.should_exit = True
    assert list(parts)[-1].choices[0].finish_reason in ("length", "stop")
    server.thread.join(30)
    assert not server.thread.is_alive()
    with pytest.raises(openai.APIConnectionError):
        server.client.models.list()
