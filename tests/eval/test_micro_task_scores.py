from __future__ import annotations

import json

import pytest

from codeflow.core.errors import UserError
from codeflow.core.records import write_records
from codeflow.core.types import Rollout, Task, Verdict
from codeflow.eval.metrics import pass_at_k
from codeflow.eval.micro_task_scores import MicroTaskScoresConfig, load_tasks, part, rows, score
from codeflow.eval.records import Scorer
from codeflow.sandbox.local import probe
from codeflow.solve.config import RolloutConfig
from codeflow.solve.verify import python_calls_data

SCORER = Scorer("micro_tasks_chat", "c", {}, 200, 0)


def task(family: str, level: int, number: int) -> Task:
    data = {**json.loads(python_calls_data("f", [(1,)], [1])), "family": family, "level": level, "gold": "g"}
    return Task(f"{family}/{level}/{number}", "micro_tasks", "p", "python_calls", json.dumps(data), "codeflow")


def rollouts(one: Task, n: int, passed: int, faults: int = 0) -> list[Rollout]:
    found = []
    for sample in range(n):
        fault = "infrastructure" if sample >= n - faults else "" if sample < passed else "model"
        verdict = Verdict(sample < passed, float(sample < passed), "", fault, 0, 1)
        found.append(Rollout(one.id, "c", 0, sample, (3,), (4,), (-1.0,), "t", "stop", verdict))
    return found


def test_pass_at_k_over_all_and_by_subset():
    tasks = [task("text", 1, 0), task("text", 2, 1), task("list", 2, 2)]
    made = rollouts(tasks[0], 10, 5) + rollouts(tasks[1], 10, 0) + rollouts(tasks[2], 10, 3, faults=4)
    found = {(s.metric, s.subset): s for s in score(SCORER, tasks, made, (1, 8))}
    assert found["pass@1", ""].value == pytest.approx((0.5 + 0 + 3 / 6) / 3)
    assert found["pass@8", ""].value == pytest.approx((pass_at_k(10, 5, 8) + 0) / 2)  # six judged are too few
    assert found["pass@8", ""].n == 2
    assert found["pass@1", "family text"].value == pytest.approx(0.25)
    assert found["pass@1", "level 2"].value == pytest.approx(0.25)
    assert {s.n_faults for s in found.values()} == {4}
    assert found["pass@1", ""].low <= found["pass@1", ""].value <= found["pass@1", ""].high
    written = rows("c", tasks, made)
    assert len(written) == 30
    assert sum(row.fault == "infrastructure" for row in written) == 4


def test_a_split_that_is_not_there_and_too_few_samples(tmp_path):
    write_records(tmp_path / "tasks-heldout-00000.parquet", [task("a", 1, n) for n in range(5)], Task)
    assert len(load_tasks(tmp_path, MicroTaskScoresConfig(tasks=3))) == 3
    with pytest.raises(UserError, match="holds no tasks-dev"):
        load_tasks(tmp_path, MicroTaskScoresConfig(split="dev"))
    with pytest.raises(ValueError, match="needs at least 8 samples"):
        MicroTaskScoresConfig(samples=4)


@pytest.mark.skipif(not probe().backend, reason=probe().problem or "sandbox works")
def test_a_checkpoint_is_asked_and_judged(world):
    from codeflow.model.huggingface import load
    from codeflow.solve.rollout import Source
    from codeflow.tokens.tokenizer import Tokenizer

    config = MicroTaskScoresConfig(samples=2, ks=(1, 2), rollout=RolloutConfig(max_new_tokens=4, wall_seconds=20))
    source = Source(load(world["first"] / "model"), Tokenizer.load(world["tokenizer"]), "c")
    found = part(source, [task("a", 1, 0)], config, SCORER)
    assert {s.metric: s.value for s in found.scores if not s.subset} == {"pass@1": 0, "pass@2": 0}
    assert len(found.generations) == 2
    assert part(source, [task("a", 1, 0)], config, SCORER) == found
