"""Generation: greedy equals repeated argmax, sampling follows its distribution, batches do not change results."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch

from codeflow.core.config import validate
from codeflow.core.errors import UserError
from codeflow.model.decode import Decoder
from codeflow.model.generate import GenerateSettings, distribution, generate, sample
from codeflow.model.kv_cache import KeyValueCache
from tests.model.shapes import SHAPE, changed, make_ids, make_model

LOOPED = changed(loop_num=2, loop_window_size=4)
PROMPTS = [row[:n] for row, n in zip(make_ids(6, 12, seed=3).tolist(), (5, 12, 1, 5, 7, 2), strict=True)]


@torch.no_grad()
def _greedy(model, prompt: list[int], n_new: int) -> tuple[list[int], list[float]]:
    ids, logprobs = list(prompt), []
    for _ in range(n_new):
        row = model.logits(model(torch.tensor([ids])))[0, -1].log_softmax(-1)
        ids.append(int(row.argmax()))
        logprobs.append(float(row[ids[-1]]))
    return ids[len(prompt) :], logprobs


def test_the_cache_goes_with_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    caches: list[weakref.ref[KeyValueCache]] = []
    made = KeyValueCache.__init__

    def noted(cache: KeyValueCache, *arguments: object) -> None:
        made(cache, *arguments)
        caches.append(weakref.ref(cache))

    generate(make_model(LOOPED), PROMPTS, GenerateSettings(max_new_tokens=2))  # compiling may hold on to arguments
    monkeypatch.setattr(KeyValueCache, "__init__", noted)
    gc.disable()  # a cycle would keep it until a collection comes
    try:
        generate(make_model(LOOPED), PROMPTS, GenerateSettings(max_new_tokens=2))
        assert [cache() for cache in caches] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("config", [SHAPE, LOOPED], ids=["dense", "looped"])
@pytest.mark.parametrize("max_batch", [1, 4, 32])
def test_greedy_is_repeated_argmax(config, max_batch: int) -> None:
    model = make_model(config)
    results = generate(model, PROMPTS, GenerateSettings(max_new_tokens=10, max_batch=max_batch))
    for prompt, result in zip(PROMPTS, results, strict=True):
        ids, logprobs = _greedy(model, prompt, 10)
        assert result.ids == ids
        assert result.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert result.stop_reason == "length"


def test_stop_ids_end_a_row_and_leave_the_others_alone() -> None:
    model = make_model(LOOPED)
    plain = generate(model, PROMPTS, GenerateSettings(max_new_tokens=12))
    stop = plain[0].ids[3], plain[3].ids[1]
    for prompt_plain, result in zip(
        plain, generate(model, PROMPTS, GenerateSettings(max_new_tokens=12, stop_ids=stop)), strict=True
    ):
        ends = [i for i, token in enumerate(prompt_plain.ids) if token in stop]
        expected = prompt_plain.ids[: ends[0] + 1] if ends else prompt_plain.ids
        assert result.ids == expected
        assert result.stop_reason == ("stop" if ends else "length")


def test_the_context_is_filled_to_its_last_token() -> None:
    model = make_model(LOOPED)
    prompts = [make_ids(1, 60).tolist()[0], [1, 2, 3]]
    long, short = generate(model, prompts, GenerateSettings(max_new_tokens=10))
    assert (len(long.ids), long.stop_reason) == (4, "context")
    assert (len(short.ids), short.stop_reason) == (10, "length")
    assert short.ids == _greedy(model, [1, 2, 3], 10)[0]


def test_a_request_does_not_depend_on_its_batch() -> None:
    model = make_model(LOOPED, torch.float64)
    settings = GenerateSettings(max_new_tokens=12, temperature=1.0, top_p=0.95)
    together = generate(model, PROMPTS, settings, seeds=list(range(6)))
    for i in (0, 2, 5):
        (alone,) = generate(model, [PROMPTS[i]], settings, seeds=[i])
        assert alone.ids == together[i].ids
        assert alone.logprobs == pytest.approx(together[i].logprobs, abs=1e-9)
    assert generate(model, PROMPTS, settings, seeds=list(range(6, 12))) != together


def test_equal_prompts_are_read_once_and_differ_in_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(LOOPED, torch.float64)
    calls: list[int] = []
    read = Decoder.read
    monkeypatch.setattr(Decoder, "read", lambda self, prompts: calls.append(len(prompts)) or read(self, prompts))
    settings = GenerateSettings(max_new_tokens=8, temperature=1.0)
    results = generate(model, [PROMPTS[1]] * 5 + [PROMPTS[0]] * 3, settings)
    assert calls == [2]
    assert len({tuple(result.ids) for result in results[:5]}) > 1
    assert results == generate(model, [PROMPTS[1]] * 5 + [PROMPTS[0]] * 3, settings)


def test_logprobs_are_those_of_the_plain_and_of_the_sampled_distribution() -> None:
    model = make_model(LOOPED, torch.float64)
    settings = GenerateSettings(max_new_tokens=6, temperature=0.7, top_k=9)
    (result,) = generate(model, [PROMPTS[1]], settings)
    hidden = model(torch.tensor([PROMPTS[1] + result.ids]))
    logits = model.logits(hidden)[0, len(PROMPTS[1]) - 1 : -1].detach()
    chosen = torch.tensor(result.ids)[:, None]
    assert result.logprobs == pytest.approx(logits.log_softmax(-1).gather(1, chosen)[:, 0].tolist(), abs=1e-9)
    sampled = distribution(logits, settings).log().gather(1, chosen)[:, 0]
    assert result.sampling_logprobs == pytest.approx(sampled.tolist(), abs=1e-9)


def test_filters_keep_what_they_say() -> None:
    probabilities = torch.tensor([[0.4, 0.3, 0.2, 0.06, 0.04]], dtype=torch.float64)

    def kept(**fields: float) -> list[float]:
        settings = GenerateSettings.model_validate({"max_new_tokens": 1, "temperature": 1.0} | fields)
        return distribution(probabilities.log(), settings)[0].tolist()

    assert kept() == pytest.approx([0.4, 0.3, 0.2, 0.06, 0.04])
    assert kept(top_k=2) == pytest.approx([4 / 7, 3 / 7, 0, 0, 0])
    assert kept(top_p=0.7) == pytest.approx([4 / 7, 3 / 7, 0, 0, 0])
    assert kept(top_p=0.71) == pytest.approx([4 / 9, 3 / 9, 2 / 9, 0, 0])
    assert kept(top_p=1e-9) == pytest.approx([1, 0, 0, 0, 0])
    assert kept(min_p=0.5) == pytest.approx([4 / 9, 3 / 9, 2 / 9, 0, 0])
    squares = [p**2 for p in probabilities[0].tolist()]
    assert kept(temperature=0.5) == pytest.approx([p / math.fsum(squares) for p in squares])


def test_samples_follow_the_distribution() -> None:
    settings = GenerateSettings(max_new_tokens=1, temperature=1.0, top_k=4)
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0, -3.0], dtype=torch.float64)
    n = 20000
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n  # an even grid: frequencies are exact to 1 / n
    chosen, logprobs = sample(logits.expand(n, -1), uniform, settings)
    expected = distribution(logits[None], settings)[0]
    assert torch.bincount(chosen, minlength=6) / n == pytest.approx(expected.tolist(), abs=1.1 / n)
    torch.testing.assert_close(logprobs, expected[chosen].log())


def test_the_ends_of_the_unit_interval_pick_possible_tokens() -> None:
    settings = GenerateSettings(max_new_tokens=1, temperature=1.0, top_k=2)
    logits = torch.tensor([[-5.0, 1.0, 0.0, -5.0]]).expand(2, -1)
    chosen, _ = sample(logits, torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64), settings)
    assert chosen.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("prompts", "fields", "message"),
    [
        ([[]], {}, "prompt 0: the prompt is empty"),
        ([[1], [0] * 64], {}, "prompt 1: the prompt has 64 tokens"),
        ([[3, 50]], {}, r"prompt 0: the prompt holds id 50, outside 0\.\.49"),
        ([[3]], {"stop_ids": [99]}, "stop_ids holds id 99"),
        ([[3]], {"stop_texts": ["x"]}, "stop_texts needs a tokenizer"),
    ],
)
def test_bad_requests(prompts: list[list[int]], fields: dict[str, object], message: str) -> None:
    settings = GenerateSettings.model_validate({"max_new_tokens": 4} | fields)
    with pytest.raises(UserError, match=message):
        generate(make_model(SHAPE), prompts, settings)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_broken_model_is_named(temperature: float) -> None:
    model = make_model(SHAPE)
    with torch.no_grad():
        model.layers[1].mlp.down_proj.weight[3, 2] = torch.nan
    with pytest.raises(UserError, match="prompt 0: the model's logits are not numbers"):
        generate(model, [[1, 2]], GenerateSettings(max_new_tokens=4, temperature=temperature))


@pytest.mark.parametrize(
    "fields",
    [
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_p": math.nan},
        {"min_p": -0.1},
        {"max_new_tokens": 0},
        {"temperature": 1e-30},
        {"temperature": math.inf},
        {"temperature": math.nan},
    ],
)
def test_bad_settings(fields: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(fields))):
        validate(GenerateSettings, {"max_new_tokens": 4} | fields)
