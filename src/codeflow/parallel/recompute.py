"""A pass made again: the same micro-batch on the same process, and on another, must give the same bits.

What is compared is the loss and each weight's gradient of this process alone, before any reduction, so that a process
that miscomputes does not taint the evidence of those it shares no rows with. Costs one pass of a micro-batch (two on
`both`) at the steps that are due.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from codeflow.kernels.fingerprint import fingerprint
from codeflow.parallel.config import IntegrityConfig
from codeflow.parallel.faults import RECOMPUTATION, Fault
from codeflow.parallel.fingerprints import gathered
from codeflow.parallel.mesh import World
from codeflow.parallel.working import WorkingWeights

BatchT = TypeVar("BatchT")


class Recomputation:
    """Which pass of a step is made again, and what came of it."""

    def __init__(
        self, config: IntegrityConfig, working: WorkingWeights, masters: Mapping[str, nn.Parameter], world: World
    ) -> None:
        self._every = config.recompute_every_steps
        self._both = config.recompute_on == "both" and world.n_readers > 1
        self._working, self._masters, self._world = working, masters, world
        self._names = [*masters, "loss"]
        self._step, self._number = 0, -1
        self._results: list[Tensor] = []  # of the pass, of the pass again, of another reader's pass: int64 (n, 2)
        self.n_compared = 0

    def begin(self, step: int, n_passes: int) -> None:
        """Choose the pass of `step` that is made again, one after the other over the due steps; none of 0 passes."""
        due = n_passes > 0 and self._every is not None and step % self._every == 0
        self._number = step // (self._every or 1) % n_passes if due else -1
        self._step, self._results = step, []

    def chosen(self, number: int) -> bool:
        """Say whether pass `number` of this step is made again."""
        return number == self._number

    def compute(self, batch: BatchT, run: Callable[[BatchT], float]) -> float:
        """Make the pass twice, with another reader's between if asked; return its loss. Gradients are added once."""
        before = {name: master.grad for name, master in self._masters.items()}
        _, first = self._observed(batch, run)
        others = [self._observed(self._from_previous_reader(batch), run)[1]] if self._both else []
        loss, second = self._observed(batch, run)
        for name, master in self._masters.items():
            kept = before[name]
            if kept is not None:
                master.grad = kept if master.grad is None else kept.add_(master.grad)
        self._results = [first, second, *others]
        return loss

    def _observed(self, batch: BatchT, run: Callable[[BatchT], float]) -> tuple[float, Tensor]:
        """Return loss and fingerprints (n, 2) of a pass from which nothing but its own gradients remains."""
        for master in self._masters.values():
            master.grad = None
        self._working.see_gradients()
        loss = run(batch)
        rows = self._working.gradients(self._masters)
        return loss, torch.cat([rows, fingerprint(torch.tensor([loss], dtype=torch.float64))[None]])

    def _from_previous_reader(self, batch: BatchT) -> BatchT:
        """Return the micro-batch, of the same shape, of the process that reads the rows before this one's."""
        stride, n = self._world.n_ranks // self._world.n_readers, self._world.n_ranks
        fields: dict[str, Tensor] = {
            field.name: value
            for field in dataclasses.fields(batch)  # pyright: ignore[reportArgumentType]
            if isinstance(value := getattr(batch, field.name), Tensor)
        }
        came = {name: torch.empty_like(value, memory_format=torch.contiguous_format) for name, value in fields.items()}
        transfers: list[dist.P2POp] = []
        for name, value in fields.items():
            transfers.append(dist.P2POp(dist.isend, value.contiguous(), (self._world.rank + stride) % n))
            transfers.append(dist.P2POp(dist.irecv, came[name], (self._world.rank - stride) % n))
        for work in dist.batch_isend_irecv(transfers):
            work.wait()
        other: Any = dataclasses.replace(batch, **came)  # pyright: ignore[reportArgumentType]
        return other

    def faults(self) -> list[Fault]:
        """Return what the results of all processes show. Every process calls it."""
        if not self._results:
            return []
        everyone = gathered(torch.stack(self._results))  # (ranks, results, n, 2)
        self._results = []
        self.n_compared += 1
        group = self._world.n_ranks // self._world.n_readers  # ranks that share rows taint each other
        unequal = (everyone[:, 0] != everyone[:, 1]).any(-1)  # (ranks, n)
        found: list[Fault] = []
        for reader, rows in enumerate(unequal.split(group)):
            for column in rows.any(0).nonzero().flatten().tolist():
                ranks = tuple(reader * group + i for i in rows[:, column].nonzero().flatten().tolist())
                found.append(Fault(RECOMPUTATION, self._names[column], ranks, self._step, "two passes, two results"))
        if found or everyone.shape[1] < 3:
            return found
        return self._between_readers(everyone[:, 1], everyone[:, 2].roll(-group, 0), group)

    def _between_readers(self, own: Tensor, again: Tensor, group: int) -> list[Fault]:
        """Return the faults where the next reader's result `again` is not a reader's `own` (ranks, n, 2).

        A reader that miscomputes disagrees with both its neighbours, who are in one disagreement each.
        """
        unequal = (own != again).any(-1)
        n = len(own)
        found: list[Fault] = []
        for column in unequal.any(0).nonzero().flatten().tolist():
            ranks = unequal[:, column].nonzero().flatten().tolist()
            counts = Counter(part for rank in ranks for part in (rank, (rank + group) % n))
            most = max(counts.values())
            who = tuple(sorted(rank for rank, count in counts.items() if count == most))
            found.append(Fault(RECOMPUTATION, self._names[column], who, self._step, "another result on another rank"))
        return found
