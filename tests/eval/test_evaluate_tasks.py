from __future__ import annotations

import json

import pytest

from codeflow.core.manifest import begin
from codeflow.core.records import read_shards, write_records
from codeflow.core.types import Score, Task
from codeflow.eval.evaluate import EvaluateConfig, run
from codeflow.eval.micro_task_scores import NAME, MicroTaskScoresConfig
from codeflow.sandbox.local import probe
from codeflow.solve.config import RolloutConfig
from codeflow.solve.verify import python_calls_data


@pytest.mark.skipif(not probe().backend, reason=probe().problem or "sandbox works")
def test_checkpoints_that_are_named_answer_the_tasks_given(world, tmp_path, monkeypatch):
    monkeypatch.delenv("CODEFLOW_BENCHMARKS", raising=False)
    data = json.dumps(json.loads(python_calls_data("f", [(1,)], [1])) | {"family": "a", "level": 2})
    task = Task("a/2/0", "micro_tasks", "p", "python_calls", data, "codeflow")
    write_records(tmp_path / "tasks/tasks-heldout-00000.parquet", [task], Task)
    rollout = RolloutConfig(max_new_tokens=4, wall_seconds=20)
    config = EvaluateConfig(
        context_tokens=64,
        documents_per_domain=1,
        bootstrap_resamples=20,
        fim_cases_per_level=1,
        task_samples=1,
        pass_ks=(1,),
        max_new_tokens=2,
        micro_tasks=MicroTaskScoresConfig(samples=2, ks=(1, 2), rollout=rollout, checkpoints=("second",)),
    )
    begin(tmp_path / "out", "scores", config, {}, "k")
    run(config, {**world, "tasks": tmp_path / "tasks"}, tmp_path / "out")
    found = [score for score in read_shards(tmp_path / "out", "scores", Score) if score.benchmark == NAME]
    assert {(s.checkpoint, s.metric, s.subset) for s in found} == {
        ("second", "pass@1", ""),
        ("second", "pass@2", ""),
        ("second", "pass@1", "family a"),
        ("second", "pass@1", "level 2"),
    }
    assert all(s.settings["split"] == "heldout" and s.settings["tasks"] == "1" for s in found)
