from __future__ import annotations

import json
from pathlib import Path

import pytest

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.endpoint.chat import Answer, ChatClient, EndpointConfig, Failure, Request, estimated_cost, misfit
from tests.endpoint.fake_server import Reply, fake_server

SCHEMA = {"type": "object", "properties": {"grade": {"type": "integer", "minimum": 0, "maximum": 5}}}
ASK = Request((("user", "How good?"),), SCHEMA)


def client(url: str, cache: Path, **fields) -> tuple[ChatClient, list[float]]:
    """Return a client that only notes its pauses."""
    pauses: list[float] = []
    config = EndpointConfig(url=url, model="teacher", prompt_price=1.0, answer_price=10.0, **fields)
    return ChatClient(config, cache, pauses.append), pauses


def test_an_answer_is_asked_for_once_and_its_cost_counted_once(tmp_path: Path) -> None:
    with fake_server(lambda body, before: (200, '```json\n{"grade": 4}\n```')) as server:
        asker, pauses = client(server.url, tmp_path)
        first, again = asker.ask(ASK), asker.ask(ASK)
        other = asker.ask(Request(ASK.messages, SCHEMA, number=1))
    assert first == Answer({"grade": 4}, 100, 20, False)
    assert again == Answer({"grade": 4}, 100, 20, True)
    assert isinstance(other, Answer)
    assert not other.cached
    assert len(server.bodies) == 2
    assert [body["seed"] for body in server.bodies] == [0, 1]
    assert server.bodies[0]["response_format"]["json_schema"]["schema"] == SCHEMA
    assert asker.cost() == pytest.approx(2 * (100 * 1 + 20 * 10) / 1e6)
    assert pauses == []


@pytest.mark.parametrize(
    "reply",
    [
        lambda body, before: (503, b"busy") if before < 2 else (200, '{"grade": 1}'),
        lambda body, before: (200, '{"grade": 9}') if before < 2 else (200, '{"grade": 1}'),
        lambda body, before: (200, "I'd say one") if before < 2 else (200, '{"grade": 1}'),
        lambda body, before: (200, b"<html>") if before < 2 else (200, '{"grade": 1}'),
    ],
)
def test_what_may_pass_is_tried_again_with_growing_pauses(reply: Reply, tmp_path: Path) -> None:
    with fake_server(reply) as server:
        asker, pauses = client(server.url, tmp_path, first_pause_seconds=0.5)
        answer = asker.ask(ASK)
    assert isinstance(answer, Answer)
    assert answer.value == {"grade": 1}
    assert pauses == [0.5, 1.0]
    assert asker.usage.retries == 2


def test_the_server_may_ask_for_a_longer_pause(tmp_path: Path) -> None:
    with fake_server(lambda body, before: (429, b"slow down") if before < 1 else (200, '{"grade": 1}')) as server:
        asker, pauses = client(server.url, tmp_path, first_pause_seconds=0.5)
        assert isinstance(asker.ask(ASK), Answer)
    assert pauses == [7.0]  # the fake server's Retry-After


def test_a_refusal_ends_the_work_early(tmp_path: Path) -> None:
    with fake_server(lambda body, before: (401, b"no such key")) as server:
        asker, _ = client(server.url, tmp_path, parallel=2)
        with pytest.raises(UserError, match="status 401"):
            asker.ask_all([Request((("user", str(n)),), SCHEMA) for n in range(200)])
        assert len(server.bodies) < 100


def test_an_answer_that_never_fits_is_a_failure_of_one_request(tmp_path: Path) -> None:
    def reply(body, before):
        return 200, '{"grade": 3}' if "good" in body["messages"][0]["content"] else "no"

    with fake_server(reply) as server:
        asker, _ = client(server.url, tmp_path, retries=1)
        answers = asker.ask_all([ASK, Request((("user", "bad"),), SCHEMA)])
    assert isinstance(answers[0], Answer)
    assert answers[1] == Failure("the answer does not fit its schema: no JSON object")


def test_refusals_and_absent_servers_are_told_apart(tmp_path: Path) -> None:
    with fake_server(lambda body, before: (401, b"no such key")) as server:
        asker, pauses = client(server.url, tmp_path)
        with pytest.raises(UserError, match="status 401: no such key"):
            asker.ask(ASK)
        url = server.url
    assert pauses == []
    asker, _ = client(url, tmp_path, retries=1)  # the server is gone
    with pytest.raises(InfrastructureError, match="asked 2 times"):
        asker.ask(ASK)
    with pytest.raises(UserError, match="name a model"):
        ChatClient(EndpointConfig(), tmp_path)


def test_the_key_travels_in_the_header_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "secret-1234")
    with fake_server(lambda body, before: (200, '{"grade": 1}')) as server:
        asker, _ = client(server.url, tmp_path, key_variable="TEACHER_KEY")
        asker.ask(ASK)
    assert server.keys == ["Bearer secret-1234"]
    assert all("secret" not in path.read_text() for path in tmp_path.iterdir())
    assert "secret" not in json.dumps(server.bodies)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"grade": 5}, ""),
        ([], "no JSON object"),
        ({}, "'grade' is missing"),
        ({"grade": True}, "'grade' is no integer"),
        ({"grade": 6}, "outside its range"),
        ({"grade": 1, "x": 2}, "'x' was not asked for"),
    ],
)
def test_misfits_are_named(value, problem: str) -> None:
    assert problem in misfit(value, SCHEMA)
    assert bool(problem) == bool(misfit(value, SCHEMA))


def test_costs_are_estimated_before_anything_is_sent() -> None:
    config = EndpointConfig(model="m", prompt_price=2.0, answer_price=8.0, max_answer_tokens=100)
    requests = [Request((("user", "x" * 3500),))] * 10
    assert estimated_cost(config, requests) == pytest.approx((10 * 1000 * 2 + 10 * 100 * 8) / 1e6)
