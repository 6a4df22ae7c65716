"""The CPU back end against the reference, and the reference against arithmetic done by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codeflow.core.errors import UserError
from codeflow.kernels import reference
from codeflow.kernels.dispatch import causal_attention, gated_attention
from codeflow.kernels.documents import Documents

N_HEADS, N_KV_HEADS, HEAD_DIM = 4, 2, 8


def _starts(lengths: list[list[int]]) -> Tensor:
    rows = []
    for row in lengths:
        begin, values = 0, []
        for length in row:
            values += [begin] * length
            begin += length
        rows.append(values)
    return torch.tensor(rows)


def _inputs(n_rows: int, length: int, seed: int = 0, head_dim: int = HEAD_DIM) -> list[Tensor]:
    """q, k1, v1, k2, v2, gate_logits."""
    generator = torch.Generator().manual_seed(seed)
    heads = [N_HEADS, *[N_KV_HEADS] * 4]
    tensors = [torch.randn(n_rows, length, h, head_dim, generator=generator, dtype=torch.float64) for h in heads]
    tensors.append(torch.randn(n_rows, length, N_HEADS, generator=generator, dtype=torch.float64))
    return [x.requires_grad_() for x in tensors]


def _gated(inputs: list[Tensor], documents: Documents | None, window: int, backend: str) -> Tensor:
    q, k1, v1, k2, v2, logits = inputs
    return gated_attention(q, (k1, v1), (k2, v2), logits, documents, window, backend)


def _with_gradients(inputs: list[Tensor], documents: Documents | None, window: int, backend: str) -> list[Tensor]:
    output = _gated(inputs, documents, window, backend)
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape).to(output.dtype)
    return [output, *torch.autograd.grad((output * weights).sum(), inputs)]


def _relative(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact.double()).norm().detach() / exact.double().norm().detach().clamp_min(1e-12))


PACKINGS = {
    "one document": None,
    "equal documents": [[150, 150], [150, 150]],
    "mixed": [[7, 1, 130, 160, 1, 1], [299, 1]],
    "lone tokens": [[1] * 300, [200, *[1] * 100]],
}


@pytest.mark.parametrize("window", [1, 64, 150, 300])
@pytest.mark.parametrize("packing", PACKINGS)
def test_cpu_equals_reference_forward_and_backward(packing: str, window: int) -> None:
    lengths = PACKINGS[packing]
    documents = Documents.of(_starts(lengths) if lengths else None)
    inputs = _inputs(2, 300)
    exact = _with_gradients(inputs, documents, window, "reference")
    for ours, theirs in zip(_with_gradients(inputs, documents, window, "cpu"), exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)
    single = [x.detach().float().requires_grad_() for x in inputs]
    for ours, theirs in zip(_with_gradients(single, documents, window, "cpu"), exact, strict=True):
        assert _relative(ours, theirs) < 1e-5 or float(theirs.norm()) < 1e-10


@pytest.mark.parametrize("logit", [-8.0, -4.0, 0.0, 4.0, 8.0])
def test_bf16_is_as_good_as_the_reference_in_bf16(logit: float) -> None:
    """No gate value may lose digits: at most twice the error of the reference, which stores both outputs."""
    documents = Documents.of(_starts([[100, 200], [300]]))
    values = [*_inputs(2, 300)[:5], torch.full((2, 300, N_HEADS), logit, dtype=torch.float64)]
    exact = _with_gradients([x.detach().requires_grad_() for x in values], documents, 16, "reference")
    for names, ours, theirs, best in zip(
        ("out", "q", "k1", "v1", "k2", "v2", "logit"),
        _with_gradients([x.detach().bfloat16().requires_grad_() for x in values], documents, 16, "cpu"),
        _with_gradients([x.detach().bfloat16().requires_grad_() for x in values], documents, 16, "reference"),
        exact,
        strict=True,
    ):
        assert _relative(ours, best) < 2 * _relative(theirs, best) + 1e-3, names


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("window", [2, 5])
def test_gradcheck(backend: str, window: int) -> None:
    documents = Documents.of(_starts([[5], [2, 3]]))
    inputs = _inputs(2, 5, head_dim=2)
    assert torch.autograd.gradcheck(lambda *x: _gated(list(x), documents, window, backend), inputs)


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), window=st.integers(1, 12), seed=st.integers(0, 99))
def test_packed_documents_do_not_see_each_other(lengths: list[int], window: int, seed: int) -> None:
    total = sum(lengths)
    inputs = [x.detach() for x in _inputs(1, total, seed=seed)]
    documents = Documents.of(_starts([lengths]))
    packed = _gated(inputs, documents, window, "cpu")
    at = 0
    for length in lengths:
        alone = _gated([x[:, at : at + length] for x in inputs], None, window, "cpu")
        torch.testing.assert_close(packed[:, at : at + length], alone, rtol=1e-10, atol=1e-12)
        at += length


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
    ("starts", "at"),
    [([[0, 0, 1, 1]], r"\[0, 2\]=1"), ([[1, 1, 2]], r"\[0, 0\]=1"), ([[0, 1, 0]], r"\[0, 2\]=0")],
)
def test_wrong_document_starts_are_named(starts: list[list[int]], at: str) -> None:
    with pytest.raises(UserError, match=f"document_starts{at}"):
        Documents.of(torch.tensor(starts))


def test_unknown_backend_lists_the_choices() -> None:
    q, k, v, *_ = _inputs(1, 3)
    with pytest.raises(UserError, match=r"no attention back end 'refrence'; did you mean 'reference'\?"):
        causal_attention(q, k, v, None, "refrence")
