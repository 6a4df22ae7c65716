"""Silent errors that were found: who is suspected, the diagnosis on disk, and the error that ends the step."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from codeflow.core.errors import InfrastructureError
from codeflow.core.storage import write_text
from codeflow.kernels.fingerprint import Pair

PAYLOADS, RECOMPUTATION = "payloads", "recomputation"
_MOST_TOLD = 100  # faults in a diagnosis; more say nothing new


@dataclass(frozen=True)
class Fault:
    """A tensor whose bits are not what they must be."""

    place: str  # a check of `IntegrityConfig`, "recomputation" or "checkpoint"
    tensor: str
    ranks: tuple[int, ...]  # suspects; one where the evidence points at one
    step: int
    how: str  # the evidence, in words

    def __str__(self) -> str:
        who = f"rank {self.ranks[0]}" if len(self.ranks) == 1 else f"one of ranks {', '.join(map(str, self.ranks))}"
        return f"{self.place}: '{self.tensor}' of {who} at step {self.step} ({self.how})"


class RankFault(InfrastructureError):
    """Bits changed in silence. `ranks` are the suspects, `faults` what no diagnosis has been written of yet."""

    def __init__(self, message: str, ranks: Sequence[int] = (), faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.ranks, self.faults = tuple(ranks), tuple(faults)


def dissenters(found: Mapping[int, Pair]) -> tuple[int, ...]:
    """Return the ranks whose fingerprint is not the majority's: none where all agree, all where no majority exists."""
    votes = Counter(found.values())
    if len(votes) <= 1:
        return ()
    pair, n = votes.most_common(1)[0]
    if 2 * n <= len(found):
        return tuple(sorted(found))
    return tuple(sorted(rank for rank, other in found.items() if other != pair))


def suspects(faults: Sequence[Fault]) -> tuple[int, ...]:
    """Return the ranks that single out of all faults: those named alone, if any are, else all that are named.

    A payload that changed on its way explains a pass with two results, which is then no evidence against anybody.
    """
    if any(fault.place == PAYLOADS for fault in faults):
        faults = [fault for fault in faults if fault.place != RECOMPUTATION]
    alone = {fault.ranks[0] for fault in faults if len(fault.ranks) == 1}
    return tuple(sorted(alone or {rank for fault in faults for rank in fault.ranks}))


def write_diagnosis(folder: Path, faults: Sequence[Fault], hosts: Sequence[str]) -> Path:
    """Write `diagnosis-<step>.json`: every fault, the suspects and their hosts. Returns the file."""
    step = faults[0].step
    path = folder / f"diagnosis-{step:08d}.json"
    tree = {
        "step": step,
        "suspects": [{"rank": rank, "host": hosts[rank]} for rank in suspects(faults)],
        "n_ranks": len(hosts),
        "n_faults": len(faults),
        "faults": [asdict(fault) for fault in faults[:_MOST_TOLD]],
        "unix_seconds": round(time.time()),
    }
    write_text(path, json.dumps(tree, indent=2))
    return path


def diagnoses(folder: Path) -> list[Path]:
    """Return the diagnoses in a folder, by step."""
    return sorted(folder.glob("diagnosis-*.json"))
