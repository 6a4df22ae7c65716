"""A model meets tasks: prompts in the chat format, sampled turns with log-probabilities, verdicts by running them.

All samples of a call are judged in one go, after sampling. Sampling is a function of (model, seed, step, task, sample):
which other tasks are asked changes nothing but the rounding of matrix products.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codeflow.core.types import Rollout, Task, Verdict
from codeflow.sandbox.policy import Limits
from codeflow.solve.answer import STOP_IDS, program_of
from codeflow.solve.config import RolloutConfig
from codeflow.solve.verify_many import Attempt, verify_many
from codeflow.tokens.chat import Message, prompt_segments
from codeflow.tokens.render import render_segments

if TYPE_CHECKING:
    from codeflow.model.generate import Generation
    from codeflow.model.looped import LoopCoder
    from codeflow.tokens.tokenizer import Tokenizer

_ADDRESS = re.compile(r"0x[0-9a-f]{4,}")  # of an object in an error's text: differs from run to run


@dataclass(frozen=True, slots=True)
class Source:
    """Who answers: a model, its tokenizer, and what rollouts call it."""

    model: LoopCoder
    tokenizer: Tokenizer
    checkpoint: str
    seed: int = 0
    step: int = 0


@dataclass(frozen=True, slots=True)
class Rolled:
    """The rollouts of all tasks in order, `samples` of each next to each other, and how long they took."""

    rollouts: list[Rollout]
    n_prompts_too_long: int  # these tasks have no rollouts
    generate_seconds: float
    verify_seconds: float


def roll_out(source: Source, tasks: Sequence[Task], samples: int, config: RolloutConfig) -> Rolled:
    """Sample `samples` turns for each task and judge them.

    A task whose prompt leaves no room for a turn of `max_new_tokens` is left out and counted. Raises
    InfrastructureError when no sandbox works here.
    """
    prompts = [prompt_ids(task, source.tokenizer, config.thinking) for task in tasks]
    longest = source.model.config.max_position_embeddings - config.max_new_tokens
    asked = [(task, prompt) for task, prompt in zip(tasks, prompts, strict=True) if len(prompt) <= longest]
    pairs = [(task, prompt, sample) for task, prompt in asked for sample in range(samples)]
    started = time.perf_counter()
    made = _generate(source, [(task.id, prompt, sample) for task, prompt, sample in pairs], config)
    sampled = time.perf_counter()
    attempts = [
        Attempt(task, program_of(one.ids, source.tokenizer, config.thinking))
        for (task, _, _), one in zip(pairs, made, strict=True)
    ]
    limits = Limits(wall_seconds=config.wall_seconds, cpu_seconds=config.cpu_seconds)
    verdicts = verify_many(attempts, limits, config.sandboxes)
    rollouts = [
        Rollout(
            task_id=task.id,
            checkpoint=source.checkpoint,
            step=source.step,
            sample=sample,
            prompt_ids=tuple(prompt),
            ids=tuple(one.ids),
            logprobs=tuple(one.logprobs),
            text=source.tokenizer.decode(one.ids),
            stop_reason=one.stop_reason,
            verdict=_storable(verdict),
        )
        for (task, prompt, sample), one, verdict in zip(pairs, made, verdicts, strict=True)
    ]
    return Rolled(rollouts, len(tasks) - len(asked), sampled - started, time.perf_counter() - sampled)


def prompt_ids(task: Task, tokenizer: Tokenizer, thinking: bool) -> list[int]:
    """Return the prompt of a task: its message as the user's turn, and the beginning of the assistant's."""
    segments = prompt_segments((Message("user", task.prompt),), thinking)
    rows = ({"role": s.role, "text": s.text, "train": s.train} for s in segments)
    return render_segments(rows, tokenizer)[0].tolist()


def _generate(
    source: Source, requests: Sequence[tuple[str, list[int], int]], config: RolloutConfig
) -> list[Generation]:
    from codeflow.model.generate import GenerateSettings, generate

    settings = GenerateSettings(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        stop_ids=STOP_IDS,
        max_batch=config.generate_batch,
    )
    seeds = [_seed(source.seed, source.step, task, sample) for task, _, sample in requests]
    return generate(source.model, [prompt for _, prompt, _ in requests], settings, seeds)


def _seed(seed: int, step: int, task: str, sample: int) -> int:
    digest = hashlib.sha256(f"{seed}/{step}/{task}/{sample}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def _storable(verdict: Verdict) -> Verdict:
    """Return `verdict` with a reason that is valid text and equal in every run."""
    reason = _ADDRESS.sub("0x..", verdict.reason).encode("utf-8", "replace").decode()
    return Verdict(verdict.passed, verdict.reward, reason, verdict.fault, verdict.tests_passed, verdict.tests_run)
