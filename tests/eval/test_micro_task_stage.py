from __future__ import annotations

import json
from pathlib import Path

import pytest

from codeflow.core.manifest import begin
from codeflow.core.records import read_shards, write_records
from codeflow.core.types import Score, Task
from codeflow.eval import micro_task_stage
from codeflow.eval.micro_task_scores import MicroTaskScoresConfig
from codeflow.eval.micro_task_stage import MicroTasksConfig
from codeflow.sandbox.local import probe
from codeflow.solve.config import RolloutConfig
from codeflow.solve.verify import python_calls_data


@pytest.mark.skipif(not probe().backend, reason=probe().problem or "sandbox works")
def test_one_checkpoint_is_scored_under_its_own_name(world: dict[str, Path], tmp_path: Path) -> None:
    data = python_calls_data("f", [(1,)], [1])
    write_records(tmp_path / "tasks-heldout-00000.parquet", [Task("a", "micro", "p", "python_calls", data, "")], Task)
    rollout = RolloutConfig(max_new_tokens=4, wall_seconds=20)
    config = MicroTasksConfig(asked=MicroTaskScoresConfig(samples=2, ks=(1, 2), rollout=rollout))
    inputs = {"checkpoint": world["first"], "tokenizer": world["tokenizer"], "tasks": tmp_path}
    output = tmp_path / "score_first"
    begin(output, "scores", config, {}, "1")
    manifest = micro_task_stage.run(config, inputs, output)
    found = list(read_shards(output, "scores", Score))
    assert {(s.checkpoint, s.metric, s.value) for s in found if not s.subset} == {
        ("first", "pass@1", 0.0),
        ("first", "pass@2", 0.0),
    }
    assert found[0].settings["split"] == "heldout"
    assert json.loads((output / "manifest.json").read_text())["counts"]["read"] == manifest.counts.read == 2
