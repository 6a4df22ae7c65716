"""Checkpoints saved in the background: training waits for one copy in memory, and a thread does the rest.

The copy's buffers are made once and used again. The thread talks to the other processes over a group of its own. One
save is at work at a time: the next one waits for it, and raises what it met.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from codeflow.parallel import checkpoint
from codeflow.parallel.fingerprints import local, of_parts
from codeflow.parallel.mesh import World


class Saver:
    """Saves checkpoints of one run on this process. Every process makes the same calls."""

    def __init__(self, world: World) -> None:
        self._world = world
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup)
        self._group = group
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._at_work: Future[None] | None = None
        self._copies: dict[str, Tensor] = {}
        self.stall_seconds: list[float] = []  # that each save took from training

    def save(
        self,
        folder: Path,
        step: int,
        tensors: Mapping[str, Tensor],
        about: Mapping[str, Any],
        afterwards: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin to save as `checkpoint.save` does, then call `afterwards`; both in the background.

        Raises what the save before this one raised.
        """
        started = time.perf_counter()
        self.wait()
        pairs = of_parts(tensors.values())
        copies = {name: self._copy(name, tensor) for name, tensor in tensors.items()}
        self._at_work = self._thread.submit(self._save, folder, step, copies, dict(about), pairs, afterwards)
        self.stall_seconds.append(time.perf_counter() - started)

    def _save(
        self,
        folder: Path,
        step: int,
        copies: Mapping[str, Tensor],
        about: Mapping[str, Any],
        pairs: Tensor,
        afterwards: Callable[[], None],
    ) -> None:
        checkpoint.save(folder, step, copies, about, self._world, pairs, self._group)
        afterwards()

    @torch.no_grad()
    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        """Return `tensor` in memory of ours, in the same layout."""
        part = local(tensor)
        if name not in self._copies:
            self._copies[name] = torch.empty_like(part, device="cpu", memory_format=torch.contiguous_format)
        copy = self._copies[name].copy_(part)
        if not isinstance(tensor, DTensor):
            return copy
        mesh, placements = tensor.device_mesh, tensor.placements
        return DTensor.from_local(copy, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride())

    def wait(self) -> None:
        """Return when the save at work is on disk. Raises what it met."""
        at_work, self._at_work = self._at_work, None
        if at_work is not None:
            at_work.result()

    def close(self) -> None:
        """Let the save at work end, whatever becomes of it, and begin no other."""
        self._thread.shutdown(wait=True)
