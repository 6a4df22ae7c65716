"""The CPU back end against the reference, and the reference against arithmetic done by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.core.errors import UserError
from codeflow.kernels import arrays, blocks, cpu, reference
from codeflow.kernels.dispatch import causal_attention
from codeflow.kernels.documents import Documents
from tests.kernels.cases import cast, gated, gradients, make_inputs, packed, relative

PACKINGS = {
    "one document": None,
    "equal documents": [[100, 100], [100, 100]],
    "mixed": [[7, 1, 60, 130, 1, 1], [199, 1]],
    "lone tokens": [[1] * 200, [140, *[1] * 60]],
}


@pytest.mark.parametrize("strict", [False, True], ids=["own position", "strict"])
@pytest.mark.parametrize("window", [1, 20, 150, 400])
@pytest.mark.parametrize("packing", PACKINGS)
def test_cpu_equals_reference_forward_and_backward(
    packing: str, window: int, strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = packed(PACKINGS[packing])
    inputs = make_inputs(2, 200, elementwise=window == 20)
    exact = gradients(gated(inputs, documents, window, "reference", strict), inputs)
    ours = gradients(gated(inputs, documents, window, "cpu", strict), inputs)
    for found, best in zip(ours, exact, strict=True):
        torch.testing.assert_close(found, best, rtol=1e-10, atol=1e-11)
    single = cast(inputs, torch.float32)
    for most_threads in (0, 1000):  # in torch operations, compiled
        monkeypatch.setattr(arrays, "_MOST_THREADS", most_threads)
        for found, best in zip(gradients(gated(single, documents, window, "cpu", strict), single), exact, strict=True):
            assert relative(found, best) < 1e-5 or float(best.norm()) < 1e-10


@pytest.mark.parametrize("packing", PACKINGS)
def test_plain_attention_equals_reference(packing: str) -> None:
    documents = packed(PACKINGS[packing])
    inputs = make_inputs(2, 200)[:3]
    exact = gradients(reference.causal_attention(*inputs, documents), inputs)
    for found, best in zip(gradients(cpu.causal_attention(*inputs, documents), inputs), exact, strict=True):
        torch.testing.assert_close(found, best, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("elementwise", "strict"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize(("backend", "window"), [("reference", 2), ("cpu", 1), ("cpu", 2), ("cpu", 7)])
def test_gradcheck(backend: str, window: int, elementwise: bool, strict: bool) -> None:
    documents = packed([[5], [2, 3]])
    inputs = make_inputs(2, 5, head_dim=2, elementwise=elementwise)
    assert torch.autograd.gradcheck(lambda *x: gated(list(x), documents, window, backend, strict), inputs)


def test_strict_queries_that_see_nothing_get_zero() -> None:
    inputs = make_inputs(1, 9)
    inputs[5] = torch.full_like(inputs[5], -1000.0)  # the local part alone
    for backend in ("reference", "cpu"):
        output = gated(inputs, packed([[4, 5]]), 3, backend, strict=True)
        zero = (output == 0).all(-1).all(-1)[0]
        assert zero.tolist() == [True, False, False, False, True, False, False, False, False]
        assert not gated(inputs, packed([[4, 5]]), 1, backend, strict=True).any()


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), window=st.integers(1, 12), seed=st.integers(0, 99))
def test_packed_documents_do_not_see_each_other(lengths: list[int], window: int, seed: int) -> None:
    total = sum(lengths)
    inputs = [x.detach() for x in make_inputs(1, total, seed=seed)]
    whole = gated(inputs, packed([lengths]), window, "cpu")
    at = 0
    for length in lengths:
        alone = gated([x[:, at : at + length] for x in inputs], None, window, "cpu")
        torch.testing.assert_close(whole[:, at : at + length], alone, rtol=1e-10, atol=1e-12)
        at += length


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 700), min_size=1, max_size=80))
def test_length_ranges_hold_every_length_once(lengths: list[int]) -> None:
    ranges = blocks._length_ranges(lengths)
    for length in lengths:
        assert sum(shortest <= length <= longest for shortest, longest in ranges) == 1
    assert all({shortest, longest} <= set(lengths) for shortest, longest in ranges)


def test_many_lone_tokens_share_one_product() -> None:
    assert blocks._length_ranges([1] * 500 + [300]) == [(300, 300), (1, 1)]


def test_reference_by_hand() -> None:
    """Three positions, one head, head dim 2 with zero second half: weights can be written down."""
    q = torch.tensor([1.0, 2.0, 0.0]).view(1, 3, 1, 1).repeat(1, 1, 1, 2) * torch.tensor([1.0, 0.0])
    k = torch.tensor([0.0, 1.0, 5.0]).view(1, 3, 1, 1).repeat(1, 1, 1, 2) * torch.tensor([1.0, 0.0])
    v = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]).view(1, 3, 1, 2)
    scale = 1 / math.sqrt(2)
    second = math.exp(2 * scale) / (1 + math.exp(2 * scale))  # weight of key 1 for query 1
    output = reference.causal_attention(q, k, v, None)[0, :, 0, 0].tolist()
    assert output == pytest.approx([1.0, 1 + second, 2.0])  # query 2 is zero: the mean of all three
    output = reference.window_attention(q, k, v, None, 2)[0, :, 0, 0].tolist()
    assert output == pytest.approx([1.0, 1 + second, 2.5])  # the last two only
    gate = torch.tensor([0.0, math.log(3), -math.log(3)]).view(1, 3, 1)
    mixed = reference.mix(torch.ones(1, 3, 1, 2), torch.zeros(1, 3, 1, 2), gate)
    assert mixed[0, :, 0, 0].tolist() == pytest.approx([0.5, 0.75, 0.25])


@pytest.mark.parametrize(
    ("wrong", "at"),
    [([[0, 0, 1, 1]], r"\[0, 2\]=1"), ([[1, 1, 2]], r"\[0, 0\]=1"), ([[0, 1, 0]], r"\[0, 2\]=0")],
)
def test_wrong_document_starts_are_named(wrong: list[list[int]], at: str) -> None:
    with pytest.raises(UserError, match=f"document_starts{at}"):
        Documents.of(torch.tensor(wrong))


def test_unknown_backend_lists_the_choices() -> None:
    q, k, v, *_ = make_inputs(1, 3)
    with pytest.raises(UserError, match=r"no attention back end 'refrence'; did you mean 'reference'\?"):
        causal_attention(q, k, v, None, "refrence")
