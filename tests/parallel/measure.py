"""What one rank really holds and sends in a step of training, to be compared with the plan."""

from __future__ import annotations

import torch
from torch import Tensor

from codeflow.model.config import Checkpointing
from codeflow.model.looped import LoopCoder
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.mesh import world
from codeflow.parallel.place import place
from codeflow.parallel.plan import PlanConfig
from codeflow.parallel.traced import LiveBytes, Sent, local_bytes
from codeflow.train.config import OptimizerConfig
from codeflow.train.loop import Trainee, train_step
from codeflow.train.losses import NextToken, Objective, TensorBatch
from codeflow.train.optimizer import Optimizer

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def ones(n_rows: int, length: int) -> TensorBatch:
    """Rows of one token, all with loss."""
    ids = torch.ones((n_rows, length), dtype=torch.int64)
    positions = torch.arange(length, dtype=torch.int32).repeat(n_rows, 1)
    return TensorBatch(ids, ids, torch.ones(ids.shape), positions, torch.zeros_like(positions))


def sent_by_axis(plan: PlanConfig, config: MeshConfig) -> dict[str, float]:
    """Return the bytes that this rank sends in one pass, by the plan's axes, in a world of any ranks."""
    with world(config) as here:
        model = LoopCoder(plan.model)
        objective = Objective(model, NextToken(0.0, plan.loss_chunk_rows, plan.checkpointing))
        place(model, objective, model.layers, here.mesh, DTYPES[plan.precision], config)
        with Sent() as sent:
            objective(ones(plan.micro_rows, plan.context_tokens).part(here.own_part), 1.0).backward()
        return dict(sent.by_axis(here.mesh))


def kept_bytes(model: LoopCoder, ids: Tensor, checkpointing: Checkpointing) -> int:
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
        if loop == 0 and model.config.looped and checkpointing == "full":
            for tensor in kv:
                pack(tensor)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model(ids, checkpointing=checkpointing, keep=keep)
    del hidden
    return sum(kept.values())


def live_bytes(model: LoopCoder, ids: Tensor, checkpointing: Checkpointing) -> int:
    """Return the bytes of the tensors that live on after a forward pass, parameters apart."""
    model(ids)  # what is made once and stays
    with LiveBytes() as live:
        views = [parameter.detach() for parameter in model.parameters()]  # operations make views of them, too
        before = live.now
        hidden = model(ids, checkpointing=checkpointing)
        assert hidden.requires_grad
        assert views
        return live.now - before


def measured(plan: PlanConfig) -> dict[str, float]:
    """Train one step in this process's world and return bytes by the plan's names."""
    model, dtype = LoopCoder(plan.model), DTYPES[plan.precision]
    ids = torch.randint(0, plan.model.vocab_size, (plan.micro_rows, plan.context_tokens))
    positions = torch.arange(plan.context_tokens, dtype=torch.int32).repeat(plan.micro_rows, 1)
    batch = TensorBatch(ids, ids.roll(-1, 1), torch.ones(ids.shape), positions, torch.zeros_like(positions))
    with world(MeshConfig()) as here:
        objective = Objective(model, NextToken(0.0, plan.loss_chunk_rows, plan.checkpointing))
        placed = place(model, objective, model.layers, here.mesh, dtype)
        optimizer = Optimizer(placed.masters, OptimizerConfig(matrices=plan.matrices), dtype)
        trainee = Trainee(objective, placed, optimizer, here)
        train_step(trainee, [batch], 0.0, 1.0)  # FSDP2 sets itself up in the first step
        with Sent() as sent:
            objective(batch, 1.0).backward()
        found = {
            "masters (fp32)": local_bytes(list(placed.masters.values())),
            "optimizer state (fp32)": local_bytes(list(optimizer.tensors().values())),
            "gradients (fp32)": local_bytes(optimizer.gradients()),
            "sent": sum(sent.n_bytes.values()),
        }
        optimizer.clear_gradients()
        if here.n_ranks == 1:
            measure = live_bytes if plan.checkpointing == "selective" else kept_bytes  # it has hooks of its own
            found["activations"] = measure(model, ids, plan.checkpointing)
    return found
