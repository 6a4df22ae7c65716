"""One training step of one rank of any number, on tensors without data: what it holds and what it sends.

The model is built, placed and stepped by the code that trains; only the numbers are missing (`parallel.traced`), and
by default the products inside attention tiles, which hold nothing that outlives a tile. Attention is that of tiles: the
ring, over a group of one rank too, or an all-to-all around spans of whole rows. Both keep what a fused kernel keeps.

Not seen: what the framework takes for itself, memory inside an operation, the allocator's fragmentation, time.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from codeflow.kernels.documents import Documents
from codeflow.kernels.reference import mix
from codeflow.kernels.spans import Sight, span_attention, without_products
from codeflow.model.looped import LoopCoder
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.context import HeadAttention, KeyValue, RingAttention
from codeflow.parallel.mesh import World, world
from codeflow.parallel.place import place
from codeflow.parallel.plan import PlanConfig
from codeflow.parallel.traced import Dataless, LiveBytes, Sent, local_bytes, one_of
from codeflow.train.config import OptimizerConfig
from codeflow.train.loop import Trainee, train_step
from codeflow.train.losses import NextToken, Objective, TensorBatch
from codeflow.train.optimizer import Optimizer

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class StepTrace:
    """Bytes of one rank in its first step. Peaks are those of the whole process, state included."""

    masters: int
    optimizer: int
    at_rest: int  # before the step: masters, optimizer state, rotary tables, the batch
    pass_peak: int
    update_peak: int
    sent: dict[str, int]  # by the planner's axes, and "all"
    n_calls: dict[str, int]  # communication by operation
    seconds: float  # that the trace took

    @property
    def peak(self) -> int:
        """The most bytes at one time."""
        return max(self.pass_peak, self.update_peak)


def mesh_of(plan: PlanConfig) -> MeshConfig:
    """Return the mesh of a plan."""
    sizes = plan.layout
    return MeshConfig(
        data=sizes.data,
        shard=sizes.fsdp,
        context=sizes.cp,
        tensor=sizes.tp,
        context_exchange=plan.context_exchange,
    )


def simulate(plan: PlanConfig, rank: int = 0, products: bool = False) -> StepTrace:
    """Return what `rank` of `plan.gpus` does in one step. `products`: with those inside attention tiles, slowly.

    Raises UserError for a model that the mesh cannot hold.
    """
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(one_of(plan.gpus, rank))
        if not products:
            stack.enter_context(without_products())
        return traced_step(plan, Dataless())


def traced_step(plan: PlanConfig, dataless: Dataless | None = None) -> StepTrace:
    """Trace one step of this rank of the world that exists; with data where `dataless` is None."""
    started = time.perf_counter()
    with world(mesh_of(plan)) as here, ExitStack() as stack:
        batches = [_ones(plan).part(here.own_part) for _ in range(plan.n_passes)]
        if dataless:
            here = _Alone(here.rank, here.n_ranks, here.mesh)
            stack.enter_context(dataless)
        live = stack.enter_context(LiveBytes())
        trainee = _trainee(plan, here, live)
        at_rest = live.now
        live.lap()
        with Sent() as sent:
            train_step(trainee, batches, 1.0, 1.0)
        optimizer = trainee.optimizer
        assert isinstance(optimizer, _Watched)
        return StepTrace(
            masters=local_bytes(list(trainee.placed.masters.values())),
            optimizer=local_bytes(list(optimizer.tensors().values())),
            at_rest=at_rest,
            pass_peak=optimizer.pass_peak,
            update_peak=live.lap(),
            sent=sent.by_axis(here.mesh),
            n_calls=dict(sent.n_calls),
            seconds=time.perf_counter() - started,
        )


class _Alone(World):
    """A world whose sums over ranks that do not exist are never 0: a batch without weight would not be learnt from."""

    def sum(self, *values: float) -> list[float]:
        """See World."""
        return [value or 1.0 for value in super().sum(*values)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves what torch says about tensors that it does not know, and about orders of reductions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


class _Tiles:
    """The attention of a single process as a span that is met at once; see `kernels.dispatch`."""

    def shared_kv(self, k: Tensor, v: Tensor) -> KeyValue:
        return k, v

    def causal_attention(self, q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
        return span_attention(q, k, v, Sight.of(0, q.shape[1], documents, None, False, q), 0)

    def gated_attention(
        self,
        q: Tensor,
        global_kv: KeyValue,
        local_kv: KeyValue,
        gate_logits: Tensor,
        documents: Documents | None,
        window: int,
        strict: bool = False,
    ) -> Tensor:
        near = span_attention(q, *local_kv, Sight.of(0, q.shape[1], documents, window, strict, q), 0)
        return mix(self.causal_attention(q, *global_kv, documents), near, gate_logits)


class _Watched(Optimizer):
    """Takes a lap of the memory where the passes end and the update begins."""

    live: LiveBytes
    pass_peak = 0

    def step(self, factor: float, gradient_factor: float) -> None:
        """See Optimizer."""
        self.pass_peak = self.live.lap()
        super().step(factor, gradient_factor)


def _trainee(plan: PlanConfig, here: World, live: LiveBytes) -> Trainee:
    dtype = DTYPES[plan.precision]
    model = LoopCoder(plan.model)
    objective = Objective(model, NextToken(0.0, plan.loss_chunk_rows, plan.checkpointing))
    placed = place(model, objective, model.layers, here.mesh, dtype, mesh_of(plan))
    group = here.mesh["context"].get_group()
    model.attention_backend = HeadAttention(group, _Tiles()) if plan.exchanges_heads else RingAttention(group)
    optimizer = _Watched(placed.masters, OptimizerConfig(matrices=plan.matrices), dtype)
    optimizer.live = live
    return Trainee(objective, placed, optimizer, here)


def _ones(plan: PlanConfig) -> TensorBatch:
    """Return rows of one document of one token, all with loss."""
    ids = torch.ones((plan.micro_rows, plan.context_tokens), dtype=torch.int64)
    positions = torch.arange(plan.context_tokens, dtype=torch.int32).repeat(plan.micro_rows, 1)
    return TensorBatch(ids, ids, torch.ones(ids.shape), positions, torch.zeros_like(positions))
