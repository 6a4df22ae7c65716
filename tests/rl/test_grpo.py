from __future__ import annotations

import numpy as np
import pytest

from codeflow.core.types import Rollout, Verdict
from codeflow.rl import grpo
from codeflow.rl.reward import rewards


def rollout(task: str, sample: int, passed: int, of: int = 4, fault: str = "", length: int = 3) -> Rollout:
    verdict = Verdict(passed == of, passed / of, "", fault, passed, of)
    ids = tuple(range(20 + sample, 20 + sample + length))
    logprobs = tuple(-0.5 for _ in ids)
    return Rollout(task, "c", 1, sample, (5, 6, 7), ids, logprobs, "", "stop", verdict)


def test_every_task_comes_once_per_pass_and_steps_do_not_depend_on_each_other():
    seen = [index for step in range(1, 5) for index in grpo.chosen_tasks(12, 3, seed=7, step=step)]
    assert sorted(seen) == list(range(12))
    assert seen != list(range(12))
    assert grpo.chosen_tasks(12, 3, 7, 3) == seen[6:9]
    assert grpo.chosen_tasks(12, 3, 8, 3) != seen[6:9]
    assert len(grpo.chosen_tasks(2, 5, 0, 1)) == 2


def test_rewards_by_kind():
    rollouts = [rollout("a", 0, 4), rollout("a", 1, 2), rollout("a", 2, 0), rollout("a", 3, 0, fault="infrastructure")]
    assert rewards(rollouts, "all_tests", 0, 1) == [1, 0, 0, None]
    assert rewards(rollouts, "pass_fraction", 0, 1) == [1, 0.5, 0, None]


def test_the_random_reward_has_the_mean_and_not_the_meaning():
    rollouts = [rollout("a", n, 4 if n % 4 == 0 else 0) for n in range(4000)]
    coins = rewards(rollouts, "random", 3, 5)
    assert coins == rewards(rollouts, "random", 3, 5) != rewards(rollouts, "random", 3, 6)
    values = np.array(coins, float)
    passed = np.array([r.verdict.passed for r in rollouts], float)
    assert values.mean() == pytest.approx(0.25, abs=0.03)
    assert abs(np.corrcoef(values, passed)[0, 1]) < 0.05


def test_faults_are_left_out_of_their_group():
    rollouts = [rollout("a", 0, 4), rollout("a", 1, 0), rollout("a", 2, 0, fault="infrastructure"), rollout("b", 0, 4)]
    found = grpo.groups(rollouts, rewards(rollouts, "all_tests", 0, 1), divide_by_std=False)
    assert [[m.advantage for m in group] for group in found] == [[0.5, -0.5], [0]]
    assert [len(group) for group in grpo.with_signal(found)] == [2]
    told = grpo.told(found, rollouts)
    assert told["n_infrastructure_faults"] == 1
    assert told["passed"] == pytest.approx(2 / 3)
    assert told["groups_with_signal"] == 0.5
    assert told["entropy"] == 0.5


def test_updates_share_whole_groups():
    groups = [[grpo.Member(rollout(str(n), s, 0), 0, 0) for s in range(2)] for n in range(5)]
    for n_updates in (1, 2, 3, 5, 9):
        parts = grpo.divided(groups, n_updates)
        assert len(parts) == min(n_updates, 5)
        assert [m for part in parts for m in part] == [m for group in groups for m in group]
        assert all(len(part) % 2 == 0 and part for part in parts)
    assert grpo.divided([], 2) == []


def test_equal_rollouts_are_one_member_that_counts():
    members = [
        grpo.Member(rollout(task, 0, 4, length=n), reward, reward - 0.5)
        for task, n, reward in (("a", 3, 1.0), ("a", 2, 0.0), ("a", 3, 1.0), ("b", 3, 1.0), ("a", 3, 1.0))
    ]
    found = grpo.distinct(members)
    assert [(m.rollout.task_id, len(m.rollout.ids), m.count) for m in found] == [("a", 3, 3), ("a", 2, 1), ("b", 3, 1)]
    every, merged = (grpo.batches(some, row_tokens=32, micro_rows=8) for some in (members, found))
    for total in (lambda b: b.weights.sum(), lambda b: (b.weights * b.advantages).sum()):
        assert sum(map(total, every)) == pytest.approx(sum(map(total, merged)))


def test_rows_hold_every_sampled_token_once_with_its_advantage():
    members = [grpo.Member(rollout("a", s, 0, length=1 + s % 4), 0, float(s + 1)) for s in range(9)]
    made = grpo.batches(members, row_tokens=16, micro_rows=2)
    assert all(len(batch.ids) <= 2 and batch.ids.shape[1] == 16 for batch in made)
    found: list[tuple[int, float]] = []
    for batch in made:
        assert batch.advantages is not None
        assert ((batch.advantages != 0) <= (batch.weights > 0)).all()
        rows, places = np.nonzero(batch.weights)
        found += zip(batch.targets[rows, places].tolist(), batch.advantages[rows, places].tolist(), strict=True)
        assert (batch.positions == np.arange(16) - batch.document_starts).all()
        for row, place in zip(rows, places, strict=True):  # what is predicted comes next in the same rollout
            assert batch.ids[row, place + 1] == batch.targets[row, place]
            assert batch.document_starts[row, place] == batch.document_starts[row, place + 1]
            assert batch.positions[row, place] >= 2
    assert found == [(token, m.advantage) for m in members for token in m.rollout.ids]


def test_a_rollout_longer_than_a_row_lengthens_the_rows():
    members = [grpo.Member(rollout("a", 0, 0, length=30), 0, 1.0), grpo.Member(rollout("a", 1, 0), 0, 1.0)]
    assert [batch.ids.shape for batch in grpo.batches(members, 16, 8)] == [(2, 33)]
