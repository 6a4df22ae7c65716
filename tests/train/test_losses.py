"""Chunked cross-entropy against torch's, in fp64, values and gradients."""

from __future__ import annotations

import pytest
import torch

from codeflow.train import losses
from codeflow.train.losses import cross_entropy


def reference(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, z_loss: float):
    logits = hidden @ head.T
    per_token = torch.nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    per_token = per_token + z_loss * logits.logsumexp(-1).flatten() ** 2
    return (per_token * weights.flatten()).sum()


@pytest.mark.parametrize("chunk_rows", [1, 7, 30, 1000])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_value_and_gradients_are_those_of_torch(chunk_rows: int, z_loss: float) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(3, 10, 8, dtype=torch.float64, requires_grad=True)
    head = torch.randn(17, 8, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.randint(17, (3, 10)), torch.rand(3, 10, dtype=torch.float64)
    weights[0, 3:] = 0
    ours = cross_entropy(hidden, head, targets, weights, z_loss, chunk_rows)
    theirs = reference(hidden, head, targets, weights, z_loss)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    for mine, other in zip(
        torch.autograd.grad(3.0 * ours, (hidden, head)), torch.autograd.grad(3.0 * theirs, (hidden, head)), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hopeless_targets_keep_their_loss(dtype: torch.dtype) -> None:
    """A probability that underflows still has a finite, exact loss."""
    hidden, head = torch.tensor([[1.0]], dtype=dtype), torch.tensor([[800.0], [0.0]], dtype=dtype)
    loss = cross_entropy(hidden, head, torch.tensor([1]), torch.ones(1))
    assert loss.item() == 800.0


def test_no_weight_no_loss_and_no_gradient() -> None:
    hidden, head = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    loss = cross_entropy(hidden, head, torch.zeros(4, dtype=torch.int64), torch.zeros(4))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert head.grad is not None
    assert not hidden.grad.any()
    assert not head.grad.any()


def test_bf16_is_close_to_fp32() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(64, 32), torch.randn(300, 32) / 32**0.5
    targets, weights = torch.randint(300, (64,)), torch.ones(64)
    wide = cross_entropy(hidden, head, targets, weights)
    narrow = cross_entropy(hidden.bfloat16(), head.bfloat16(), targets, weights)
    assert narrow.dtype == torch.float32
    assert narrow.item() == pytest.approx(wide.item(), rel=2e-3)


def test_a_second_backward_pass_is_refused() -> None:
    """The gradients are scaled in place and given away, so that they exist once."""
    hidden, head = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    loss = 2.0 * cross_entropy(hidden, head, torch.zeros(4, dtype=torch.int64), torch.ones(4))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward pass"):
        loss.backward()


def test_a_vocabulary_of_several_blocks_has_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(20, 8), torch.randn(50, 8, requires_grad=True)
    targets, weights = torch.randint(50, (20,)), torch.rand(20)
    (whole,) = torch.autograd.grad(cross_entropy(hidden, head, targets, weights), head)
    monkeypatch.setattr(losses, "_BLOCK_WORDS", 7)
    (parts,) = torch.autograd.grad(cross_entropy(hidden, head, targets, weights), head)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)
