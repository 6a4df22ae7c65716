from __future__ import annotations

import json

import pytest

from codeflow.core.errors import UserError
from codeflow.core.manifest import begin
from codeflow.core.records import read_shards
from codeflow.core.types import Sample, Task
from codeflow.solve.plain import from_tree
from codeflow.synth.solutions import SolutionsConfig, run
from codeflow.synth.trace import TraceConfig
from codeflow.tokens.special import IM_END


def _make(config, inputs, output, workers=1):
    begin(output, "samples", config, {}, "k")
    return run(config, inputs, output, workers)


def _trained(sample: Sample) -> str:
    return "".join(segment.text for segment in sample.segments if segment.train)


def test_samples_are_the_proved_answers_and_their_executions(tasks_folder, tmp_path):
    manifest = _make(SolutionsConfig(shard_tasks=50), {"tasks": tasks_folder}, tmp_path / "a")
    tasks = list(read_shards(tasks_folder, "tasks-sft", Task))
    instruct = list(read_shards(tmp_path / "a", "instruct", Sample))
    assert [_trained(sample) for sample in instruct] == [json.loads(t.data)["gold"].strip() + IM_END for t in tasks]
    thinking = {sample.id: sample for sample in read_shards(tmp_path / "a", "thinking", Sample)}
    assert manifest.metrics["samples"] == {"instruct": 84, "thinking": len(thinking)}
    assert len(thinking) > 75
    for task in tasks:
        sample, data = thinking.get(f"thinking/{task.id}"), json.loads(task.data)
        if sample:
            lines = _trained(sample).partition("</think>")[0].splitlines()
            expected = from_tree(data["visible"]["expected"][0])
            assert lines[-1].startswith("return ")
            assert lines[-1].endswith(f"-> {expected!r}")


@pytest.mark.slow
def test_equal_bytes_with_any_number_of_workers(tasks_folder, tmp_path):
    config = SolutionsConfig(shard_tasks=50)
    found = {_make(config, {"tasks": tasks_folder}, tmp_path / str(n), n).fingerprint for n in (1, 2)}
    assert len(found) == 1


def test_tasks_without_a_trace_are_counted(tasks_folder, tmp_path):
    config = SolutionsConfig(sets=("thinking",), trace=TraceConfig(most_characters=60))
    manifest = _make(config, {"tasks": tasks_folder}, tmp_path / "a")
    n, notes = manifest.metrics["samples"]["thinking"], manifest.counts.notes
    assert notes["no thinking: trace too long"] > 0
    assert n + sum(count for note, count in notes.items() if note.startswith("no thinking: ")) == 84
    assert not list((tmp_path / "a").glob("instruct-*"))


def test_unknown_set_is_refused(tasks_folder, tmp_path):
    with pytest.raises(UserError, match="instruct, thinking"):
        _make(SolutionsConfig(sets=("chat",)), {"tasks": tasks_folder}, tmp_path / "a")
