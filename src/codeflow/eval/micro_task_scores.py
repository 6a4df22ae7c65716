"""Micro-tasks in the chat format: pass@k on a split that was never trained on, by hidden tests in the sandbox.

Each task is asked `samples` times; pass@k is unbiased (Chen et al. 2021) and its interval clustered by task. Attempts
that failed for reasons of the surroundings are counted and left out. Checkpoints that were never taught the chat format
are scored as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt, model_validator

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.types import Rollout, Score, Task
from codeflow.solve.config import RolloutConfig

if TYPE_CHECKING:
    from codeflow.eval.records import Generated, Part, Scorer
    from codeflow.solve.rollout import Source

NAME = "micro_tasks_chat"
_SCORER = "python-calls-1"


class MicroTaskScoresConfig(Config):
    """Which tasks, how many samples of each, and which k."""

    split: str = "heldout"
    tasks: PositiveInt = 300  # at most; the first of the split, which come in no order of difficulty
    samples: PositiveInt = 16
    ks: tuple[PositiveInt, ...] = Field(default=(1, 8), min_length=1)
    rollout: RolloutConfig = RolloutConfig()
    checkpoints: tuple[str, ...] = ()  # that are asked; empty: all
    thinking: tuple[str, ...] = ()  # checkpoints whose prompts open a thinking block
    thinking_tasks: PositiveInt = 300  # at most, of these checkpoints, whose answers are several times as long
    thinking_rollout: RolloutConfig = RolloutConfig(thinking=True, max_new_tokens=224)

    @model_validator(mode="after")
    def _enough_samples(self) -> MicroTaskScoresConfig:
        if max(self.ks) > self.samples:
            raise ValueError(f"ks={self.ks} needs at least {max(self.ks)} samples, samples={self.samples}; raise it")
        return self

    def asks(self, checkpoint: str) -> bool:
        """Say whether a checkpoint is asked."""
        return not self.checkpoints or checkpoint in self.checkpoints

    def rollout_of(self, checkpoint: str) -> RolloutConfig:
        """Return how a checkpoint is asked."""
        return self.thinking_rollout if checkpoint in self.thinking else self.rollout

    def tasks_of(self, checkpoint: str, tasks: Sequence[Task]) -> Sequence[Task]:
        """Return those of `tasks` that a checkpoint is asked."""
        return tasks[: self.thinking_tasks] if self.rollout_of(checkpoint).thinking else tasks

    def shown(self, checkpoint: str) -> dict[str, Any]:
        """Return the settings that a score carries."""
        rollout = self.rollout_of(checkpoint)
        return {
            "split": self.split,
            "samples": self.samples,
            "temperature": rollout.temperature,
            "top_p": rollout.top_p,
            "max_new_tokens": rollout.max_new_tokens,
            "prompt": "chat, thinking" if rollout.thinking else "chat",
        }


def load_tasks(folder: Path, config: MicroTaskScoresConfig) -> list[Task]:
    """Return the tasks to ask. Raises UserError when the split is not there."""
    from itertools import islice

    from codeflow.core.records import read_shards

    found = list(islice(read_shards(folder, f"tasks-{config.split}", Task), config.tasks))
    if not found:
        raise UserError(f"{folder} holds no tasks-{config.split}-*.parquet; set split to one that it has")
    return found


def part(source: Source, tasks: Sequence[Task], config: MicroTaskScoresConfig, scorer: Scorer) -> Part:
    """Ask a checkpoint its tasks; return scores over all, by family and by level, and every output."""
    from codeflow.eval.records import Part
    from codeflow.solve.rollout import roll_out

    tasks = config.tasks_of(scorer.checkpoint, tasks)
    rolled = roll_out(source, tasks, config.samples, config.rollout_of(scorer.checkpoint))
    scores = score(scorer, tasks, rolled.rollouts, config.ks)
    counts = {f"{NAME}: prompts too long": rolled.n_prompts_too_long}
    return Part(tuple(scores), tuple(rows(scorer.checkpoint, tasks, rolled.rollouts)), counts)


def score(scorer: Scorer, tasks: Sequence[Task], rollouts: Sequence[Rollout], ks: Sequence[int]) -> list[Score]:
    """Return pass@k over all tasks for each k, and pass@1 by family and by level.

    A task with fewer than k judged samples is left out of pass@k.
    """
    from codeflow.eval.metrics import Share, pass_at_k

    judged: dict[str, list[bool]] = {}
    for rollout in rollouts:
        if rollout.verdict.fault != "infrastructure":
            judged.setdefault(rollout.task_id, []).append(rollout.verdict.passed)
    n_faults = sum(rollout.verdict.fault == "infrastructure" for rollout in rollouts)

    def shares(ids: Sequence[str], k: int) -> list[Share]:
        counts = [(len(judged[i]), sum(judged[i])) for i in ids if len(judged.get(i, ())) >= k]
        return [Share(pass_at_k(n, c, k), 1.0) for n, c in counts]

    subsets: dict[str, list[str]] = {}
    for task in tasks:
        for name in _subsets(task):
            subsets.setdefault(name, []).append(task.id)
    every = [task.id for task in tasks]
    wanted = [("", every, k) for k in ks] + [(name, ids, 1) for name, ids in sorted(subsets.items())]
    found = [(name, k, shares(ids, k)) for name, ids, k in wanted]
    return [scorer.score(f"pass@{k}", name, parts, n_faults) for name, k, parts in found if parts]


def rows(checkpoint: str, tasks: Sequence[Task], rollouts: Sequence[Rollout]) -> list[Generated]:
    """Return the rows of generations."""
    from codeflow.core.storage import sha256_text
    from codeflow.eval.records import Generated

    by_id: Mapping[str, Task] = {task.id: task for task in tasks}
    found: list[Generated] = []
    for rollout in rollouts:
        task, verdict = by_id[rollout.task_id], rollout.verdict
        data = json.loads(task.data)
        found.append(
            Generated(
                benchmark=NAME,
                subset=next(iter(_subsets(task)), ""),
                checkpoint=checkpoint,
                task=task.id,
                sample=rollout.sample,
                prompt=task.prompt,
                output=rollout.text,
                reference=str(data.get("gold", "")),
                passed=verdict.passed,
                reward=verdict.reward,
                reason=verdict.reason,
                fault=verdict.fault,
                sandbox="",
                backend="",
                prompt_sha256=sha256_text(task.prompt),
                scorer=_SCORER,
            )
        )
    return found


def _subsets(task: Task) -> list[str]:
    data = json.loads(task.data)
    family, level = data.get("family"), data.get("level")
    return [*([f"family {family}"] if family else []), *([f"level {level}"] if level is not None else [])]
