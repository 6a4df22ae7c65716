"""How a phase is watched beyond its JSON lines (no torch here)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from codeflow.core.config import Config


class WatchConfig(Config):
    """Curves elsewhere, a profile, and what the time costs."""

    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    wandb_project: str = "codeflow"
    wandb_online: bool = False  # False: written to the phase's folder; `wandb sync` sends it later
    profile_from_step: int | None = Field(default=None, ge=1)  # a trace of some steps of the first process; None: none
    profile_steps: int = Field(default=3, ge=1)
    price_per_process_hour: float | None = Field(default=None, gt=0)  # of a device, in any currency

    @model_validator(mode="after")
    def _each_once(self) -> WatchConfig:
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError(f"trackers={list(self.trackers)} names one twice; keep one of them")
        return self
