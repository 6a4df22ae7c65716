"""The configuration of a training phase (no torch here)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.model.config import Checkpointing, Compilation, ModelConfig
from codeflow.parallel.config import IntegrityConfig, MeshConfig
from codeflow.tokens.mixture import Blend, WeightChange, flatten
from codeflow.train.curriculum import CurriculumConfig
from codeflow.train.mixture import DynamicMixtureConfig
from codeflow.train.spikes import SpikeConfig
from codeflow.train.watch_config import WatchConfig


class ScheduleConfig(Config):
    """Factors on the learning rates over one phase: warm-up, a stable part, a decay, and a tail at a low rate.

    A warm-up-stable-decay schedule may span phases: the first warms up and holds, the last decays. A cosine with an
    extended low-rate phase, as the recipe's fine-tuning has, is shape "cosine" with a `tail_fraction`.
    """

    warmup_fraction: float = Field(default=0.0, ge=0, le=1)  # of the phase's steps: from 0 to `start_factor`
    start_factor: float = Field(default=1.0, ge=0)
    end_factor: float = Field(default=1.0, ge=0)
    decay_fraction: float = Field(default=0.0, ge=0, le=1)  # of the phase's steps: `start_factor` to `end_factor`
    tail_fraction: float = Field(default=0.0, ge=0, le=1)  # of the phase's steps, the last ones: at `end_factor`
    shape: Literal["linear", "cosine", "square_root"] = "linear"

    @model_validator(mode="after")
    def _fits(self) -> ScheduleConfig:
        if self.warmup_fraction + self.decay_fraction + self.tail_fraction > 1 + 1e-9:
            raise ValueError(
                f"warmup_fraction={self.warmup_fraction} + decay_fraction={self.decay_fraction} + "
                f"tail_fraction={self.tail_fraction} exceed 1; lower one"
            )
        return self


class OptimizerConfig(Config):
    """Muon for the matrices inside the layers, AdamW for embeddings, output head, norms and gates; or others.

    AdamW for matrices is cheaper where a step has few tokens for the model's size. `sgd` (momentum, no scaling) is for
    gradients that are mostly noise, as a policy gradient of few rollouts is: the others scale the noise up.
    """

    matrices: Literal["muon", "adamw", "sgd"] = "muon"
    others: Literal["adamw", "sgd"] = "adamw"
    muon_learning_rate: float = Field(default=0.02, ge=0)
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    muon_iterations: int = Field(default=5, ge=1)
    muon_weight_decay: float = Field(default=0.0, ge=0)
    adamw_learning_rate: float = Field(default=3e-3, ge=0)
    adamw_beta1: float = Field(default=0.9, ge=0, lt=1)
    adamw_beta2: float = Field(default=0.95, ge=0, lt=1)
    adamw_epsilon: float = Field(default=1e-8, gt=0)
    adamw_weight_decay: float = Field(default=0.0, ge=0)  # norms and gates never decay
    sgd_learning_rate: float = Field(default=0.3, ge=0)
    sgd_momentum: float = Field(default=0.9, ge=0, lt=1)  # of a running mean, so it does not change the step's size
    clip_norm: float = Field(default=1.0, gt=0)  # the gradient's norm is cut to this


def check_kept_are_made(keep_every_steps: int | None, checkpoint_every_steps: int) -> None:
    """Raise ValueError when steps whose checkpoints are to be kept have none."""
    if keep_every_steps and keep_every_steps % checkpoint_every_steps:
        raise ValueError(
            f"keep_every_steps={keep_every_steps} is no multiple of checkpoint_every_steps={checkpoint_every_steps}, "
            "so there would be nothing to keep; make it one"
        )


class TrainConfig(Config):
    """One phase of training. `model` is given for the first phase; later ones take the shape of their parent."""

    phase: str = "general"
    model: ModelConfig | None = None  # None: a parent is given
    steps: int = Field(default=100, ge=1)
    batch_rows: int = Field(default=8, ge=1)  # rows of one update, over all processes
    micro_rows: int | None = Field(default=None, ge=1)  # rows of one backward pass per process; None: all at once
    mixture: dict[str, float | Blend] = Field(default_factory=lambda: {"general": 1.0})  # set or group -> weight
    changes: tuple[WeightChange, ...] = ()  # other mixtures, each from the batch after `step` steps on
    curriculum: CurriculumConfig | None = None  # a set of the mixture from easy to hard
    dynamic_mixture: DynamicMixtureConfig | None = None  # weights follow the held-out losses
    optional_sets: tuple[str, ...] = ()  # of the mixture: when empty they are left out, and the manifest says so
    once: tuple[str, ...] = ()  # sets of which no row may be read twice, in earlier phases neither
    go_on: bool = True  # sets go on behind the rows that the parent has read; False: from their first rows
    schedule: ScheduleConfig = ScheduleConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    inherit_optimizer: bool = True  # go on with the parent's momenta
    precision: Literal["bf16", "fp32"] = "bf16"  # of the working copy; masters and optimizer state are fp32
    z_loss: float = Field(default=0.0, ge=0)  # weight of logsumexp(logits)**2
    loss_chunk_rows: int = Field(default=512, ge=1)  # tokens whose logits exist at one time, if 48 MiB hold them
    second_pass_ramp_steps: int = Field(default=0, ge=0)  # a fresh fold: later loops' branches grow from 0 to 1
    loop_norms_every_steps: int | None = Field(default=None, ge=1)  # what each loop adds to the gradient; None: never
    loop_clip_norm: float | None = Field(default=None, gt=0)  # each loop's contribution is cut to this, at every step
    checkpointing: Checkpointing = "none"  # computed again in the backward pass: nothing, blocks, norms and SwiGLU
    compile: Compilation = "none"  # by torch.compile: nothing, or each block but for its attention
    spikes: SpikeConfig | None = None  # skip updates whose loss or gradient is far above the recent ones
    max_skips: int = Field(default=10, ge=0)  # updates in a row that may be skipped
    validation_rows: int = Field(default=16, ge=0)  # last rows of every set, never trained on
    validation_every_steps: int | None = Field(default=None, ge=1)  # None: at start and end only
    checkpoint_every_steps: int = Field(default=50, ge=1)
    keep: int = Field(default=2, ge=1)  # newest checkpoints that stay on disk while training
    keep_every_steps: int | None = Field(default=None, ge=1)  # those of every so many steps stay for good; None: none
    spare_memory: bool = False  # give freed memory back at every step: less at the peak, slower; for large vocabularies
    n_threads: int | None = Field(default=None, ge=1)  # None: this process's part of the cores
    mesh: MeshConfig = MeshConfig()
    integrity: IntegrityConfig = IntegrityConfig()
    watch: WatchConfig = WatchConfig()  # TensorBoard, Weights & Biases, a profile, the price of time
    seed: int = Field(default=0, ge=0)

    @field_validator("mixture")
    @classmethod
    def _weights(cls, mixture: dict[str, float | Blend]) -> dict[str, float | Blend]:
        try:
            flatten(mixture)
        except UserError as error:
            raise ValueError(f"{error}; give at least one set a weight above 0, as in {{'code': 1.0}}") from None
        return mixture

    @model_validator(mode="after")
    def _compilable(self) -> TrainConfig:
        if self.compile != "none" and self.checkpointing == "selective":
            raise ValueError(
                "compile=blocks does not go with checkpointing=selective: compiled code chooses itself what it keeps; "
                "set checkpointing to none or full"
            )
        if self.compile != "none" and self.mesh.tensor > 1:
            raise ValueError(
                f"compile=blocks does not go with mesh.tensor={self.mesh.tensor}, whose exchanges lie inside "
                "of blocks; set compile=none, or share rows or parameters instead (mesh.context, mesh.shard)"
            )
        return self

    @model_validator(mode="after")
    def _kept_are_made(self) -> TrainConfig:
        check_kept_are_made(self.keep_every_steps, self.checkpoint_every_steps)
        return self

    @model_validator(mode="after")
    def _one_hand_on_the_weights(self) -> TrainConfig:
        moving = [name for name in ("changes", "curriculum", "dynamic_mixture") if getattr(self, name)]
        if len(moving) > 1:
            raise ValueError(f"{' and '.join(moving)} each change the weights of sets; keep one of them")
        if self.dynamic_mixture and not (self.validation_every_steps and self.validation_rows):
            raise ValueError(
                "dynamic_mixture follows held-out losses; set validation_every_steps, and validation_rows above 0"
            )
        return self
