"""Placing a model on the mesh, in one order; afterwards the training step is the same for any number of processes.

1. tensor: where processes share matrices, each keeps its part and computes with it (`parallel.tensor`).
2. context: where processes share rows, attention becomes a ring or an all-to-all over them (`parallel.context`).
3. compilation: where it is asked for, blocks compute with compiled code (`model.compilation`); what gathers weights
   and reduces gradients stays outside of it.
4. sharding: with more than one process every block, then the root, becomes an FSDP2 unit over the axes "shard" and
   "context" (and "data", which holds copies). Its fp32 shards are the masters; FSDP2 casts them to the working
   precision when it gathers them and reduces gradients in fp32.
5. precision: a single process has nothing to gather, and FSDP2 would only copy. Its working copy is the model itself in
   the working precision, beside fp32 masters; each gradient is added to its master's fp32 gradient, and freed, as soon
   as the backward pass has made it; large ones at its end where memory is spared.

Either way the optimizer sees `masters` with fp32 gradients, and `publish` runs after every update. Tests that want more
digits place an fp64 model in fp64: then masters and gradients are fp64.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate

from codeflow.core.freed_memory import make_room, spares
from codeflow.model.compilation import compile_blocks
from codeflow.model.config import Compilation
from codeflow.model.looped import LoopCoder
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.context import share_rows
from codeflow.parallel.tensor import split_matrices


class Placed(Protocol):
    """A model on its mesh."""

    masters: dict[str, nn.Parameter]  # fp32, by the names of the model; every backward pass adds to their gradients

    def publish(self) -> None:
        """Bring the updated masters into the working copy."""
        ...


def place(
    model: LoopCoder,
    root: nn.Module,
    blocks: Iterable[nn.Module],
    mesh: DeviceMesh,
    precision: torch.dtype,
    config: MeshConfig | None = None,
    compilation: Compilation = "none",
) -> Placed:
    """Place `model` (fp32 parameters, equal on every process) on the mesh of `mesh.world` to compute in `precision`.

    `root` is the module that the step calls; it holds `model` and computes the loss, so that the output head is
    gathered with it. Gradients of all processes are summed, not averaged. Of `config` the choices beside the sizes
    count. Raises UserError for a model that cannot be placed or compiled so.
    """
    config = config or MeshConfig()
    if mesh["tensor"].size() > 1:
        split_matrices(model, mesh["tensor"])
    if mesh["context"].size() > 1:
        share_rows(model, mesh, config)
    if compilation == "blocks":
        assert mesh["tensor"].size() == 1, "what stands between processes that share matrices would be left out"
        compile_blocks(model)
    if mesh.size() > 1:
        return _Sharded(model, blocks, root, mesh, precision, config.regather)
    model.embed_tokens.register_forward_hook(_room_for_gradient)
    whole_precision = precision == model.norm.weight.dtype
    return _Whole(model) if whole_precision else _MixedWhole(model, precision)


def _room_for_gradient(embedding: nn.Module, _: Any, hidden: Tensor) -> None:
    """Make room in the backward pass before the embedding's gradient: the last one, when all activations are gone."""
    if hidden.requires_grad and hidden.device.type == "cpu":
        n_bytes = sum(parameter.nbytes for parameter in embedding.parameters())
        hidden.register_hook(lambda _: make_room(n_bytes))


class _Sharded:
    def __init__(
        self,
        model: nn.Module,
        blocks: Iterable[nn.Module],
        root: nn.Module,
        mesh: DeviceMesh,
        precision: torch.dtype,
        regather: bool,
    ) -> None:
        wide = torch.promote_types(precision, torch.float32)
        policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=wide, cast_forward_inputs=False)
        axes = _sharding_axes(mesh)
        self._kept: list[FSDPModule] = []  # gathered from their first use in a step to the update
        for module in [*blocks, root]:
            again = regather and module is not root  # the root's backward comes right after its forward
            unit = fully_shard(module, mesh=axes, mp_policy=policy, reshard_after_forward=again)
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum
            if not regather:
                unit.set_reshard_after_backward(False, recurse=False)
                self._kept.append(unit)
        self.masters = dict(model.named_parameters())

    def publish(self) -> None:
        for unit in self._kept:  # else FSDP2 gathers, and casts, before each use
            unit.reshard()


def _sharding_axes(mesh: DeviceMesh) -> DeviceMesh:
    """Return the axis that parameters are cut along, behind "data" if there are copies."""
    if mesh["context"].size() == 1:
        return mesh["data", "shard"] if mesh["data"].size() > 1 else mesh["shard"]
    both = mesh["shard", "context"]._flatten("parts")
    return mesh["data", "parts"] if mesh["data"].size() > 1 else both


class _Whole:
    def __init__(self, model: nn.Module) -> None:
        self.masters = dict(model.named_parameters())

    def publish(self) -> None:
        pass


class _MixedWhole:
    def __init__(self, model: nn.Module, precision: torch.dtype) -> None:
        self._working = dict(model.named_parameters())
        self.masters = {
            name: nn.Parameter(parameter.detach().to(torch.float32, copy=True))
            for name, parameter in self._working.items()
        }
        for parameter in self._working.values():  # parameters only: rotary tables and the like stay in fp32
            parameter.data = parameter.data.to(precision)
        self.publish()
        for name, parameter in self._working.items():
            parameter.register_post_accumulate_grad_hook(partial(_gradient_made, self.masters[name]))

    @torch.no_grad()
    def publish(self) -> None:
        for name, parameter in self._working.items():
            parameter.copy_(self.masters[name])


def _gradient_made(master: nn.Parameter, working: Tensor) -> None:
    """Hand over at once; where memory is spared a large gradient, which grows by it, when the activations are gone."""
    if working.device.type == "cpu" and spares(master.nbytes):
        torch.autograd.Variable._execution_engine.queue_callback(partial(_hand_over, master, working))
    else:
        _hand_over(master, working)


def _hand_over(master: nn.Parameter, working: Tensor) -> None:
    """Add the gradient of a working parameter to its master's, and free it."""
    assert working.grad is not None
    if master.grad is None:
        if master.device.type == "cpu":
            make_room(master.nbytes)
        master.grad = working.grad.to(master.dtype)
    else:
        master.grad += working.grad
    working.grad = None


def whole(tensor: Tensor) -> Tensor:
    """Return the full tensor on every process (a gather where it is sharded, nothing otherwise)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def laid_out_like(full: Tensor, example: Tensor) -> Tensor:
    """Return `full` (equal on every process) in the layout of `example`; no communication."""
    if not isinstance(example, DTensor):
        return full
    mesh = example.device_mesh
    replicated = DTensor.from_local(full, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(mesh, example.placements)


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the L2 norm over all elements of all tensors, on every process: a scalar, fp32."""
    return whole(nn.utils.get_total_norm(list(tensors)))
