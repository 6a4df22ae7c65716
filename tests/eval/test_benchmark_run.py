"""The runner on a benchmark written here: its model is a table of answers, its judge compares."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codeflow.core.errors import UserError
from codeflow.eval.answers import Answer, Question
from codeflow.eval.benchmark import Attempt, Benchmark, BenchmarkFile, Judgement, Problem, Sampling
from codeflow.eval.benchmark_run import BenchmarkRunConfig, run_benchmark
from codeflow.eval.benchmark_scores import compare, provenance, rows, samples_of, score
from codeflow.eval.task_metrics import accuracy, mean, pass_at, pass_hat
from codeflow.tokens.chat import Message

FILE = BenchmarkFile("sums", "sums.json", "nowhere", "none")


def _load(paths: Sequence[Path]) -> list[Problem]:
    return [
        Problem(
            f"sums/{a}",
            (Message("user", f"{a} + 1?"),),
            f"{a} + 1 = ",
            str(a + 1),
            {"sum": a + 1},
            ("even",) * (a % 2 == 0),
        )
        for a in json.loads(paths[0].read_text())
    ]


class _World:
    """A model that adds wrongly where it is told to, and a judge that fails as a machine does where it is told to."""

    name, fingerprint = "table", "1"

    def __init__(self, wrong: Sequence[str] = (), broken: Sequence[str] = ()) -> None:
        self.wrong, self.broken, self.asked, self.judged = set(wrong), set(broken), [], 0

    def answer(self, questions: Sequence[Question], sampling: Sampling, seed: int) -> list[Answer]:
        self.asked += [(one.name, one.sample) for one in questions]
        return [Answer(self._text(one), "stop", 2, 0.75) for one in questions]

    def _text(self, question: Question) -> str:
        task = question.name.partition("#")[0]
        right = str(int(task.partition("/")[2]) + 1)
        mended = len(question.messages) > 1 and "not right" in question.messages[-1].content
        return "0" if task in self.wrong and not mended and question.sample == 0 else right

    def judge(self, attempts: Sequence[Attempt], _: int) -> list[Judgement]:
        self.judged += len(attempts)
        return [
            Judgement(False, "no disk", "infrastructure")
            if one.problem.id in self.broken
            else Judgement.of(one.output == str(one.problem.data["sum"]), "differs", length=float(len(one.output)))
            for one in attempts
        ]

    def benchmark(self, scorer: str = "sums-1") -> Benchmark:
        metrics = (accuracy(), pass_at(2), pass_hat(2), mean("length"))
        return Benchmark("sums", (FILE,), scorer, Sampling(samples=2), metrics, _load, self.judge)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sums.json").write_text("[0, 1, 2, 3]")
    return tmp_path


def _config(folder: Path, **fields: Any) -> BenchmarkRunConfig:
    return BenchmarkRunConfig(on=("sums",), benchmarks=str(folder), bootstrap_resamples=50, prove=False, **fields)


def test_scores_by_subset_with_faults_left_out(folder: Path) -> None:
    world = _World(wrong=["sums/1"], broken=["sums/2"])
    finished = run_benchmark(world.benchmark(), world, _config(folder), folder / "out")
    found = {(one.metric, one.subset): one for one in score(finished, "table", 50, 0)}
    assert found["accuracy", ""].value == pytest.approx((1 + 0.5 + 1) / 3)
    assert found["accuracy", "even"].value == 1.0
    assert (found["accuracy", ""].n, found["accuracy", ""].n_faults) == (3, 2)
    assert found["pass@2", ""].value == 1.0
    assert found["pass^2", ""].value == pytest.approx(2 / 3)
    assert found["calibration_error", ""].value == pytest.approx(abs(0.75 - 5 / 6))
    assert {row.fault for row in rows(finished, "table")} == {"", "model", "infrastructure"}
    assert provenance(finished)["infrastructure_faults"] == 2


def test_a_second_call_asks_and_judges_nothing_but_faults(folder: Path) -> None:
    first = _World(broken=["sums/2"])
    run_benchmark(first.benchmark(), first, _config(folder), folder / "out")
    again = _World()
    finished = run_benchmark(again.benchmark(), again, _config(folder), folder / "out")
    assert again.asked == []
    assert again.judged == 2  # of the task whose judge had failed
    assert all(one.passed for one in finished.judgements.values())


def test_torn_lines_cost_only_themselves(folder: Path) -> None:
    first = _World()
    run_benchmark(first.benchmark(), first, _config(folder), folder / "out")
    path = folder / "out/generations/sums.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    again = _World()
    finished = run_benchmark(again.benchmark(), again, _config(folder), folder / "out")
    assert len(again.asked) == 1
    assert len(finished.answers) == 8
    third = _World()
    run_benchmark(third.benchmark(), third, _config(folder), folder / "out")
    assert third.asked == []


def test_a_new_judge_scores_the_old_answers(folder: Path) -> None:
    first = _World()
    run_benchmark(first.benchmark(), first, _config(folder), folder / "out")
    again = _World()
    run_benchmark(again.benchmark("sums-2"), again, _config(folder), folder / "out")
    assert (again.asked, again.judged) == ([], 8)


def test_what_the_answer_depends_on_is_asked_again(folder: Path) -> None:
    for fields in ({}, {"temperature": 0.5}, {"seed": 1}):
        world = _World()
        run_benchmark(world.benchmark(), world, _config(folder, **fields), folder / "out")
        assert len(world.asked) == 8, fields
    other = _World()
    other.fingerprint = "2"
    run_benchmark(other.benchmark(), other, _config(folder), folder / "out")
    assert len(other.asked) == 8


def test_repair_asks_only_what_failed_and_counts_what_it_mends(folder: Path) -> None:
    world = _World(wrong=["sums/1", "sums/3"])
    finished = run_benchmark(world.benchmark(), world, _config(folder, repair=True), folder / "out")
    assert [name for name, _ in world.asked if "#" in name] == ["sums/1#1", "sums/3#1"]
    found = {(one.metric, one.subset): one.value for one in score(finished, "table", 50, 0)}
    assert found["accuracy", ""] == 0.75
    assert found["accuracy after try 2", ""] == 1.0
    assert found["repair_rate", ""] == 1.0


def test_two_runs_are_compared_task_by_task(folder: Path) -> None:
    worse, better = _World(wrong=["sums/1", "sums/3"]), _World()
    left = run_benchmark(worse.benchmark(), worse, _config(folder), folder / "left")
    right = run_benchmark(better.benchmark(), better, _config(folder), folder / "right")
    found = compare(left, right, 200, 0)["accuracy"]
    assert (found.value, found.n) == (0.25, 4)
    assert found.low <= 0.25 <= found.high
    other = replace(right, benchmark=replace(right.benchmark, name="other"))
    with pytest.raises(UserError, match="one benchmark"):
        compare(left, other, 10, 0)


def test_limit_and_gold(folder: Path) -> None:
    world = _World(broken=["sums/2"])
    config = _config(folder, limit=3).model_copy(update={"prove": True})
    finished = run_benchmark(world.benchmark(), world, config, folder / "out")
    assert len(finished.problems) == 3
    assert set(finished.gold_failures) <= {"sums/2"}
    assert samples_of(finished, 0).keys() == {one.id for one in finished.problems} - {"sums/2"}


def test_missing_files_say_where_to_get_them(folder: Path) -> None:
    world = _World()
    benchmark = replace(world.benchmark(), files=(BenchmarkFile("sums", "none.json", "example.org", "MIT"),))
    with pytest.raises(UserError, match=r"get it from example.org \(MIT\)"):
        run_benchmark(benchmark, world, _config(folder), folder / "out")


def test_files_behind_a_url_are_fetched_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    world = _World()
    config = _config(folder).model_copy(update={"benchmarks": f"file://{folder}"})
    assert len(run_benchmark(world.benchmark(), world, config, folder / "out").problems) == 4
    (folder / "sums.json").unlink()
    assert len(run_benchmark(world.benchmark(), world, config, folder / "out").problems) == 4
    assert not math.isnan(score(run_benchmark(world.benchmark(), world, config, folder / "out"), "t", 9, 0)[0].value)
