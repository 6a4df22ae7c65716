"""Fingerprints: parts add up to the whole, every bit and every place counts, all ways of computing agree."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from codeflow.kernels import fingerprint as module
from codeflow.kernels.fingerprint import as_pair, fingerprint

DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


def filled(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2 if dtype == torch.bool else 100, shape, generator=generator)
    return bits.to(dtype) if not dtype.is_floating_point else torch.randn(shape, generator=generator).to(dtype)


def by_definition(x: Tensor, offset: tuple[int, ...]) -> tuple[int, int]:
    """The sums in Python's integers, from the tables of keys."""
    per_element = 2 if x.element_size() == 8 else 1
    words = x.contiguous().view(module._WORDS[x.element_size()])
    totals = [0, 0]
    for index in itertools.product(*(range(n) for n in words.shape)):
        for k in range(2):
            key = 1
            for dim, place in enumerate(reversed(index)):
                begin = offset[-1 - dim] * (per_element if dim == 0 else 1)
                table = module._table(dim, module._room(place + begin + 1), x.device)
                key *= int(table[k, place + begin])
            totals[k] += int(words[index]) * key
    return totals[0] % 2**64, totals[1] % 2**64


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "offset"), [((3, 5), (0, 0)), ((2, 3, 4), (7, 1, 1020)), ((6,), (2000,))], ids=str)
def test_equals_its_definition(shape: tuple[int, ...], offset: tuple[int, ...], dtype: torch.dtype) -> None:
    x = filled(shape, dtype)
    assert as_pair(fingerprint(x, offset)) == by_definition(x, offset)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8], ids=str)
@pytest.mark.parametrize("shape", [(100, 57), (5000,), (7, 9, 128), (4500, 1)], ids=str)
def test_compiled_and_torch_agree(shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x = filled(shape, dtype)
    compiled = fingerprint(x)
    monkeypatch.setattr(module, "_LEAST_ELEMENTS", 1 << 40)
    monkeypatch.setattr(module, "_CHUNK_WORDS", 1000)
    assert torch.equal(compiled, fingerprint(x))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.data())
def test_parts_add_up_to_the_whole(shape: list[int], data: st.DataObject) -> None:
    """A box cut along any dim, again and again, in any order."""
    x = filled(tuple(shape), data.draw(st.sampled_from(DTYPES)))
    parts = [((0,) * len(shape), x)]
    for _ in range(data.draw(st.integers(0, 4))):
        offset, part = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        dim = data.draw(st.integers(0, len(shape) - 1))
        cut = data.draw(st.integers(0, part.shape[dim]))
        behind = tuple(begin + cut * (i == dim) for i, begin in enumerate(offset))
        parts += [(behind, part.narrow(dim, cut, part.shape[dim] - cut)), (offset, part.narrow(dim, 0, cut))]
    total = torch.stack([fingerprint(part, offset) for offset, part in parts]).sum(0)
    assert torch.equal(total, fingerprint(x))


@given(st.sampled_from(DTYPES[:-1]), st.data())
def test_every_bit_counts_in_both_sums(dtype: torch.dtype, data: st.DataObject) -> None:
    x = filled((6, 7), dtype)
    before = as_pair(fingerprint(x))
    raw = x.view(torch.uint8).flatten()
    place = data.draw(st.integers(0, raw.numel() - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    after = as_pair(fingerprint(x))
    assert before[0] != after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize("change", ["swap", "transpose", "roll", "negative zero", "two words that cancel"])
def test_places_count(change: str) -> None:
    x = torch.arange(1.0, 50.0).reshape(7, 7)
    x[0, 0] = 0.0
    other = x.clone()
    if change == "swap":
        other[2, 3], other[4, 1] = x[4, 1], x[2, 3]
    elif change == "transpose":
        other = x.T
    elif change == "roll":
        other = x.roll(1, 0)
    elif change == "negative zero":
        other[0, 0] = -0.0
    else:
        other.view(torch.int32)[1, 1] += 5
        other.view(torch.int32)[1, 2] -= 5
    pairs = [as_pair(fingerprint(each)) for each in (x, other)]
    assert pairs[0][0] != pairs[1][0]
    assert pairs[0][1] != pairs[1][1]


def test_odd_shapes() -> None:
    assert fingerprint(torch.zeros(0, 3), (5, 2)).tolist() == [0, 0]
    assert torch.equal(fingerprint(torch.tensor(2.5)), fingerprint(torch.tensor([2.5])))
    assert torch.equal(fingerprint(filled((4, 6)).T), fingerprint(filled((4, 6)).T.contiguous()))
    assert fingerprint(torch.tensor(1 + 2j)).tolist() != [0, 0]
    with pytest.raises(AssertionError, match="offset"):
        fingerprint(torch.zeros(3), (0, 0))
