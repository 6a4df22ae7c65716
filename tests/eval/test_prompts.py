from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from codeflow.core.errors import UserError
from codeflow.core.manifest import begin
from codeflow.core.records import read_shards
from codeflow.core.types import Prompt
from codeflow.eval.benchmarks.micro_tasks import TASKS
from codeflow.eval.prompts import PromptsConfig, run, world


def _make(folder: Path, config: PromptsConfig) -> tuple[list[Prompt], dict]:
    begin(folder, "prompts", config, {}, "k")
    manifest = run(config, {}, folder)
    return list(read_shards(folder, "prompts", Prompt)), manifest.metrics


def _write_benchmarks(folder: Path) -> Path:
    """Small files in the official formats."""
    problem = {
        "task_id": "HumanEval/0",
        "prompt": "def one():\n",
        "entry_point": "one",
        "canonical_solution": "    return 1\n",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
    }
    (folder / "humaneval").mkdir(parents=True)
    with gzip.open(folder / "humaneval/HumanEval.jsonl.gz", "wt") as file:
        file.write(json.dumps(problem) + "\n")
    (folder / "cruxeval").mkdir()
    crux = {"id": "sample_0", "code": "def f(x):\n    return x", "input": "1", "output": "1"}
    (folder / "cruxeval/cruxeval.jsonl").write_text(json.dumps(crux) + "\n")
    return folder


def test_without_files_only_own_tasks_and_a_remark(tmp_path, monkeypatch):
    monkeypatch.delenv("CODEFLOW_BENCHMARKS", raising=False)
    prompts, metrics = _make(tmp_path / "out", PromptsConfig())
    assert {p.benchmark for p in prompts} == {"micro_tasks", "project_completion"}
    assert sum(p.benchmark == "micro_tasks" for p in prompts) == len(TASKS)
    functions = [p for p in prompts if p.benchmark == "project_completion"]
    assert len(functions) > 30
    for one in functions:
        assert one.text.startswith("def ")
        assert one.solution
    assert len(metrics["remarks"]) == 2
    assert "CODEFLOW_BENCHMARKS is not set" in metrics["remarks"][0]


def test_official_files_are_read_and_change_the_world(tmp_path, monkeypatch):
    monkeypatch.delenv("CODEFLOW_BENCHMARKS", raising=False)
    folder = _write_benchmarks(tmp_path / "benchmarks")
    config = PromptsConfig(benchmarks=str(folder))
    prompts, metrics = _make(tmp_path / "out", config)
    assert {"cruxeval": 1, "humaneval": 1, "micro_tasks": len(TASKS)}.items() <= metrics["prompts"].items()
    assert metrics["remarks"] == []
    assert Prompt("HumanEval/0", "humaneval", "def one():\n", "    return 1\n") in prompts
    before = world(config)
    assert before != world(PromptsConfig())
    (folder / "cruxeval/cruxeval.jsonl").unlink()
    assert world(config) != before


def test_environment_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CODEFLOW_BENCHMARKS", str(_write_benchmarks(tmp_path / "benchmarks")))
    assert "humaneval" in _make(tmp_path / "out", PromptsConfig())[1]["prompts"]
    monkeypatch.setenv("CODEFLOW_BENCHMARKS", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"CODEFLOW_BENCHMARKS=.*no such folder"):
        world(PromptsConfig())


def test_broken_file_is_one_clear_line(tmp_path):
    folder = _write_benchmarks(tmp_path / "benchmarks")
    (folder / "humaneval/HumanEval.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(UserError, match="get the official file of HumanEval"):
        _make(tmp_path / "out", PromptsConfig(benchmarks=str(folder)))
    with gzip.open(folder / "humaneval/HumanEval.jsonl.gz", "wt") as file:
        file.write('{"task_id": "x"}\n')
    with pytest.raises(UserError, match="row 1: no field 'prompt'"):
        _make(tmp_path / "out2", PromptsConfig(benchmarks=str(folder)))
