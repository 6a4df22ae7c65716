"""How answers are sampled and judged (no torch here)."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from codeflow.core.config import Config


class RolloutConfig(Config):
    """One turn: the task's message in, the model's turn out, judged by running it."""

    max_new_tokens: PositiveInt = 128
    temperature: float = Field(default=1.0, gt=0)  # 1 samples what is trained; other values bias the policy gradient
    top_p: float = Field(default=1.0, gt=0, le=1)
    thinking: bool = False  # the prompt opens a thinking block
    generate_batch: PositiveInt = 128
    sandboxes: PositiveInt = 2  # at once
    wall_seconds: float = Field(default=5.0, gt=0)  # of each candidate
    cpu_seconds: float = Field(default=1.0, gt=0)
