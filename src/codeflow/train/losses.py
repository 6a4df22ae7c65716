"""Losses as sums with their weights. Cross-entropy is taken in chunks, so the vocabulary's logits never exist whole.

Legend: N tokens, C hidden size, V vocabulary, R rows of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from codeflow.model.looped import LoopCoder
from codeflow.tokens.batch import Batch

_UNDERFLOW = 1e-30  # a probability below this has lost digits in fp32; its logarithm is taken another way


@dataclass(frozen=True)
class TensorBatch:
    """A `Batch` as tensors (B, T)."""

    ids: Tensor
    targets: Tensor
    weights: Tensor
    positions: Tensor
    document_starts: Tensor

    @classmethod
    def of(cls, batch: Batch) -> TensorBatch:
        """Wrap the arrays of `batch`; no copy."""
        return cls(
            torch.from_numpy(batch.ids),
            torch.from_numpy(batch.targets),
            torch.from_numpy(batch.weights),
            torch.from_numpy(batch.positions),
            torch.from_numpy(batch.document_starts),
        )

    def split(self, rows: int) -> list[TensorBatch]:
        """Return micro-batches of at most `rows` rows."""
        names = self.__dataclass_fields__
        parts = zip(*(getattr(self, name).split(rows) for name in names), strict=True)
        return [TensorBatch(*part) for part in parts]

    @property
    def weight(self) -> float:
        """The sum of the loss weights."""
        return float(self.weights.sum(dtype=torch.float64))


class Loss(Protocol):
    """What a phase minimises, summed over a micro-batch; the step divides by the weight of the whole batch."""

    def __call__(self, model: LoopCoder, batch: TensorBatch, scale: float) -> Tensor:
        """Return scale * sum of weighted losses: a scalar that carries gradients."""
        ...


class Objective(nn.Module):
    """A model with its loss: the module that a step calls, so that FSDP2 gathers the output head with it."""

    def __init__(self, model: LoopCoder, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: TensorBatch, scale: float) -> Tensor:
        """Return scale * sum of weighted losses."""
        return self._loss(self.model, batch, scale)


@dataclass(frozen=True)
class NextToken:
    """Cross-entropy of the next token, plus `z_loss` * logsumexp**2, over tokens with weight."""

    z_loss: float = 0.0
    chunk_rows: int = 512
    checkpoint_blocks: bool = False

    def __call__(self, model: LoopCoder, batch: TensorBatch, scale: float) -> Tensor:
        """Return scale * sum of weighted losses."""
        hidden = model(batch.ids, batch.positions, batch.document_starts, checkpoint_blocks=self.checkpoint_blocks)
        weights = batch.weights * scale
        return cross_entropy(hidden, model.lm_head.weight, batch.targets, weights, self.z_loss, self.chunk_rows)


def cross_entropy(
    hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, z_loss: float = 0.0, chunk_rows: int = 512
) -> Tensor:
    """Return the weighted sum of -log softmax(hidden @ head.T)[target] + z_loss * logsumexp**2 in fp32 (fp64 for fp64).

    hidden (..., C), head (V, C), targets and weights (...). Gradients for hidden and head are made in the forward pass,
    a chunk at a time: peak memory is chunk_rows * V logits and one fp32 copy of the head.
    """
    loss = _ChunkedCrossEntropy.apply(
        hidden.flatten(0, -2), head, targets.flatten(), weights.flatten(), z_loss, chunk_rows
    )
    assert isinstance(loss, Tensor)
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, z_loss: float, chunk_rows: int
    ) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        kept = weights.nonzero().flatten()
        total = torch.zeros((), dtype=wide)
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_hidden = torch.zeros_like(hidden) if needs_grad else None
        grad_head = torch.zeros(head.shape, dtype=wide) if needs_grad else None
        for rows in kept.split(chunk_rows):
            h, w = hidden[rows], weights[rows].to(wide)
            loss, grad_logits = _chunk(h @ head.T, targets[rows], w, z_loss, wide)
            total += loss
            if grad_hidden is not None and grad_head is not None:
                grad_logits = grad_logits.to(head.dtype)
                grad_hidden[rows] = grad_logits @ head
                grad_head += grad_logits.T @ h
        if grad_hidden is not None and grad_head is not None:
            ctx.save_for_backward(grad_hidden, grad_head.to(head.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        (upstream,) = gradients
        return grad_hidden * upstream, grad_head * upstream, None, None, None, None


def _chunk(logits: Tensor, targets: Tensor, weights: Tensor, z_loss: float, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the weighted loss sum of logits (R, V) and its gradient (R, V)."""
    # softmax + gather: on CPU several times faster than logsumexp, which torch does not vectorise as well
    probabilities = torch.softmax(logits, dim=-1, dtype=wide)
    index = targets[:, None]
    chosen = probabilities.gather(1, index).squeeze(1)
    losses = -chosen.log()
    lost = (chosen < _UNDERFLOW).nonzero().flatten()
    if len(lost):
        far = logits[lost].to(wide)
        losses[lost] = far.logsumexp(-1) - far.gather(1, index[lost]).squeeze(1)
    gradient = probabilities
    scale = weights
    if z_loss:
        log_z = losses + logits.gather(1, index).squeeze(1).to(wide)
        scale = weights * (1 + 2 * z_loss * log_z)
        losses = losses + z_loss * log_z**2
    gradient *= scale[:, None]
    gradient.scatter_add_(1, index, -weights[:, None])
    return (losses * weights).sum(), gradient
