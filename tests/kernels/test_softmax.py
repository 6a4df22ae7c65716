"""Softmax over ranges of keys, compiled and in torch operations, against its definition in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codeflow.kernels import arrays
from codeflow.kernels.softmax import KeyRanges

FIRST = torch.tensor([[0, 1, 2, 7, 0], [3, 0, 36, 5, 11]])
END = torch.tensor([[1, 2, 37, 8, 37], [20, 37, 37, 6, 12]])
REPEATS, N_KEYS = 3, 37


@pytest.fixture(params=["compiled", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(arrays, "_LEAST_ELEMENTS", 0)
    monkeypatch.setattr(arrays, "_MOST_THREADS", 1000 if request.param == "compiled" else 0)
    return request.param


def _numbers(dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(4, 5 * REPEATS, N_KEYS, generator=generator)).to(dtype)


def _exact(scores: Tensor, shared: int) -> Tensor:
    first, end = (x.repeat(2, 1).repeat_interleave(REPEATS, 1)[..., None] for x in (FIRST, END))
    key = torch.arange(N_KEYS)
    return scores.double().masked_fill(~((first <= key) & (key < end) | (key < shared)), -torch.inf).softmax(-1)


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_weights_and_gradients_are_those_of_the_definition(way: str, dtype: torch.dtype, allowed: float) -> None:
    scores, upstream = _numbers(dtype, 0), _numbers(dtype, 1)
    exact = _exact(scores, 0)
    ranges = KeyRanges(FIRST, END)
    weights = ranges.softmax(scores.clone())
    assert weights.dtype == dtype
    assert float((weights - exact).abs().max()) < allowed
    assert not weights[exact == 0].any()
    sums = torch.empty(scores.shape[:2])
    gradient = ranges.backward(weights, upstream.clone(), sums)
    wide = weights.double()
    expected = (wide * upstream).sum(-1)
    assert float((sums - expected).abs().max()) < 5 * allowed
    assert float((gradient - wide * (upstream - expected[..., None])).abs().max()) < 5 * allowed
    assert torch.equal(ranges.backward(weights, upstream.clone(), None), gradient)


def test_keys_that_all_see_need_no_mask(way: str) -> None:
    """Queries 2, 3, 4 of a row and the keys before them."""
    ranges = KeyRanges(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[3, 4, 5]]), shared=2)
    scores = _numbers(torch.float32, 2)[:, :6, :5].contiguous()
    key = torch.arange(5)
    seen = key <= torch.tensor([2, 2, 3, 3, 4, 4])[:, None]
    expected = scores.double().masked_fill(~seen, -torch.inf).softmax(-1)
    assert float((ranges.softmax(scores.clone()) - expected).abs().max()) < 1e-6


@pytest.mark.parametrize("bad", [torch.nan, -torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_shows(way: str, dtype: torch.dtype, bad: float) -> None:
    scores = _numbers(dtype, 0)
    scores[1, 4, 1] = bad
    weights = KeyRanges(torch.zeros_like(FIRST), torch.full_like(END, N_KEYS)).softmax(scores)
    assert weights[1, 4].isnan().any()
    assert int(weights.isnan().any(-1).sum()) == 1
