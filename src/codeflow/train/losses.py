"""Losses as sums with their weights. Cross-entropy is taken in chunks, so the vocabulary's logits never exist whole.

Legend: N tokens, C hidden size, V vocabulary, R rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from codeflow.core.freed_memory import make_room
from codeflow.kernels.wide import add_product, product
from codeflow.model.config import Checkpointing
from codeflow.model.looped import LoopCoder
from codeflow.tokens.batch import Batch

_CHUNK_BYTES = 48 * 2**20  # of logits, at most
_BLOCK_ROWS = 64  # whose fp32 probabilities exist at one time; fewer of a large vocabulary, on a CPU
_CACHED_ELEMENTS, _LEAST_ROWS = 1 << 19, 8
_BLOCK_WORDS = 4096  # of one product with the head: oneDNN makes it in fp32 first where there are no bf16 instructions
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
    checkpointing: Checkpointing = "none"

    def __call__(self, model: LoopCoder, batch: TensorBatch, scale: float) -> Tensor:
        """Return scale * sum of weighted losses."""
        hidden = model(batch.ids, batch.positions, batch.document_starts, checkpointing=self.checkpointing)
        weights = batch.weights * scale
        return cross_entropy(hidden, model.lm_head.weight, batch.targets, weights, self.z_loss, self.chunk_rows)


def cross_entropy(
    hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, z_loss: float = 0.0, chunk_rows: int = 512
) -> Tensor:
    """Return the weighted sum of -log softmax(hidden @ head.T)[target] + z_loss * logsumexp**2 in fp32 (fp64 for fp64).

    hidden (..., C), head (V, C), targets and weights (...). A head that is a DTensor is cut by words over processes
    that call this with equal arguments beside it. Gradients for hidden and head are made in the forward pass,
    a chunk at a time: peak memory is chunk_rows * V logits in the model's dtype, or 48 MiB of them if that is less, and
    one fp32 copy of the head.
    """
    group = head.device_mesh.get_group() if isinstance(head, DTensor) else None
    part = head.to_local() if isinstance(head, DTensor) else head
    loss = _ChunkedCrossEntropy.apply(
        hidden.flatten(0, -2), part, targets.flatten(), weights.flatten(), z_loss, chunk_rows, group
    )
    assert isinstance(loss, Tensor)
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        weights: Tensor,
        z_loss: float,
        chunk_rows: int,
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        kept = weights.nonzero().flatten()
        total = torch.zeros((), dtype=wide)
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        if needs_grad and head.device.type == "cpu":
            make_room(head.nbytes)
        grad_hidden = torch.zeros_like(hidden) if needs_grad else None
        grad_head = torch.zeros(head.shape, dtype=wide) if needs_grad else None
        n_rows = min(chunk_rows, max(1, _CHUNK_BYTES // (len(head) * head.element_size())), len(kept))
        buffer = hidden.new_empty(n_rows, len(head))  # for all chunks: a new one might not fit where the last one was
        for rows in kept.split(max(n_rows, 1)):
            h = hidden[rows]
            logits = buffer[: len(h)]
            _into_logits(logits, h, head)
            row_weights = weights[rows].to(wide)
            if group is None:
                total += _into_gradient(logits, targets[rows], row_weights, z_loss)
            else:
                places = targets[rows] - group.rank() * len(head)
                total += _into_gradient_of_part(logits, places, row_weights, z_loss, group)
            if grad_hidden is not None and grad_head is not None:
                grad_hidden[rows] = product(logits, head)
                _add_product(grad_head, logits.T, h)
            del logits
        del buffer
        if grad_hidden is not None and grad_head is not None:
            if group is not None:
                dist.all_reduce(grad_hidden, group=group)
            ctx.gradients = [grad_hidden, grad_head.to(head.dtype)]
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.gradients:
            raise RuntimeError("a second backward pass through the loss, whose gradients are used up; compute it again")
        grad_head, grad_hidden = ctx.gradients.pop(), ctx.gradients.pop()  # held no more, or autograd would copy them
        (upstream,) = gradients
        return grad_hidden.mul_(upstream), grad_head.mul_(upstream), None, None, None, None, None


def _into_logits(logits: Tensor, hidden: Tensor, head: Tensor) -> None:
    """Set logits (R, V) to hidden (R, C) @ head (V, C).T."""
    for part, words in zip(logits.split(_BLOCK_WORDS, 1), head.split(_BLOCK_WORDS), strict=True):
        product(hidden, words.T, part)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left (V, R) @ right (R, C) to the total (V, C), which may have a wider dtype than the product."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
        return
    for part, words in zip(total.split(_BLOCK_WORDS), left.split(_BLOCK_WORDS), strict=True):
        add_product(part, words, right)


def _block_rows(logits: Tensor) -> int:
    """Return how many rows of logits (R, V) to take at a time; on a CPU so few that they stay in its cache."""
    if logits.device.type != "cpu":
        return _BLOCK_ROWS
    return min(_BLOCK_ROWS, max(_LEAST_ROWS, _CACHED_ELEMENTS // logits.shape[1]))


def _into_gradient(logits: Tensor, targets: Tensor, weights: Tensor, z_loss: float) -> Tensor:
    """Turn logits (R, V) into their gradient in place; return the weighted loss sum in the dtype of weights.

    A block of few rows stays in the processor's cache through all the passes over it.
    """
    total = torch.zeros((), dtype=weights.dtype)
    n_rows = _block_rows(logits)
    parts = (x.split(n_rows) for x in (logits, targets[:, None], weights[:, None]))
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
        del gradient
    return total


def _into_gradient_of_part(
    logits: Tensor, places: Tensor, weights: Tensor, z_loss: float, group: dist.ProcessGroup
) -> Tensor:
    """Do as `_into_gradient` for the words (R, V / n) of this process; `places` are targets counted from its first.

    The sums over the vocabulary run over the group; the loss returned is the same on all of it.
    """
    blocks = logits.split(_block_rows(logits))
    top = logits.amax(-1).to(weights.dtype)
    dist.all_reduce(top, dist.ReduceOp.MAX, group=group)
    here = (places >= 0) & (places < logits.shape[1])
    index = places.masked_fill(~here, 0)[:, None]
    chosen = logits.gather(1, index).squeeze(1).to(weights.dtype).sub_(top).masked_fill_(~here, 0)
    parts = [(block.to(weights.dtype) - high[:, None]).exp_().sum(-1) for block, high in _with(blocks, top)]
    sums = torch.stack([torch.cat(parts), chosen])
    dist.all_reduce(sums, group=group)
    log_total, chosen = sums[0].log(), sums[1]
    losses, log_z = log_total - chosen, log_total + top
    scale = weights
    if z_loss:
        losses = losses + z_loss * log_z**2
        scale = weights * (1 + 2 * z_loss * log_z)
    for block, shift, factor, place, weight in _with(blocks, log_z, scale, index, -weights * here):
        gradient = (block.to(weights.dtype) - shift[:, None]).exp_().mul_(factor[:, None])
        block.copy_(gradient.scatter_add_(1, place, weight[:, None]))
    return (losses * weights).sum()


def _with(blocks: tuple[Tensor, ...], *rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Return each block of rows with its part of what there is per row."""
    return zip(blocks, *(x.split(len(blocks[0])) for x in rows), strict=True)
