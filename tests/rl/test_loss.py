from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from codeflow.model.config import ModelConfig
from codeflow.model.looped import LoopCoder
from codeflow.rl.loss import PolicyBatch, PolicyLoss, clipped_objective, policy_weights, token_logprobs
from codeflow.tokens.batch import Batch

LOW, HIGH = 0.2, 0.28


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "clipped"),
    [
        (1.0, 1.0, 1.0, False),
        (1.0, -1.0, -1.0, False),
        (1.27, 1.0, 1.27, False),
        (1.5, 1.0, 1.28, True),  # good and likelier already: no further
        (0.5, 1.0, 0.5, False),  # good and less likely: pushed up
        (0.81, -2.0, -1.62, False),
        (0.5, -2.0, -1.6, True),  # bad and less likely already: no further
        (1.5, -2.0, -3.0, False),  # bad and likelier: pushed down, without bound
        (3.0, 0.0, 0.0, False),
    ],
)
def test_table_of_clipping(ratio, advantage, objective, clipped):
    value, cut = clipped_objective(torch.tensor([ratio]), torch.tensor([advantage]), LOW, HIGH)
    assert value.item() == pytest.approx(objective)
    assert cut.item() is clipped
    _, weight, _ = policy_weights(
        torch.tensor([math.log(ratio)]), torch.zeros(1), torch.tensor([advantage]), (LOW, HIGH)
    )
    assert weight.item() == pytest.approx(0.0 if clipped else ratio * advantage, rel=1e-5)


def made(old: bool) -> tuple[LoopCoder, Batch]:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=32,
    )
    model = LoopCoder(config).double()
    source = np.random.default_rng(1)
    shape = (3, 12)
    ids, targets = source.integers(0, 40, shape), source.integers(0, 40, shape)
    weights = ((source.random(shape) < 0.6) * source.integers(1, 4, shape)).astype(np.float32)  # equal rollouts
    starts = np.zeros(shape, np.int32)
    positions = np.broadcast_to(np.arange(12, dtype=np.int32), shape).copy()
    advantages = source.normal(size=shape).astype(np.float32)
    old_logprobs = (math.log(1 / 40) + 0.3 * source.normal(size=shape)).astype(np.float32) if old else None
    return model, Batch(ids, targets, weights, positions, starts, (), advantages, old_logprobs)


def plain_loss(model: LoopCoder, batch: PolicyBatch) -> torch.Tensor:
    """The formula, by automatic differentiation over the whole vocabulary."""
    logprobs = model.lm_head(model(batch.ids)).log_softmax(-1).gather(-1, batch.targets[..., None])[..., 0]
    old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
    ratio = (logprobs - old).exp()
    a = batch.advantages
    return -(torch.minimum(ratio * a, ratio.clamp(1 - LOW, 1 + HIGH) * a) * batch.weights).sum()


@pytest.mark.parametrize("old", [False, True])
def test_value_and_gradient_are_those_of_the_formula(old):
    model, arrays = made(old)
    batch = PolicyBatch.of(arrays)
    loss = PolicyLoss(LOW, HIGH, chunk_rows=5)
    value = loss(model, batch, 0.25)
    value.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    expected = 0.25 * plain_loss(model, batch)
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-5, atol=1e-8)
    assert loss.tally.n_tokens == int(arrays.weights.sum())
    assert (loss.tally.n_clipped > 0) is old


def test_log_probabilities_in_chunks():
    torch.manual_seed(0)
    hidden, head, targets = torch.randn(7, 4), torch.randn(9, 4), torch.randint(0, 9, (7,))
    expected = (hidden @ head.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(token_logprobs(hidden, head, targets, 3), expected)
