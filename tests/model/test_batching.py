"""Requests that come and go: what each gets is what it gets alone, and what it held is free afterwards."""

from __future__ import annotations

import itertools

import pytest
import torch

from codeflow.core.errors import UserError
from codeflow.model.batching import ContinuousBatch, Piece, Request
from codeflow.model.generate import GenerateSettings, generate
from codeflow.model.kv_cache import BLOCK_TOKENS
from tests.model.shapes import changed, make_ids, make_model

LOOPED = changed(loop_num=2, loop_window_size=4, max_position_embeddings=128)
PROMPTS = [row[:n] for row, n in zip(make_ids(7, 40, seed=3).tolist(), (5, 40, 1, 5, 33, 2, 32), strict=True)]
SETTINGS = [
    GenerateSettings(max_new_tokens=14, temperature=1.0),
    GenerateSettings(max_new_tokens=9),
    GenerateSettings(max_new_tokens=20, temperature=0.7, top_k=9, top_p=0.9, min_p=0.05),
]


def _request(i: int) -> Request:
    return Request(PROMPTS[i % 7], SETTINGS[i % 3], (i, 0))


def _drain(batch: ContinuousBatch) -> dict[int, list[Piece]]:
    found: dict[int, list[Piece]] = {}
    while pieces := batch.step():
        for piece in pieces:
            found.setdefault(piece.ticket, []).append(piece)
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_results_do_not_depend_on_who_else_is_there(dtype: torch.dtype, tolerance: float) -> None:
    """Requests of all kinds join in the middle, more than there are rows; ids and log-probabilities as alone."""
    model = make_model(LOOPED, dtype)
    batch = ContinuousBatch(model, 3)
    tickets = {batch.submit(_request(i)): i for i in range(4)}
    found: dict[int, list[Piece]] = {}
    for step in itertools.count():
        if step in (2, 3, 7):
            tickets |= {batch.submit(_request(i)): i for i in range(len(tickets), len(tickets) + 2)}
        if not (pieces := batch.step()):
            break
        assert batch.n_running <= 3
        for piece in pieces:
            found.setdefault(tickets[piece.ticket], []).append(piece)
    assert sorted(found) == list(range(10))
    for i, pieces in found.items():
        request = _request(i)
        (alone,) = generate(model, [request.prompt], request.settings, [i])
        assert [piece.id for piece in pieces] == alone.ids
        assert [piece.logprob for piece in pieces] == pytest.approx(alone.logprobs, abs=tolerance)
        assert [piece.sampling_logprob for piece in pieces] == pytest.approx(alone.sampling_logprobs, abs=tolerance)
        assert pieces[-1].stop_reason == alone.stop_reason == "length"
        assert {piece.stop_reason for piece in pieces[:-1]} <= {""}


def test_samples_that_come_later_use_the_prompt_that_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(LOOPED)
    batch = ContinuousBatch(model, 2)
    read, calls = batch.decoder.read, []
    monkeypatch.setattr(batch.decoder, "read", lambda prompts: calls.append(len(prompts)) or read(prompts))
    tickets = [batch.submit(Request(PROMPTS[1], SETTINGS[0], (i, 0))) for i in range(5)]
    found = _drain(batch)
    assert calls == [1]
    for i, ticket in enumerate(tickets):
        (alone,) = generate(model, [PROMPTS[1]], SETTINGS[0], [i])
        assert [piece.id for piece in found[ticket]] == alone.ids


def test_cancelling_frees_what_was_held() -> None:
    batch = ContinuousBatch(make_model(LOOPED), 2)
    cache = batch.decoder.cache
    before = cache.n_free_rows, cache.n_free_blocks
    tickets = [batch.submit(_request(i)) for i in (0, 1, 1, 4)]
    batch.step()
    assert (batch.n_running, batch.n_waiting, cache.n_free_rows) == (2, 2, 0)
    batch.cancel(tickets[0])  # a running one
    batch.cancel(tickets[2])  # one that waits for a prompt that was read
    batch.cancel(99)
    assert (batch.n_running, batch.n_waiting, cache.n_free_rows) == (1, 1, 1)
    found = _drain(batch)
    assert set(found) == {tickets[1], tickets[3]}
    assert (cache.n_free_rows, cache.n_free_blocks) == before
    assert not batch.step()


def test_a_small_cache_makes_requests_wait_and_a_large_request_is_refused() -> None:
    batch = ContinuousBatch(make_model(LOOPED), 4, cache_tokens=4 * BLOCK_TOKENS)
    tickets = [batch.submit(Request(PROMPTS[1], SETTINGS[0], (i, 0))) for i in range(3)]  # 53 tokens: 2 or 3 blocks
    batch.step()
    assert (batch.n_running, batch.n_waiting) == (2, 1)
    found = _drain(batch)
    assert all(found[ticket][-1].stop_reason == "length" for ticket in tickets)
    assert batch.decoder.cache.n_free_blocks == 4
    with pytest.raises(UserError, match="prompt of 40 tokens and answer of 88 exceed the cache"):
        batch.submit(Request(PROMPTS[1], GenerateSettings(max_new_tokens=500)))


def test_top_logprobs_are_those_of_the_forward_pass() -> None:
    model = make_model(LOOPED, torch.float64)
    batch = ContinuousBatch(model, 1)
    batch.submit(Request(PROMPTS[0], GenerateSettings(max_new_tokens=5, temperature=2.0, top_logprobs=3)))
    (pieces,) = _drain(batch).values()
    ids = torch.tensor([[*PROMPTS[0], *(piece.id for piece in pieces)]])
    with torch.no_grad():
        exact = model.logits(model(ids))[0, len(PROMPTS[0]) - 1 : -1].log_softmax(-1)
    for piece, row in zip(pieces, exact, strict=True):
        best = row.topk(3)
        assert [token for token, _ in piece.top] == best.indices.tolist()
        assert [value for _, value in piece.top] == pytest.approx(best.values.tolist(), abs=1e-9)
