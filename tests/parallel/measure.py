"""What one rank really holds and sends in a step of training, to be compared with the plan."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from codeflow.model.looped import LoopCoder
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.mesh import world
from codeflow.parallel.place import place
from codeflow.parallel.plan import PlanConfig
from codeflow.train.config import OptimizerConfig
from codeflow.train.loop import Trainee, train_step
from codeflow.train.losses import NextToken, Objective, TensorBatch
from codeflow.train.optimizer import Optimizer

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Sent(TorchDispatchMode):
    """Counts the bytes that this rank sends in gathers and scatters, as a ring would."""

    def __init__(self, n_ranks: int) -> None:
        super().__init__()
        self.part, self.n_bytes = (n_ranks - 1) / n_ranks, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = str(func)
        if "_allgather_base_" in name:
            self.n_bytes += args[0].nbytes * self.part
        elif "_reduce_scatter_base_" in name:
            self.n_bytes += args[1].nbytes * self.part
        return func(*args, **(kwargs or {}))


def local_bytes(tensors: Any) -> int:
    """Return the bytes of this rank's parts."""
    return sum(getattr(tensor, "_local_tensor", tensor).nbytes for tensor in tensors)


def kept_bytes(model: LoopCoder, ids: Tensor, checkpoint_blocks: bool) -> int:
    """Return the bytes that a forward pass keeps for its backward pass, parameters apart.

    Checkpointing holds the first loop's keys and values beside autograd's own saved tensors.
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def keep(loop: int, layer: int, kv: tuple[Tensor, Tensor]) -> None:
        if loop == 0 and model.config.looped and checkpoint_blocks:
            for tensor in kv:
                pack(tensor)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model(ids, checkpoint_blocks=checkpoint_blocks, keep=keep)
    del hidden
    return sum(kept.values())


def measured(plan: PlanConfig) -> dict[str, float]:
    """Train one step in this process's world and return bytes by the plan's names."""
    model, dtype = LoopCoder(plan.model), DTYPES[plan.precision]
    ids = torch.randint(0, plan.model.vocab_size, (plan.micro_rows, plan.context_tokens))
    positions = torch.arange(plan.context_tokens, dtype=torch.int32).repeat(plan.micro_rows, 1)
    batch = TensorBatch(ids, ids.roll(-1, 1), torch.ones(ids.shape), positions, torch.zeros_like(positions))
    with world(MeshConfig()) as here:
        objective = Objective(model, NextToken(0.0, plan.loss_chunk_rows, plan.checkpoint_blocks))
        placed = place(model, objective, model.layers, here.mesh, dtype)
        optimizer = Optimizer(placed.masters, OptimizerConfig(matrices=plan.matrices), dtype)
        trainee = Trainee(objective, placed, optimizer, here)
        train_step(trainee, [batch], 0.0, 1.0)  # FSDP2 sets itself up in the first step
        with Sent(here.n_ranks) as sent:
            objective(batch, 1.0).backward()
        placed.collect()
        found = {
            "masters (fp32)": local_bytes(placed.masters.values()),
            "optimizer state (fp32)": local_bytes(optimizer.tensors().values()),
            "gradients (fp32)": local_bytes(optimizer.gradients()),
            "sent": sent.n_bytes,
        }
        optimizer.clear_gradients()
        if here.n_ranks == 1:
            found["activations"] = kept_bytes(model, ids, plan.checkpoint_blocks)
    return found
