"""Does reinforcement learning teach something? Post-training over several seeds, beside its controls.

Covered, on the looped model that mid-training of the recipe `tiny` leaves: per seed the instruct path (SFT, then
GRPO), GRPO with a random reward (the control, which must not rise), and further SFT of about GRPO's time; the thinking
path once; all of them asked the held-out micro-tasks; a table of the differences (comparison.py) and a report.

Stages carry the names and configurations that they have in `tiny`, so that in the folder of a finished `tiny` run
everything up to the paths, and the paths of the first seed, are reused. Settings are chosen on the split `dev` or on
training curves, never on `heldout`, which is asked here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import Field, NonNegativeInt

from codeflow.core.config import Config
from codeflow.eval.micro_task_stage import MicroTasksConfig
from codeflow.execute.chain import Stage
from codeflow.recipes.comparison import ComparedPath, ComparisonConfig
from codeflow.recipes.post import PostTraining, grpo_stage, train_stage
from codeflow.recipes.tiny import TinyRecipe, tiny
from codeflow.recipes.verbs import VERBS
from codeflow.report.page import ReportConfig
from codeflow.rl.config import GrpoConfig
from codeflow.train.config import TrainConfig

_Phase = TypeVar("_Phase", TrainConfig, GrpoConfig)
_START = "loop_stage2"


class PathsRecipe(Config):
    """The tree: the recipe that the paths start from, and what is done with its end."""

    name: str = "paths"
    base: TinyRecipe
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0, 1, 2), min_length=1)  # added to the seeds of `tiny`
    scores: MicroTasksConfig
    comparison: ComparisonConfig  # its paths are filled in from the seeds
    report: ReportConfig

    def with_sources(self, repositories: tuple[str, ...], own_checkout: str, benchmarks: Path | None) -> PathsRecipe:
        """Add the sources to what the paths start from."""
        return self.model_copy(update={"base": self.base.with_sources(repositories, own_checkout, benchmarks)})

    def chain(self) -> list[Stage]:
        """Return the stages in order, wired."""
        post = self.base.post
        start = made_for(self.base.chain(), (_START, "pack_sft", "tasks"))
        trained = [stage for seed in self.seeds for stage in _instruct(post, seed)] + _thinking(post)
        scored = [self._score(stage.name) for stage in trained]
        compared = VERBS["comparison"].stage(
            self.comparison.model_copy(
                update={
                    "paths": (*(_compared(seed) for seed in self.seeds), _THINKING),
                    "pooled": tuple(_compared(seed).name for seed in self.seeds),
                }
            ),
            {stage.name: stage.name for stage in (*trained, *scored)},
        )
        stages = [*start, *trained, *scored, compared]
        return [*stages, VERBS["report"].stage(self.report, {s.name: s.name for s in stages}, "report_paths")]

    def _score(self, checkpoint: str) -> Stage:
        inputs = {"checkpoint": checkpoint, "tasks": "tasks", "tokenizer": "tokenizer"}
        return VERBS["micro_tasks"].stage(self.scores, inputs, f"score_{checkpoint}", cores=1)


def paths() -> PathsRecipe:
    """Return the recipe on top of `tiny`."""
    recipe = tiny()
    return PathsRecipe(
        base=recipe,
        scores=MicroTasksConfig(asked=recipe.evaluate.micro_tasks, dtype=recipe.evaluate.dtype),
        comparison=ComparisonConfig(),
        report=ReportConfig(title="CodeFlow: post-training paths over several seeds"),
    )


def made_for(stages: Sequence[Stage], names: Sequence[str]) -> list[Stage]:
    """Return the stages that those named are made from, and themselves, in order."""
    wanted = set(names)
    for stage in reversed(stages):  # the chain's order is topological
        if stage.name in wanted:
            wanted |= set(stage.inputs.values())
    return [stage for stage in stages if stage.name in wanted]


def _named(name: str, seed: int) -> str:
    """Return the name of a stage: the one of `tiny` for its own seed."""
    return f"{name}_seed{seed}" if seed else name


def _seeded(config: _Phase, name: str, seed: int) -> _Phase:
    """Return a phase's configuration with another name and seed."""
    return config.model_copy(update={"phase": name, "seed": config.seed + seed})


def _instruct(post: PostTraining, seed: int) -> list[Stage]:
    sft, rl, more, control = (
        _named(name, seed) for name in ("sft_instruct", "rl_instruct", "sft_instruct_more", "rl_random")
    )
    grpo = _seeded(post.instruct.grpo, rl, seed)
    random_reward = grpo.model_copy(update={"phase": control, "reward": "random"})
    return [
        train_stage(_seeded(post.instruct.sft, sft, seed), "pack_sft", _START, sft),
        grpo_stage(grpo, sft, rl),
        grpo_stage(random_reward, sft, control),
        train_stage(_seeded(post.more_sft, more, seed), "pack_sft", sft, more),
    ]


def _thinking(post: PostTraining) -> list[Stage]:
    return [
        train_stage(post.thinking.sft, "pack_sft", _START, "sft_thinking"),
        grpo_stage(post.thinking.grpo, "sft_thinking", "rl_thinking"),
    ]


def _compared(seed: int) -> ComparedPath:
    arms = {"GRPO": "rl_instruct", "random reward": "rl_random", "further SFT": "sft_instruct_more"}
    return ComparedPath(
        name=f"instruct, seed {seed}",
        start=_named("sft_instruct", seed),
        arms={label: _named(name, seed) for label, name in arms.items()},
    )


_THINKING = ComparedPath(name="thinking", start="sft_thinking", arms={"GRPO": "rl_thinking"})
