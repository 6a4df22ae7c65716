"""Silent errors: bits that change without anybody being told, found before the update that would spread them.

Around a due step (docs/integrity.md has the table of what finds what):

    update of the step before ──> `hold`: fingerprints of masters, optimizer state and working copy as written
    start of the step         ──> the copy that the forward pass reads is compared with what was written
    first use of every unit   ──> fingerprints of the weights, to be compared over replicas
    passes                    ──> payloads between ranks carry their sender's fingerprint; maybe a pass is made again
    before the update         ──> gradients over replicas, masters and optimizer state as written; one gather of all
                                  evidence, on which every process decides alike

On a fault the first process writes a diagnosis, every process raises `RankFault`, and the update is not made.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

import torch
from torch import Tensor, nn

from codeflow.core.progress import say
from codeflow.kernels.payload import PayloadWatch
from codeflow.parallel.config import IntegrityConfig
from codeflow.parallel.faults import Fault, RankFault, suspects, write_diagnosis
from codeflow.parallel.fingerprints import Box, Replicas, box, gathered, of_part, of_parts
from codeflow.parallel.mesh import World
from codeflow.parallel.recompute import Recomputation
from codeflow.parallel.working import WorkingWeights

BatchT = TypeVar("BatchT")
_HOST_BYTES = 64
_MOST_SAID = 3


class Watch(Protocol):
    """What looks on while a step is made."""

    def compute(self, number: int, batch: BatchT, run: Callable[[BatchT], float]) -> float:
        """Return the loss of `run(batch)`, the pass of micro-batch `number`, which is perhaps made again to compare."""
        ...

    def before_update(self) -> None:
        """Be told that gradients are complete. Raises RankFault."""
        ...

    def after_update(self) -> None:
        """Be told that masters, optimizer state and working copy are written."""
        ...


class Unwatched:
    """Nobody looks."""

    def compute(self, number: int, batch: BatchT, run: Callable[[BatchT], float]) -> float:
        """Return the loss of the pass."""
        return run(batch)

    def before_update(self) -> None:
        """Do nothing."""

    def after_update(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Watched:
    """What is looked at on this process."""

    masters: dict[str, nn.Parameter]
    optimizer: Callable[[], dict[str, Tensor]]  # its state by name
    root: nn.Module  # the module that a step calls, and
    blocks: Iterable[nn.Module]  # those within that are units of their own
    payloads: PayloadWatch = field(default_factory=PayloadWatch)  # of the model's attention back end


class Integrity:
    """The checks of one run on this process. Call `begin` before every step; every process makes the same calls."""

    def __init__(self, config: IntegrityConfig, watched: Watched, world: World, output: Path) -> None:
        """`output` is the folder of diagnoses. Every process calls it, when the model is placed."""
        self._config, self._watched, self._world, self._output = config, watched, world, output
        self._working = WorkingWeights(watched.root, watched.blocks)
        self._copy = {  # kept beside the masters; the gathered weights of FSDP2 are not kept
            name: parameter
            for name, parameter in self._working.parameters().items()
            if parameter is not watched.masters[name]
        }
        self._masters = Replicas({name: box(master) for name, master in watched.masters.items()})
        self._used: Replicas | None = None
        self._held: dict[str, Tensor] = {}
        self._stale: set[str] = set()
        self._step, self._due = 0, False
        self._recomputation = Recomputation(config, self._working, watched.masters, world)
        self.n_checks = 0
        name = socket.gethostname().encode()[:_HOST_BYTES].ljust(_HOST_BYTES, b"\0")
        everyone = gathered(torch.frombuffer(bytearray(name), dtype=torch.uint8))
        self.hosts = [bytes(row.tolist()).rstrip(b"\0").decode(errors="replace") for row in everyone]

    def start(self, after_step: int) -> None:
        """Remember what was read into masters and optimizer state, of which `after_step` steps are done."""
        self._step = after_step
        self.after_update()

    def begin(self, step: int, n_passes: int) -> None:
        """Prepare for `step` of `n_passes` micro-batches that may be made again: is what it reads what was written?"""
        self._step, self._due = step, self._is_due(step)
        self._recomputation.begin(step, n_passes)
        self._watched.payloads.begin(self._due and "payloads" in self._config.checks)
        if not self._due:
            return
        if "parameters" in self._config.checks:
            self._working.see_weights()
        read = "copy." if self._copy else "masters."
        self._verify([name for name in self._held if name.startswith(read)])

    def before_sampling(self) -> None:
        """Compare, at a due step that has begun, the weights that samplers read with those published. Raises RankFault.

        Every process calls it.
        """
        stale = torch.tensor([name in self._stale for name in self._held], dtype=torch.int64)
        if self._due and self._held and (faults := self._judged("state", gathered(stale))):
            self._raise(faults)

    def compute(self, number: int, batch: BatchT, run: Callable[[BatchT], float]) -> float:
        """Return the loss of a pass; at some steps one of them is made again and compared."""
        return self._recomputation.compute(batch, run) if self._recomputation.chosen(number) else run(batch)

    def before_update(self) -> None:
        """Compare everything with everybody. Raises RankFault, on every process alike."""
        faults = self._recomputation.faults()
        if self._due:
            faults += self._compared()
            self.n_checks += 1
        self._watched.payloads.begin(False)
        if faults:
            self._raise(faults)

    def diagnose(self, faults: Sequence[Fault]) -> None:
        """Write the diagnosis of what was found, if anything was. Every process may call it; one writes."""
        if self._world.is_first and faults:
            path = write_diagnosis(self._output, faults, self.hosts)
            for fault in faults[:_MOST_SAID]:
                say(f"  silent error: {fault}")
            say(f"  diagnosis: {path}")

    def _raise(self, faults: Sequence[Fault]) -> NoReturn:
        self.diagnose(faults)
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise RankFault(f"silent error: {faults[0]}{more}; the update was not made", suspects(faults))

    def after_update(self) -> None:
        """Remember what was written, if the next step looks at it."""
        self._held, self._stale = {}, set()
        if "state" in self._config.checks and self._is_due(self._step + 1):
            state = self._state()
            self._held = dict(zip(state, of_parts(state.values()), strict=True))

    def _is_due(self, step: int) -> bool:
        every = self._config.every_steps
        return every is not None and step % every == 0

    def _state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {f"copy.{name}": x.detach() for name, x in self._copy.items()}
        state |= {f"masters.{name}": x.detach() for name, x in self._watched.masters.items()}
        return state | {f"optimizer.{name}": x for name, x in self._watched.optimizer().items()}

    def _verify(self, names: list[str]) -> None:
        state = self._state()
        for name, now in zip(names, of_parts(state[name] for name in names), strict=True):
            if not torch.equal(now, self._held[name]):
                self._stale.add(name)

    def _compared(self) -> list[Fault]:
        """Return the faults that all processes' evidence shows; one gather."""
        parts: dict[str, Tensor] = {}
        if "parameters" in self._config.checks:
            parts["parameters"] = self._working.weights(self._watched.masters)
        if "gradients" in self._config.checks:
            parts["gradients"] = self._gradients()
        if self._held:
            self._verify([name for name in self._held if not name.startswith("copy.")])
            parts["state"] = torch.tensor([name in self._stale for name in self._held], dtype=torch.int64)
        if "payloads" in self._config.checks:
            bad = self._watched.payloads.bad
            first = [bad[0].sender, bad[0].receiver, bad[0].number] if bad else [0, 0, 0]
            parts["payloads"] = torch.tensor([len(bad), *first], dtype=torch.int64)
        if not parts:
            return []
        everyone = gathered(torch.cat([part.flatten() for part in parts.values()]))
        pieces = everyone.split([part.numel() for part in parts.values()], 1)
        found: list[Fault] = []
        for (place, part), rows in zip(parts.items(), pieces, strict=True):
            found += self._judged(place, rows.reshape(-1, *part.shape))
        return found

    def _gradients(self) -> Tensor:
        nothing = torch.zeros(2, dtype=torch.int64)
        grads = (master.grad for master in self._watched.masters.values())
        return torch.stack([nothing if grad is None else of_part(grad).cpu() for grad in grads])

    def _judged(self, place: str, rows: Tensor) -> list[Fault]:
        """Return the faults that all processes' `rows` (ranks, ...) of one check show."""
        step = self._step
        if place == "state":
            names, how = list(self._held), "not as the update before left it"
            return [Fault(place, names[i], (rank,), step, how) for rank, i in rows.nonzero().tolist()]
        if place == "payloads":
            bad = [row for row in rows.tolist() if row[0]]
            return [
                Fault(place, f"message {number}", (receiver,), step, f"not as rank {sender} sent it; {n} messages bad")
                for n, sender, receiver, number in bad
            ]
        found = (self._masters if place == "gradients" else self._replicas()).disagreements(rows)
        return [Fault(place, name, ranks, step, f"{n} copies differ") for name, ranks, n in found]

    def _replicas(self) -> Replicas:
        """Return who holds the same weights in the forward pass: whole ones, or parts of the tensor axis."""
        if self._used is None:
            empty = Box((), ())
            self._used = Replicas({name: self._working.boxes.get(name, empty) for name in self._watched.masters})
        return self._used
