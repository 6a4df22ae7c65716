"""The guard against spikes: an update whose loss or gradient is far above the recent ones is skipped and recorded.

Losses and gradient norms of the last `window` updates that were made are compared by their medians, so that a spike
does not raise its own bar. The guard's memory lies in the checkpoint: a phase that goes on judges as before.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence

from pydantic import Field

from codeflow.core.config import Config


class SpikeConfig(Config):
    """What is too far. Nothing is judged before `window` updates have been made."""

    window: int = Field(default=32, ge=2)  # updates
    loss_nats: float = Field(default=1.0, gt=0)  # above the median loss
    norm_factor: float = Field(default=10.0, gt=1)  # times the median gradient norm, before clipping


class SpikeGuard:
    """Judges the updates of one phase, on every process alike."""

    def __init__(self, config: SpikeConfig) -> None:
        self._config = config
        self._losses: deque[float] = deque(maxlen=config.window)
        self._norms: deque[float] = deque(maxlen=config.window)

    def judge(self, loss: float, norm: float) -> str:
        """Return why there must be no update, or "" and remember this one. Both numbers are finite."""
        config = self._config
        if len(self._losses) == config.window:
            usual_loss, usual_norm = statistics.median(self._losses), statistics.median(self._norms)
            if loss > usual_loss + config.loss_nats:
                return f"loss {loss:.4f} is a spike: the median of {config.window} updates is {usual_loss:.4f}"
            if norm > config.norm_factor * usual_norm:
                return f"gradient norm {norm:.4g} is a spike: the median of {config.window} updates is {usual_norm:.4g}"
        self._losses.append(loss)
        self._norms.append(norm)
        return ""

    def state(self) -> dict[str, list[float]]:
        """Return what `restore` takes."""
        return {"losses": [*self._losses], "norms": [*self._norms]}

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        """Go on from a state; an empty one is a fresh start."""
        for mine, key in ((self._losses, "losses"), (self._norms, "norms")):
            mine.clear()
            mine.extend(state.get(key, ()))
