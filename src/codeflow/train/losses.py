"""Losses as sums with their weights. Cross-entropy is taken in chunks, so the vocabulary's logits never exist whole.

Legend: N tokens, C hidden size, V vocabulary, R rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from codeflow.model.looped import LoopCoder
from codeflow.tokens.batch import Batch

_BLOCK_ROWS = 64  # whose fp32 probabilities exist at one time
_UNDERFLOW = 1e-30  # a probability below this has lost digits in fp32; its logarithm is taken another way


@dataclass(frozen=True)
class TensorBatch:
    """A `Batch` as tensors (B, T). Of rows that processes share, all but `document_starts` is this one's part."""

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

    def part(self, own_part: Callable[[Tensor], Tensor]) -> TensorBatch:
        """Return the part of the rows that `own_part` takes of (B, T); documents stay those of whole rows."""
        ids, targets, weights, positions = map(own_part, (self.ids, self.targets, self.weights, self.positions))
        return TensorBatch(ids, targets, weights, positions, self.document_starts)

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
    a chunk at a time: peak memory is chunk_rows * V logits in the model's dtype, and one fp32 copy of the head.
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
            h = hidden[rows]
            logits = h @ head.T
            total += _into_gradient(logits, targets[rows], weights[rows].to(wide), z_loss)
            if grad_hidden is not None and grad_head is not None:
                grad_hidden[rows] = logits @ head
                grad_head += logits.T @ h
        if grad_hidden is not None and grad_head is not None:
            ctx.save_for_backward(grad_hidden, grad_head.to(head.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        (upstream,) = gradients
        return grad_hidden * upstream, grad_head * upstream, None, None, None, None


def _into_gradient(logits: Tensor, targets: Tensor, weights: Tensor, z_loss: float) -> Tensor:
    """Turn logits (R, V) into their gradient in place; return the weighted loss sum in the dtype of weights.

    A block of few rows stays in the processor's cache through all the passes over it.
    """
    total = torch.zeros((), dtype=weights.dtype)
    parts = (x.split(_BLOCK_ROWS) for x in (logits, targets[:, None], weights[:, None]))
    for block, index, weight in zip(*parts, strict=True):
        # softmax + gather: on CPU several times faster than logsumexp, which torch does not vectorise as well
        gradient = torch.softmax(block, dim=-1, dtype=weights.dtype)
        chosen = gradient.gather(1, index)
        losses = -chosen.log()
        lost = (chosen < _UNDERFLOW).squeeze(1)
        if lost.any():
            far = block[lost].to(weights.dtype)
            losses[lost] = far.logsumexp(-1, keepdim=True) - far.gather(1, index[lost])
        scale = weight
        if z_loss:
            log_z = losses + block.gather(1, index).to(weights.dtype)
            scale = weight * (1 + 2 * z_loss * log_z)
            losses = losses + z_loss * log_z**2
        total += (losses * weight).sum()
        gradient *= scale
        gradient.scatter_add_(1, index, -weight)
        block.copy_(gradient)
    return total
