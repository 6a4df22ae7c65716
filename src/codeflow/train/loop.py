"""The training step of every phase: what is minimised, where batches come from and where processes are is passed in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from codeflow.parallel.integrity import Unwatched, Watch
from codeflow.parallel.mesh import World
from codeflow.parallel.place import Placed, total_norm
from codeflow.train.loop_gradients import LoopGradients, LoopReport
from codeflow.train.losses import Objective, TensorBatch
from codeflow.train.optimizer import Optimizer
from codeflow.train.spikes import SpikeGuard


@dataclass(frozen=True)
class Trainee:
    """A model in training on this process."""

    objective: Objective
    placed: Placed
    optimizer: Optimizer
    world: World
    loop_gradients: LoopGradients | None = None  # of a looped model whose loops are watched or bounded
    watch: Watch = field(default_factory=Unwatched)  # for silent errors
    spikes: SpikeGuard | None = None


@dataclass(frozen=True)
class StepReport:
    """What one step did, equal on every process."""

    loss: float  # nats per unit of weight
    weight: float  # loss weight of the whole batch, over all processes
    grad_norm: float  # before clipping
    skipped: str  # "" or why there was no update
    loops: LoopReport | None = None


def train_step(trainee: Trainee, micro_batches: Sequence[TensorBatch], factor: float, clip_norm: float) -> StepReport:
    """Make one update from this process's micro-batches (equally many on every process).

    The gradient is that of the sum of losses over the whole batch divided by its whole weight, however it is cut into
    micro-batches and processes. A loss or a gradient that is not finite or a spike, or a batch without weight, skips
    the update and says so: masters and optimizer state stay as they were. Raises RankFault, before the update, for bits
    that changed in silence.
    """
    optimizer, world, watch = trainee.optimizer, trainee.world, trainee.watch
    (weight,) = world.sum(sum(batch.weight for batch in micro_batches))
    if weight == 0:
        return StepReport(0.0, 0.0, 0.0, "no token of the batch carries loss")

    def run(batch: TensorBatch) -> float:
        loss = trainee.objective(batch, 1.0 / weight)
        loss.backward()
        return loss.item()

    part = 0.0
    for number, batch in enumerate(micro_batches):
        part += watch.compute(number, batch, run)
    (loss,) = world.sum(part)
    loops = None
    if trainee.loop_gradients and trainee.objective.model.loop_tap:
        loops = trainee.loop_gradients.settle(trainee.placed.masters, world)
    watch.before_update()
    norm = total_norm(optimizer.gradients()).item()
    skipped = ""
    if not math.isfinite(loss):
        skipped = f"loss is {loss}"
    elif not math.isfinite(norm):
        skipped = f"gradient norm is {norm}"
    elif trainee.spikes:
        skipped = trainee.spikes.judge(loss, norm)
    if not skipped:
        optimizer.step(factor, min(1.0, clip_norm / norm) if norm > 0 else 1.0)
        trainee.placed.publish()
    watch.after_update()
    optimizer.clear_gradients()
    return StepReport(loss, weight, norm, skipped, loops)


@torch.no_grad()
def held_out_loss(trainee: Trainee, micro_batches: Sequence[TensorBatch]) -> float:
    """Return the mean loss over all processes' micro-batches (equally many on every process), in nats per weight."""
    loss = sum(trainee.objective(batch, 1.0).item() for batch in micro_batches)
    total, weight = trainee.world.sum(loss, sum(batch.weight for batch in micro_batches))
    return total / weight if weight else 0.0
