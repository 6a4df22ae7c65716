"""Rewards of a step's rollouts. A rollout that was not judged (infrastructure fault) has none."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from codeflow.core.types import Rollout

RewardKind = Literal["all_tests", "pass_fraction", "random"]


def rewards(rollouts: Sequence[Rollout], kind: RewardKind, seed: int, step: int) -> list[float | None]:
    """Return the reward of each rollout of one step, None for infrastructure faults.

    all_tests: 1 when every hidden test passes, else 0. pass_fraction: the share of hidden tests that pass (the recipe,
    Code-Flow §7). random: the control that must teach nothing: a coin, a function of (seed, step, place), that comes up
    1 as often as all_tests did in this step.
    """
    judged = [None if r.verdict.fault == "infrastructure" else r.verdict for r in rollouts]
    if kind == "pass_fraction":
        return [None if verdict is None else verdict.reward for verdict in judged]
    passed = [None if verdict is None else float(verdict.passed) for verdict in judged]
    if kind == "all_tests":
        return list(passed)
    known = [value for value in passed if value is not None]
    mean = sum(known) / len(known) if known else 0.0
    coin = random.Random(f"random-reward/{seed}/{step}")
    return [None if value is None else float(coin.random() < mean) for value in passed]
