"""Fingerprints that travel beside what ranks send each other, so that the receiver knows what was sent.

While a watch is active, `claim` makes the message that goes beside a payload and `check` compares it with what came. A
mismatch is only written down: the ranks decide together, later, what follows. All ranks of a group must have their
watches active for the same operations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from codeflow.kernels.fingerprint import fingerprint


@dataclass(frozen=True)
class BadPayload:
    """A payload that is not what its sender fingerprinted. Ranks are those of the whole world."""

    sender: int
    receiver: int
    number: int  # of the message, counted by the receiver since the watch became active


@dataclass
class PayloadWatch:
    """What this process's rings, halo exchanges and all-to-alls found; off until `active` is set."""

    active: bool = False
    n_checked: int = 0
    bad: list[BadPayload] = field(default_factory=list)

    def begin(self, active: bool) -> None:
        """Forget what was found, and watch from now on or not."""
        self.active, self.n_checked, self.bad = active, 0, []

    def claim(self, payload: Tensor) -> Tensor:
        """Return the message, int64 (2,), that tells the receiver what is sent."""
        return fingerprint(payload)

    def check(self, payload: Tensor, claimed: Tensor, sender: int, group: dist.ProcessGroup) -> None:
        """Compare what came from `sender` (a rank of `group`) with what was claimed."""
        if not torch.equal(fingerprint(payload), claimed):
            ranks = (dist.get_global_rank(group, sender), dist.get_global_rank(group, group.rank()))
            self.bad.append(BadPayload(*ranks, self.n_checked))
        self.n_checked += 1


UNWATCHED = PayloadWatch()
