"""The configuration of GRPO (no torch here)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from codeflow.core.config import Config
from codeflow.parallel.config import IntegrityConfig
from codeflow.solve.config import RolloutConfig
from codeflow.train.config import OptimizerConfig, ScheduleConfig, check_kept_are_made


class GrpoConfig(Config):
    """Synchronous GRPO: sample a group per prompt, judge, update, repeat.

    `reward` is all-or-nothing by default, where the recipe takes the share of hidden tests passed: on functions of a
    few lines a wrong answer passes many tests by chance (an empty list, `return True`), and the share then rewards
    the safest constant more than the idea. `reward="random"` is the control.

    The optimizer is plain momentum: the gradient of a few hundred rollouts is mostly noise, spread over all directions,
    which Muon and AdamW scale up (docs/paths.md has the measurement).
    """

    phase: str = "grpo"
    split: str = "rl"  # of the tasks artifact: files tasks-<split>-*.parquet
    steps: PositiveInt = 45
    prompts_per_step: PositiveInt = 16
    samples_per_prompt: int = Field(default=8, ge=2)
    rollout: RolloutConfig = RolloutConfig()
    reward: Literal["all_tests", "pass_fraction", "random"] = "all_tests"
    divide_by_std: bool = False
    skip_groups_without_signal: bool = True  # their gradient is zero; leaving them out saves their passes
    updates_per_step: PositiveInt = 1  # the step's groups are divided among them, in order
    clip_low: float = Field(default=0.2, gt=0, lt=1)  # the ratio's bounds: 1 - clip_low .. 1 + clip_high (DAPO)
    clip_high: float = Field(default=0.28, gt=0)
    optimizer: OptimizerConfig = OptimizerConfig(matrices="sgd", others="sgd", sgd_learning_rate=1.0, sgd_momentum=0.95)
    schedule: ScheduleConfig = ScheduleConfig()
    precision: Literal["bf16", "fp32"] = "bf16"
    row_tokens: PositiveInt = 512  # rows that rollouts are packed into; a longer rollout has a row of its own length
    micro_rows: PositiveInt = 8  # rows of one backward pass
    loss_chunk_rows: PositiveInt = 512
    max_skips: NonNegativeInt = 10  # updates in a row that may be skipped for a loss that is not finite
    integrity: IntegrityConfig = IntegrityConfig(recompute_every_steps=None)  # samplers' weights, state
    checkpoint_every_steps: PositiveInt = 10
    keep: PositiveInt = 2  # newest checkpoints that stay on disk while training
    keep_every_steps: PositiveInt | None = None  # those of every so many steps stay for good; None: none
    n_threads: PositiveInt | None = None  # None: the cores that this process may use
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _kept_are_made(self) -> GrpoConfig:
        check_kept_are_made(self.keep_every_steps, self.checkpoint_every_steps)
        return self

    @model_validator(mode="after")
    def _updates_have_groups(self) -> GrpoConfig:
        if self.updates_per_step > self.prompts_per_step:
            raise ValueError(
                f"updates_per_step={self.updates_per_step} exceeds prompts_per_step={self.prompts_per_step}: "
                "an update needs a group; lower it"
            )
        return self
