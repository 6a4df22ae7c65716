"""Products of bf16 matrices made in fp32: the exact product rounded once, with gradients to match."""

from __future__ import annotations

import pytest
import torch

from codeflow.kernels import cpu, wide
from codeflow.kernels.documents import Documents
from codeflow.kernels.wide import add_product, linear, product, product_dtype


@pytest.fixture(params=[False, True], ids=["bf16 instructions", "none"])
def slow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(wide, "_SLOW_BF16", request.param)
    return request.param


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_only_bf16_on_a_cpu_is_widened(slow: bool) -> None:
    assert product_dtype(random(2)) == (torch.float32 if slow else torch.bfloat16)
    for dtype in (torch.float32, torch.float64, torch.float16):
        assert product_dtype(random(2, dtype=dtype)) == dtype
    assert product_dtype(torch.empty(2, dtype=torch.bfloat16, device="meta")) == torch.bfloat16


@pytest.mark.parametrize("block", [3, 4096])
def test_products(block: int, slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide, "_BLOCK", block)
    left, right = random(5, 7), random(7, 11, seed=1)
    exact = left.double() @ right.double()
    found = product(left, right)
    assert found.dtype == torch.bfloat16
    assert (found - exact).abs().max() <= 2**-8 * exact.abs().max()
    if slow:
        assert torch.equal(found, exact.to(torch.bfloat16))
    wider = torch.zeros(5, 22, dtype=torch.bfloat16)
    assert product(left, right, wider[:, 11:]) is not None
    assert torch.equal(wider[:, 11:], found)
    assert not wider[:, :11].any()
    total = torch.ones(5, 11)
    add_product(total, left, right)
    assert (total - 1 - exact).abs().max() <= (1e-5 if slow else 2**-8) * exact.abs().max()


def test_linear_and_its_gradients(slow: bool) -> None:
    x, weight, upstream = random(2, 3, 16), random(8, 16, seed=1), random(2, 3, 8, seed=2)
    found = [tensor.clone().requires_grad_() for tensor in (x, weight)]
    output = linear(*found)
    if slow:
        assert {kept.dtype for kept in output.grad_fn.saved_tensors} == {torch.bfloat16}  # type: ignore[union-attr]
    output.backward(upstream)
    exact = [tensor.double().requires_grad_() for tensor in (x, weight)]
    expected = torch.nn.functional.linear(*exact)
    expected.backward(upstream.double())
    assert output.dtype == torch.bfloat16
    pairs = [(output, expected), *((f.grad, e.grad) for f, e in zip(found, exact, strict=True))]
    for value, right in pairs:
        assert value is not None
        assert right is not None
        assert value.dtype == torch.bfloat16
        assert (value - right).abs().max() <= 2**-8 * right.abs().max()


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_gets_no_gradient(frozen: int, slow: bool) -> None:
    operands = [random(3, 4), random(5, 4, seed=1)]
    operands[1 - frozen].requires_grad_()
    linear(*operands).sum().backward()
    assert operands[frozen].grad is None
    assert operands[1 - frozen].grad is not None


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("length", [40, 200])
def test_attention_is_no_further_from_fp64(gated: bool, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Than with products in bf16; and its gradients too."""
    document_starts = torch.zeros(2, length, dtype=torch.int64)
    document_starts[0, 17:] = 17
    q, k1, v1, k2, v2 = (random(2, length, heads, 16, seed=i) for i, heads in enumerate((4, 2, 2, 2, 2)))
    logits = random(2, length, 4, seed=7)
    inputs = [q, k1, v1, k2, v2, logits] if gated else [q, k1, v1]

    def run(dtype: torch.dtype) -> list[torch.Tensor]:
        given = [x.to(dtype).requires_grad_() for x in inputs]
        documents = Documents.of(document_starts)
        if gated:
            q, k1, v1, k2, v2, logits = given
            output = cpu.gated_attention(q, (k1, v1), (k2, v2), logits, documents, 8)
        else:
            output = cpu.causal_attention(given[0], given[1], given[2], documents)
        output.backward(random(*output.shape, seed=9).to(dtype))
        return [output.detach(), *(x.grad for x in given if x.grad is not None)]

    exact = run(torch.float64)
    monkeypatch.setattr(wide, "_SLOW_BF16", False)
    narrow = run(torch.bfloat16)
    monkeypatch.setattr(wide, "_SLOW_BF16", True)
    for right, before, found in zip(exact, narrow, run(torch.bfloat16), strict=True):
        assert found.dtype == torch.bfloat16
        assert (found - right).square().mean() <= (before - right).square().mean()
