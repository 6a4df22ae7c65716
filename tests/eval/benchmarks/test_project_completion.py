"""Completion of tested projects: the original middles pass, others do not, nothing passes without its tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from codeflow.eval import catalogue
from codeflow.eval.answers import LocalAnswerer
from codeflow.eval.benchmark import Attempt, Problem
from codeflow.eval.benchmark_run import BenchmarkRunConfig
from codeflow.eval.benchmarks import project_completion
from codeflow.eval.benchmarks.project_completion import BENCHMARK, completed, problems
from codeflow.eval.benchmarks_artifact import make
from codeflow.eval.holes import prompt_text
from codeflow.sandbox.policy import Limits


def _problem(ending: str) -> Problem:
    (found,) = (problem for problem in problems() if problem.id.endswith(ending))
    return found


def _passed(pairs: list[tuple[Problem, str]]) -> list[str]:
    judged = BENCHMARK.judge([Attempt(problem, (output,), "text") for problem, output in pairs], 2)
    assert not any(one.fault == "infrastructure" for one in judged)
    return [problem.id for (problem, _), one in zip(pairs, judged, strict=True) if one.passed]


def _check_gold(step: int) -> None:
    chosen = problems()[::step]
    assert _passed([(problem, problem.gold or "") for problem in chosen]) == [problem.id for problem in chosen]
    assert _passed([(problem, "") for problem in chosen]) == []
    functions = [problem for problem in chosen if problem.subsets[0] == "function"]
    swapped = zip(functions, [*functions[1:], functions[0]], strict=True)
    assert _passed([(problem, other.gold or "") for problem, other in swapped]) == []


def test_gold_passes_and_empty_and_foreign_middles_do_not(sandbox: None) -> None:
    _check_gold(19)


@pytest.mark.slow
def test_all_gold_passes_and_all_empty_and_foreign_middles_do_not(sandbox: None) -> None:
    _check_gold(1)


def test_problems_are_holes_with_the_rest_shown() -> None:
    found = problems()
    assert len(found) > 120
    assert len({problem.id for problem in found}) == len(found)
    assert [one.name for one in catalogue.find(["project_completion"])] == ["project_completion"]
    for problem in found:
        assert problem.hole is not None
        assert problem.text == prompt_text(problem.hole)
        assert "unittest" not in problem.text + problem.messages[0].content
        assert "<hole>" in problem.messages[0].content


def test_what_only_seems_to_pass_does_not(sandbox: None, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = _problem("slug/function")
    cheats = ["import os\n    os._exit(0)", "raise SystemExit(0)", "import unittest\n    raise unittest.SkipTest"]
    assert _passed([(problem, cheat) for cheat in cheats]) == []
    monkeypatch.setattr(project_completion, "LIMITS", Limits(wall_seconds=10, cpu_seconds=1))
    (judged,) = BENCHMARK.judge([Attempt(problem, ("while True: pass",), "text")], 1)
    assert (judged.passed, judged.fault) == (False, "model")
    assert 0 < judged.values["tests_passed"] < 1


def test_a_chat_model_writes_the_whole_function() -> None:
    problem = _problem("Entry.imbalance/expression")
    answer = (
        "Here:\n```python\n@property\ndef imbalance(self) -> int:\n    return sum(p.cents for p in self.postings)\n```"
    )
    text = completed(Attempt(problem, (answer,), "chat"))
    assert (
        "    @property\n    def imbalance(self) -> int:\n        return sum(p.cents for p in self.postings)\n\n" in text
    )
    assert text.count("def imbalance") == text.count("def parse_journal") == 1
    indented = answer.replace("\ndef", "\n    def").replace("\n    return", "\n        return")
    assert completed(Attempt(problem, (indented,), "chat")) == text
    whole = completed(Attempt(problem, (problem.gold or "",), "chat"))
    assert whole == completed(Attempt(problem, (problem.gold or "",), "text"))


def test_a_model_is_asked_within_its_context(world: dict[str, Path], tmp_path: Path, sandbox: None) -> None:
    shutil.copytree(world["first"] / "model", tmp_path / "model")
    shutil.copy(world["tokenizer"] / "tokenizer.json", tmp_path / "model")
    config = BenchmarkRunConfig(on=("project_completion",), limit=2, max_new_tokens=4, bootstrap_resamples=20)
    manifest, scores = make(config, LocalAnswerer(tmp_path / "model", "first"), tmp_path / "out")
    assert manifest.counts.read == 2
    assert manifest.metrics["remarks"] == []
    found = {(score.metric, score.subset): score for score in scores}
    assert (found["pass@1", ""].value, found["pass@1", ""].n) == (0.0, 2)
    assert "edit_similarity" in {score.metric for score in scores}
    lines = (tmp_path / "out/generations/project_completion.jsonl").read_text()
    assert "prompt too long" not in lines
