"""The world of processes and the device mesh over it. One process without torchrun is a world like any other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from codeflow.kernels.zigzag import Zigzag
from codeflow.parallel.config import AXES, MeshConfig


@dataclass(frozen=True)
class World:
    """This process among all, and the mesh they form."""

    rank: int
    n_ranks: int
    mesh: DeviceMesh  # axes `config.AXES`

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes what all share."""
        return self.rank == 0

    @property
    def n_readers(self) -> int:
        """How many groups of processes read rows of their own."""
        return self.mesh["data"].size() * self.mesh["shard"].size()

    @property
    def reader(self) -> int:
        """Which of these groups this process belongs to."""
        return self.rank // (self.n_ranks // self.n_readers)  # the other axes are the inner ones

    def sum_all(self, *values: float) -> list[float]:
        """Return each value summed over all processes, in double precision: hidden states are nowhere the same."""
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def sum_contributions(self, x: Tensor) -> Tensor:
        """Add to x, in place, those of the processes that hold different tokens and the same part of the matrices."""
        for axis in ("data", "shard", "context"):
            if self.mesh[axis].size() > 1:
                dist.all_reduce(x, group=self.mesh[axis].get_group())
        return x

    def own_part(self, x: Tensor) -> Tensor:
        """Return this process's positions of x (B, T, ...), whose rows its group shares.

        Raises UserError when the rows have no equal parts.
        """
        axis = self.mesh["context"]
        return Zigzag(x.shape[1], axis.size(), axis.get_local_rank()).own(x) if axis.size() > 1 else x

    def any(self, here: bool) -> bool:
        """Say whether it is so on any process; all of them get the same answer."""
        return here if self.n_ranks == 1 else self.sum_all(float(here))[0] > 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        dist.barrier()

    def sum(self, *values: float) -> list[float]:
        """Return each value summed over all processes that hold different tokens, in double precision.

        Of the processes that share matrices, which hold the same, the first counts.
        """
        counts = self.mesh["tensor"].get_local_rank() == 0
        return self.sum_all(*(value if counts else 0.0 for value in values))


@contextmanager
def world(config: MeshConfig) -> Iterator[World]:
    """Join the processes that torchrun started, or form a world of one without any network port.

    A process group that the caller has already made is used and left alone. Raises UserError when the mesh sizes do
    not fit the number of processes.
    """
    ours = not dist.is_initialized()
    if ours and "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    elif ours:
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        n_ranks = dist.get_world_size()
        mesh = init_device_mesh("cpu", config.sizes(n_ranks), mesh_dim_names=AXES)
        yield World(dist.get_rank(), n_ranks, mesh)
    finally:
        if ours:
            dist.destroy_process_group()
