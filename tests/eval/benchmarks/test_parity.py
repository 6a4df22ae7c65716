"""The judges against verdicts that the official scorers gave."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from codeflow.eval.benchmark import Attempt
from codeflow.eval.benchmarks import bird, cruxeval, humaneval, livecodebench, mercury, spider, tau_bench, xstest
from codeflow.eval.metrics import pass_at_k
from codeflow.eval.python_run import run_jobs


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _humaneval(official: Path, rows: list[dict]) -> None:
    (path,) = [official / file.relative_path for file in humaneval.BENCHMARK.files]
    problems = {problem.id: problem for problem in humaneval.BENCHMARK.load([path])}
    attempts = [Attempt(problems[row["task_id"]], (row["completion"],), "text") for row in rows]
    judged = humaneval.BENCHMARK.judge(attempts, 2)
    assert [one.passed for one in judged] == [row["passed"] for row in rows]
    assert all(one.backend for one in judged)


def test_humaneval(official: Path, sandbox: None) -> None:
    _humaneval(official, _lines(official / "humaneval/verdicts_sample.jsonl")[::16])


@pytest.mark.slow
def test_humaneval_all(official: Path, sandbox: None) -> None:
    _humaneval(official, _lines(official / "humaneval/verdicts_sample.jsonl"))


def _cruxeval(official: Path, step: int) -> None:
    rows = {row.id: row for row in cruxeval.load(official / "cruxeval/cruxeval.jsonl")}
    data = json.loads((official / "cruxeval/official_output_sample.json").read_text())
    names = sorted(data["generations"])[::step]
    pairs = [(rows[name], answer) for name in names for answer in data["generations"][name]]
    judged = iter(cruxeval.judge_answers(pairs, "output", 2))
    for name in names:
        samples = [next(judged) for _ in data["generations"][name]]
        assert cruxeval.official_scores(samples) == data["official_scores"][name], name


def test_cruxeval(official: Path, sandbox: None) -> None:
    _cruxeval(official, 8)


@pytest.mark.slow
def test_cruxeval_all(official: Path, sandbox: None) -> None:
    _cruxeval(official, 1)


def test_livecodebench(official: Path, sandbox: None) -> None:
    cases = json.loads((official / "livecodebench/grader_cases_sample.json").read_text())
    tests = [livecodebench.Tests(tuple(c["inputs"]), tuple(c["outputs"]), c["fn_name"]) for c in cases]
    reports = run_jobs([livecodebench.job(one, case["code"]) for one, case in zip(tests, cases, strict=True)], 2)
    for one, report, case in zip(tests, reports, cases, strict=True):
        assert livecodebench.results(one, report) == case["official_results"], case["name"]


def test_spider_and_bird(official: Path, sandbox: None) -> None:
    rows = _lines(official / "spider/verdicts_sample.jsonl")
    folder = official / "spider"
    problems = [spider.problem(folder, row["idx"], "", row["gold"], row["db"]) for row in rows]
    predicted = [row["pred"] for row in rows]
    judged = spider.judge_queries(problems, predicted, 2)
    assert [one.passed for one in judged] == [bool(row["exec"]) for row in rows]
    assert [bool(one.values["exact_match"]) for one in judged] == [row["exact_match"] for row in rows]
    assert [problem.subsets for problem in problems] == [(row["hardness"],) for row in rows]
    judged = bird.judge_queries(problems, predicted, 2)
    assert [one.passed for one in judged] == [bool(row["bird_ex"]) for row in rows]


def test_mercury(official: Path) -> None:
    data = json.loads((official / "mercury/CodeLlama-7b-Instruct-hf.json").read_text())
    firsts: dict[str, dict] = {}
    for row in data["rows"]:
        seconds = row["runtime"] if row["status"] == "passed" else None
        value = mercury.beyond(seconds, row["runtimes"])
        assert value == row["beyond_p"] == row["beyond_code_at_head"]
        assert min(value, 1.0) == row["beyond_clipped"]
        firsts.setdefault(row["slug"], row)
    assert sum(row["beyond_p"] for row in firsts.values()) / len(firsts) * 100 == pytest.approx(data["beyond@1_first"])


def test_xstest(official: Path) -> None:
    with open(official / "xstest/xstest_v2_completions_mistralinstruct_streval.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 450
    assert all(xstest.label(row["completion"]) == row["strmatch_label"] for row in rows)
    assert len(xstest.BENCHMARK.load([official / "xstest/xstest_prompts.csv"])) == 450


def test_tau_bench(official: Path, tmp_path: Path) -> None:
    data = json.loads((official / "tau_bench/pass_hat.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(data["rewards"]))
    found = tau_bench.pass_hat(tau_bench.read_results(tmp_path / "results.json"))
    assert {str(k): value for k, value in found.items()} == pytest.approx(data["pass_hat_k"])


def test_unbiased_pass_at_k(official: Path) -> None:
    for case in json.loads((official / "passk/cases_sample.json").read_text()):
        if case["k"] <= case["n"]:
            assert pass_at_k(case["n"], case["c"], case["k"]) == pytest.approx(case["pass_at_k"], abs=1e-12)
