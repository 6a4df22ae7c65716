"""The configuration of the stage `classifier` (no torch here)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from codeflow.core.config import Config
from codeflow.train.config import OptimizerConfig, ScheduleConfig

Kind = Literal["transformer", "linear", "fasttext"]


class TransformerProxyConfig(Config):
    """The small decoder: its shape and its training."""

    hidden_size: int = Field(default=64, ge=8)
    n_layers: int = Field(default=2, ge=1)
    head_dim: int = Field(default=32, ge=2)
    max_tokens: int = Field(default=512, ge=8)  # of a document that are read
    epochs: int = Field(default=6, ge=1)  # the best on the validation repositories is kept
    batch_rows: int = Field(default=32, ge=1)
    language_weight: float = Field(default=0.2, ge=0)  # of the next-token loss beside the label's; 0: none
    language_stride: int = Field(default=16, ge=1)  # it is taken at every so-manyth token: the vocabulary is the cost
    window_shift: bool = True  # train on windows that begin at a random line, half of the time
    optimizer: OptimizerConfig = OptimizerConfig(muon_learning_rate=0.01, adamw_weight_decay=0.01)
    schedule: ScheduleConfig = ScheduleConfig(warmup_fraction=0.1, decay_fraction=0.9, end_factor=0.0)
    precision: Literal["bf16", "fp32"] = "fp32"  # of training's working copy and of scoring

    @model_validator(mode="after")
    def _heads_fit(self) -> TransformerProxyConfig:
        if self.hidden_size % self.head_dim:
            raise ValueError(f"hidden_size={self.hidden_size} is no multiple of head_dim={self.head_dim}")
        return self


class LinearProxyConfig(Config):
    """Logistic regression on hashed n-grams, by AdaGrad."""

    bits: int = Field(default=18, ge=8, le=26)
    max_bytes: int = Field(default=1_000_000, ge=1)  # of a document that are read
    epochs: int = Field(default=8, ge=1)  # the best of all epochs and decays on the validation repositories is kept
    learning_rate: float = Field(default=0.5, gt=0)
    decays: tuple[float, ...] = (0.0, 1e-4, 1e-3)  # L2, tried one after the other


class FastTextConfig(Config):
    """The baseline, tuned on the same validation repositories: every epochs x n-grams is tried."""

    epochs: tuple[int, ...] = (5, 15)
    word_ngrams: tuple[int, ...] = (1, 2)
    learning_rate: float = Field(default=0.3, gt=0)
    dim: int = Field(default=50, ge=10, multiple_of=10)  # see `train.fasttext_baseline`
    buckets: int = Field(default=2**18, ge=1)
    max_characters: int = Field(default=1_000_000, ge=1)
    grades: int = Field(default=5, ge=1)  # labels are rounded to this many steps


class ClassifierConfig(Config):
    """Which labels, which kinds, and how they are compared."""

    domain: str = "code"
    target: str = "survival"
    kinds: tuple[Kind, ...] = ("transformer", "linear", "fasttext")
    n_folds: int = Field(default=5, ge=3)  # of repositories; fold k is tested, k + 1 validates, the rest trains
    tested_folds: int = Field(default=5, ge=1)  # how many folds are tested; 1: a single split
    positive: float = Field(default=0.5, gt=0, lt=1)  # labels from here on are positives of F1
    thresholds: tuple[float, ...] = (0.3, 0.5, 0.7)
    bootstrap_resamples: int = Field(default=1000, ge=1)
    transformer: TransformerProxyConfig = TransformerProxyConfig()
    linear: LinearProxyConfig = LinearProxyConfig()
    fasttext: FastTextConfig = FastTextConfig()
    n_threads: int | None = Field(default=None, ge=1)
    seed: int = 0

    @field_validator("kinds")
    @classmethod
    def _once(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        if not kinds or len(set(kinds)) != len(kinds):
            raise ValueError("name each kind once, at least one")
        return kinds

    @model_validator(mode="after")
    def _folds_exist(self) -> ClassifierConfig:
        if self.tested_folds > self.n_folds:
            raise ValueError(f"tested_folds={self.tested_folds} exceeds n_folds={self.n_folds}")
        return self
