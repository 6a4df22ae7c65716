"""Placing a model on the mesh, in one order; afterwards the training step is the same for any number of processes.

1. sharding: with more than one process every block, then the root, becomes an FSDP2 unit. Its fp32 shards are the
   masters; FSDP2 casts them to the working precision when it gathers them and reduces gradients in fp32.
2. precision: a single process has nothing to gather, and FSDP2 would only copy. Its working copy is the model itself in
   the working precision, beside fp32 masters; gradients are summed into the masters' fp32 gradients.

Either way the optimizer sees `masters` with fp32 gradients, `collect` runs after every backward pass and `publish`
after every update. Tensor and context parallelism will come before step 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate


class Placed(Protocol):
    """A model on its mesh."""

    masters: dict[str, nn.Parameter]  # fp32, by the names of the model; gradients appear on them after `collect`

    def collect(self) -> None:
        """Add the gradients of the last backward pass to the masters' gradients."""
        ...

    def publish(self) -> None:
        """Bring the updated masters into the working copy."""
        ...


def place(
    model: nn.Module, root: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, precision: torch.dtype
) -> Placed:
    """Place `model` (fp32 parameters, equal on every process) on the mesh to compute in `precision`.

    `root` is the module that the step calls; it holds `model` and computes the loss, so that the output head is
    gathered with it. Gradients of all processes are summed, not averaged.
    """
    if mesh.size() > 1:
        return _Sharded(model, root, blocks, mesh, precision)
    return _Whole(model) if precision == torch.float32 else _MixedWhole(model, precision)


class _Sharded:
    def __init__(
        self, model: nn.Module, root: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, precision: torch.dtype
    ) -> None:
        policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
        axes = mesh["data", "shard"] if mesh["data"].size() > 1 else mesh["shard"]
        for unit in [*blocks, root]:
            fully_shard(unit, mesh=axes, mp_policy=policy)
        for unit in root.modules():
            if isinstance(unit, FSDPModule):
                unit.set_gradient_divide_factor(1.0)
                unit.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum
        self.masters = dict(model.named_parameters())

    def collect(self) -> None:
        pass  # FSDP2 reduces and adds during the backward pass

    def publish(self) -> None:
        pass  # FSDP2 casts when it gathers


class _Whole:
    def __init__(self, model: nn.Module) -> None:
        self.masters = dict(model.named_parameters())

    def collect(self) -> None:
        pass

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

    def collect(self) -> None:
        for name, parameter in self._working.items():
            if parameter.grad is None:
                continue
            master = self.masters[name]
            if master.grad is None:
                master.grad = parameter.grad.to(torch.float32)
            else:
                master.grad += parameter.grad
            parameter.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        for name, parameter in self._working.items():
            parameter.copy_(self.masters[name])


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
