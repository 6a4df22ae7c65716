"""The curves of a phase in TensorBoard and in Weights & Biases, beside the JSON lines that are always written.

    .tensorboard/   event files in the phase's folder: tensorboard --logdir runs/r
    .wandb/         Weights & Biases' own folder; offline unless asked otherwise (`wandb sync` sends it later)

Both are optional extras and imported only where a phase asks for them. A phase that goes on after a kill goes on in the
same curves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from codeflow.core.errors import UserError
from codeflow.train.watch_config import WatchConfig


class Tracker(Protocol):
    """A place that numbers by step are sent to."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers of one step."""
        ...

    def close(self) -> None:
        """Return when all is written."""
        ...


class _TensorBoard:
    def __init__(self, config: WatchConfig, output: Path, phase: str, resume_after_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard", error) from None
        purge = resume_after_step + 1 if resume_after_step >= 0 else None
        self._writer = SummaryWriter(str(output / ".tensorboard"), purge_step=purge)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, config: WatchConfig, output: Path, phase: str, resume_after_step: int) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise _missing("wandb", error) from None
        (output / ".wandb").mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=config.wandb_project,
            name=f"{output.parent.name}/{output.name}",
            id=hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:16],
            resume="allow",
            mode="online" if config.wandb_online else "offline",
            dir=str(output / ".wandb"),
            config={"phase": phase},
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


_TRACKERS: Mapping[str, Callable[[WatchConfig, Path, str, int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
}


def _missing(extra: str, error: ImportError) -> UserError:
    return UserError(
        f"watch.trackers names '{extra}', which is not installed ({error}); "
        f"pip install 'codeflow[{extra}]', or leave it out"
    )


def open_trackers(config: WatchConfig, output: Path, phase: str, resume_after_step: int) -> list[Tracker]:
    """Open what the configuration names. Raises UserError when its package is not installed."""
    return [_TRACKERS[name](config, output, phase, resume_after_step) for name in config.trackers]


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the finite numbers among nested values, by names joined with a slash."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and value - value == 0:
            found[f"{prefix}{name}"] = float(value)
    return found


def write_all(trackers: Sequence[Tracker], step: int, *values: Mapping[str, Any]) -> None:
    """Send a step's numbers everywhere."""
    for tracker in trackers:
        tracker.write(step, {name: number for part in values for name, number in numbers(part).items()})
