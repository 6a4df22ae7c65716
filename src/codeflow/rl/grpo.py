"""One step of GRPO as pure functions: which tasks, which advantages, which batches, and what is told of it.

Legend: B rows, T row length.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from codeflow.core.types import Rollout
from codeflow.rl.advantage import group_advantages, has_signal
from codeflow.tokens.batch import Batch
from codeflow.tokens.special import PAD_ID


def chosen_tasks(n_tasks: int, per_step: int, seed: int, step: int) -> list[int]:
    """Return the indices of the tasks of `step` (1, 2, ...): task after task of one shuffled pass after the other.

    A function of its arguments alone. Where a step spans two passes a task may come twice; then it is taken once.
    """
    assert n_tasks > 0, "no tasks"
    found: list[int] = []
    for place in range((step - 1) * per_step, step * per_step):
        pass_number, index = divmod(place, n_tasks)
        order = list(range(n_tasks))
        random.Random(f"grpo/{seed}/{pass_number}").shuffle(order)
        found.append(order[index])
    return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Member:
    """A judged rollout with its reward and its advantage over its group; `count` equal ones may be one member."""

    rollout: Rollout
    reward: float
    advantage: float
    count: int = 1


def groups(rollouts: Sequence[Rollout], rewards: Sequence[float | None], divide_by_std: bool) -> list[list[Member]]:
    """Return the judged rollouts by task, in order, with advantages; those without a reward are in no group."""
    by_task: dict[str, list[tuple[Rollout, float]]] = {}
    for rollout, reward in zip(rollouts, rewards, strict=True):
        members = by_task.setdefault(rollout.task_id, [])
        if reward is not None:
            members.append((rollout, reward))
    found: list[list[Member]] = []
    for members in by_task.values():
        advantages = group_advantages([reward for _, reward in members], divide_by_std)
        found.append([Member(rollout, reward, a) for (rollout, reward), a in zip(members, advantages, strict=True)])
    return found


def with_signal(found: Sequence[Sequence[Member]]) -> list[list[Member]]:
    """Return the groups whose rewards differ."""
    return [list(group) for group in found if has_signal([member.reward for member in group])]


def divided(found: Sequence[list[Member]], n_updates: int) -> list[list[Member]]:
    """Divide whole groups among at most `n_updates` updates, in order; return the members of each."""
    n = min(n_updates, len(found))
    borders = [len(found) * i // n for i in range(n + 1)] if n else [0]
    return [[member for group in found[first:end] for member in group] for first, end in itertools.pairwise(borders)]


def distinct(members: Sequence[Member]) -> list[Member]:
    """Return members with equal rollouts (same task, tokens and reward) as one that counts for all of them.

    The gradient stays the same and needs one pass: a policy that is nearly sure of itself samples much twice.
    """
    found: dict[tuple[str, tuple[int, ...], float], Member] = {}
    for member in members:
        key = (member.rollout.task_id, member.rollout.ids, member.reward)
        before = found.get(key)
        found[key] = replace(before, count=before.count + member.count) if before else member
    return list(found.values())


def batches(members: Sequence[Member], row_tokens: int, micro_rows: int) -> list[Batch]:
    """Pack rollouts into rows, one behind the other, and rows into micro-batches of at most `micro_rows` rows.

    Only sampled tokens carry weight (their member's count) and their rollout's advantage. Rows are as long as
    `row_tokens`, or as the longest rollout where that is longer; the rest of a row is padding without weight.
    """
    lengths = [len(member.rollout.prompt_ids) + len(member.rollout.ids) for member in members]
    longest = max([row_tokens, *lengths])
    rows: list[list[Member]] = []
    used = longest + 1
    for member, length in zip(members, lengths, strict=True):
        if used + length > longest:
            rows.append([])
            used = 0
        rows[-1].append(member)
        used += length
    return [_batch(rows[first : first + micro_rows], longest) for first in range(0, len(rows), micro_rows)]


def _batch(rows: Sequence[Sequence[Member]], length: int) -> Batch:
    shape = (len(rows), length)
    ids = np.full(shape, PAD_ID, np.int64)
    weights, advantages = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    targets, starts = ids.copy(), np.zeros(shape, np.int32)
    for row, members in enumerate(rows):
        begin = 0
        for member in members:
            sequence = [*member.rollout.prompt_ids, *member.rollout.ids]
            end = begin + len(sequence)
            ids[row, begin:end] = targets[row, begin:end] = sequence
            targets[row, begin : end - 1] = sequence[1:]
            sampled = slice(begin + len(member.rollout.prompt_ids) - 1, end - 1)  # the places that predict them
            weights[row, sampled], advantages[row, sampled] = member.count, member.advantage
            starts[row, begin:end] = begin
            begin = end
        starts[row, begin:] = begin  # padding is a document of its own
    positions = np.arange(length, dtype=np.int32) - starts
    return Batch(ids, targets, weights, positions, starts, ("rollouts",) * len(rows), advantages)


def sampler_gap(members: Sequence[Member], made: Sequence[Batch]) -> float:
    """Return the mean absolute difference of log-probabilities between sampling and training, before the update."""
    ours = np.concatenate([batch.old_logprobs[batch.weights > 0] for batch in made if batch.old_logprobs is not None])
    theirs = np.array([value for member in members for value in member.rollout.logprobs], np.float32)
    return float(np.abs(ours - theirs).mean())


def told(found: Sequence[Sequence[Member]], rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Return what a step's rollouts measure.

    `entropy` is the mean of -log p over sampled tokens: an estimate in nats per token, unbiased at temperature 1.
    """
    members = [member for group in found for member in group]
    judged = [rollout for rollout in rollouts if rollout.verdict.fault != "infrastructure"]
    logprobs = [value for rollout in rollouts for value in rollout.logprobs]
    return {
        "reward": _mean([member.reward for member in members]),
        "passed": _mean([float(rollout.verdict.passed) for rollout in judged]),
        "pass_fraction": _mean([rollout.verdict.reward for rollout in judged]),
        "solved_groups": _mean([float(any(m.rollout.verdict.passed for m in group)) for group in found if group]),
        "groups_with_signal": _mean([float(has_signal([m.reward for m in group])) for group in found if group]),
        "entropy": -_mean(logprobs),
        "length_tokens": _mean([float(len(rollout.ids)) for rollout in rollouts]),
        "cut_off": _mean([float(rollout.stop_reason != "stop") for rollout in rollouts]),
        "n_rollouts": len(rollouts),
        "n_infrastructure_faults": len(rollouts) - len(judged),
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
