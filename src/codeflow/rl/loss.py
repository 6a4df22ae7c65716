"""The clipped policy loss at the level of tokens, with a higher upper bound and no KL term (DAPO, Yu et al. 2025 §3).

    loss = - sum over tokens of min(ratio * A, clip(ratio, 1 - low, 1 + high) * A),  ratio = p_new(token) / p_old(token)

The training step divides it by the number of sampled tokens of the whole batch, so that every token counts alike,
whatever the length of its rollout. Its gradient in log p_new is -ratio * A where the minimum is not clipped, else 0:
that of a cross-entropy with the weights ratio * A, which is how it is computed, a chunk of logits at a time.

Legend: N tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from codeflow.model.looped import LoopCoder
from codeflow.tokens.batch import Batch
from codeflow.train.losses import TensorBatch, cross_entropy


@dataclass(frozen=True)
class PolicyBatch(TensorBatch):
    """A `Batch` of rollouts as tensors (B, T); the weight of a sampled token counts equal rollouts.

    Without `old_logprobs` the ratio is 1: the step's only update.
    """

    advantages: Tensor
    old_logprobs: Tensor | None

    @classmethod
    def of(cls, batch: Batch) -> PolicyBatch:
        """Wrap the arrays of `batch`; no copy."""
        assert batch.advantages is not None, "a batch of rollouts carries advantages"
        plain = TensorBatch.of(batch)
        old = None if batch.old_logprobs is None else torch.from_numpy(batch.old_logprobs)
        advantages = torch.from_numpy(batch.advantages)
        return cls(plain.ids, plain.targets, plain.weights, plain.positions, plain.document_starts, advantages, old)


@dataclass
class Tally:
    """What the loss saw since the last reset, in sampled tokens."""

    n_tokens: int = 0
    n_clipped: int = 0

    def reset(self) -> None:
        """Begin to count again."""
        self.n_tokens = self.n_clipped = 0


def clipped_objective(ratio: Tensor, advantages: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Return each token's objective min(ratio A, clip(ratio) A) and whether the clip stops its gradient; all (N,)."""
    plain = ratio * advantages
    bounded = ratio.clamp(1 - low, 1 + high) * advantages
    return torch.minimum(plain, bounded), bounded < plain


def policy_weights(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, bounds: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (objective, weight, clipped) of each token (N,); d objective / d logprob is the weight.

    `bounds` are (low, high).
    """
    ratio = (logprobs - old_logprobs).exp()
    objective, clipped = clipped_objective(ratio, advantages, *bounds)
    return objective, torch.where(clipped, 0.0, ratio * advantages), clipped


@torch.no_grad()
def token_logprobs(hidden: Tensor, head: Tensor, targets: Tensor, chunk_rows: int) -> Tensor:
    """Return log softmax(hidden @ head.T)[target] in fp32 (fp64 for fp64): hidden (N, C), head (V, C), targets (N,)."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    parts = []
    for h, target in zip(hidden.split(chunk_rows), targets.split(chunk_rows), strict=True):
        logits = (h @ head.T).to(wide)
        parts.append(logits.gather(1, target[:, None])[:, 0] - logits.logsumexp(-1))
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=wide)


@dataclass(frozen=True)
class PolicyLoss:
    """The loss of a phase of reinforcement learning; a `codeflow.train.losses.Loss` of `PolicyBatch`es."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    chunk_rows: int = 512
    tally: Tally = field(default_factory=Tally)

    def __call__(self, model: LoopCoder, batch: TensorBatch, scale: float) -> Tensor:
        """Return scale * sum over sampled tokens of the loss."""
        assert isinstance(batch, PolicyBatch), "make batches with PolicyBatch.of"
        hidden = model(batch.ids, batch.positions, batch.document_starts)
        head, kept = model.lm_head.weight, batch.weights > 0
        advantages, counts = batch.advantages[kept], batch.weights[kept]
        if batch.old_logprobs is None:
            objective, weights, clipped = advantages, advantages, torch.zeros_like(kept[kept])
        else:
            new = token_logprobs(hidden[kept].detach(), head, batch.targets[kept], self.chunk_rows)
            bounds = (self.clip_low, self.clip_high)
            objective, weights, clipped = policy_weights(new, batch.old_logprobs[kept], advantages, bounds)
        self.tally.n_tokens += int(counts.sum())
        self.tally.n_clipped += int(counts[clipped].sum())
        every = torch.zeros(kept.shape, dtype=weights.dtype)
        every[kept] = weights * counts * scale
        carrier = cross_entropy(hidden, head, batch.targets, every, chunk_rows=self.chunk_rows)
        value = -(objective * counts).sum(dtype=torch.float64).to(carrier.dtype) * scale
        return carrier + (value - carrier.detach())  # the value is the loss's, the gradient the cross-entropy's


@torch.no_grad()
def batch_logprobs(model: LoopCoder, batch: TensorBatch, chunk_rows: int) -> np.ndarray:
    """Return the log-probability of each sampled target as the training pass computes it, (B, T); 0 elsewhere."""
    hidden = model(batch.ids, batch.positions, batch.document_starts)
    kept = batch.weights > 0
    every = torch.zeros(kept.shape, dtype=torch.float32)
    every[kept] = token_logprobs(hidden[kept], model.lm_head.weight, batch.targets[kept], chunk_rows).float()
    return every.numpy()
