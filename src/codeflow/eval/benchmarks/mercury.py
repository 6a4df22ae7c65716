"""Mercury (Du et al. 2024, github.com/Elfsong/Mercury, CC-BY-NC-4.0): correct programs, and how fast they are.

Reads the official rows (`mercury/eval.jsonl`, JSON lines of the data set's `eval` split). A solution runs all cases
with the benchmark's own converter and judge; Beyond is where its time lies in the range of the reference solutions'
times, all measured here, one after the other. Quirk kept: the distance to the slowest is clipped at one second, not at
the whole range, so that Beyond can exceed 1; `beyond_clipped` is the strict variant. No packages are there: solutions
that need `sortedcontainers` fail, also among the references, which then do not count. Times are taken beside the
candidate, by a clock it was not given; one written against this harness could still find and forge it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from codeflow.eval.benchmark import Attempt, Benchmark, BenchmarkFile, Judgement, Problem, Sampling, read_rows
from codeflow.eval.program_checks import code_in, judged
from codeflow.eval.python_run import Job, Report, run_jobs
from codeflow.eval.task_metrics import mean, pass_at
from codeflow.tokens.chat import Message

FILE = BenchmarkFile("mercury", "mercury/eval.jsonl", "huggingface.co/datasets/Elfsong/Mercury", "CC-BY-NC-4.0")
SECONDS = 30.0  # the official limit
_CLIP_SECONDS = 1.0
_FIELDS = {"slug_name": str, "prompt": str, "entry_point": str, "convert_offline": str, "evaluate_offline": str}
IMPORTS = """import re, itertools, collections, heapq, bisect, string, sys, functools, math, copy
from math import floor, ceil, factorial, sqrt, inf
from sys import maxsize, stdin
from bisect import bisect_left, bisect_right
from itertools import permutations, zip_longest
from heapq import heappush, heappop, heapify
from collections import deque, defaultdict, OrderedDict
from typing import List, Optional, Tuple
from functools import lru_cache, cache

class ListNode(object):
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next

class TreeNode(object):
    def __init__(self, val=0, left=None, right=None):
        self.val = val
        self.left = left
        self.right = right
"""
_ASK = "Solve this problem with fast Python. Answer with one block of code.\n\n{content}\n\n```python\n{prompt}\n```"


def beyond(seconds: float | None, references: Sequence[float]) -> float:
    """Return the official Beyond of one run (None: not passed) among the reference solutions' times.

    Raises ValueError without two different reference times, where there is no range.
    """
    fastest, slowest = min(references, default=0.0), max(references, default=0.0)
    if fastest == slowest:
        raise ValueError("needs two reference times that differ")
    gained = slowest - seconds if seconds is not None else 0.0
    return max(min(gained, _CLIP_SECONDS), 0.0) / (slowest - fastest)


def _problems(paths: Sequence[Path]) -> list[Problem]:
    found: list[Problem] = []
    for row in read_rows(paths[0], _FIELDS, "Mercury"):
        content = row.get("pretty_content") or ""
        ask = _ASK.format(content=content[0] if isinstance(content, list) else content, prompt=row["prompt"])
        cases = json.loads(row["test_cases"]) if isinstance(row["test_cases"], str) else row["test_cases"]
        solutions = [one["solution"] if isinstance(one, dict) else one for one in row["solutions"]]
        gold = f"```python\n{solutions[0]}\n```" if solutions else None
        data = {**row, "cases": cases, "solutions": solutions}
        subsets = (row["difficulty"],) if row.get("difficulty") else ()
        found.append(Problem(f"mercury/{row['slug_name']}", (Message("user", ask),), "", gold, data, subsets))
    return found


def job(data: Mapping[str, Any], program: str) -> Job:
    """Return the timed run of a program on a problem's cases."""
    cases = [(case["input"], case["expected"]) for case in data["cases"]]
    return Job.of(
        "timed",
        SECONDS,
        1,
        program=program,
        imports=IMPORTS,
        convert=data["convert_offline"],
        evaluate=data["evaluate_offline"],
        entry_point=data["entry_point"],
        cases=cases,
    )


def _time(report: Report) -> float | None:
    """Return the seconds of a run that passed."""
    for line in report.lines:
        if line[0] == "timed" and line[1] == "passed":
            return float(line[2])
    return None


@functools.lru_cache(maxsize=4096)
def _reference_seconds(jobs: tuple[Job, ...]) -> tuple[float, ...]:
    reports = run_jobs(jobs, 1)  # one after the other: neighbours would be in each other's times
    return tuple(sorted(seconds for report in reports if (seconds := _time(report)) is not None))


def _judge(attempts: Sequence[Attempt], _: int) -> list[Judgement]:
    found: list[Judgement] = []
    for attempt in attempts:
        data = attempt.problem.data
        report = run_jobs([job(data, code_in(attempt.output, "class Solution"))], 1)[0]
        seconds = _time(report)
        status = next((line[1] for line in report.lines if line[0] == "timed"), "timeout")
        judgement = judged(report, seconds is not None, status)
        references = _reference_seconds(tuple(job(data, program) for program in data["solutions"]))
        if judgement.fault != "infrastructure" and len(set(references)) > 1:
            value = beyond(seconds, references)
            judgement = replace(judgement, values={"beyond": value, "beyond_clipped": min(value, 1.0)})
        found.append(judgement)
    return found


BENCHMARK = Benchmark(
    name="mercury",
    files=(FILE,),
    scorer="mercury-official-1",
    sampling=Sampling(temperature=0.2, top_p=0.85, max_new_tokens=1024),
    metrics=(pass_at(1), mean("beyond"), mean("beyond_clipped")),
    load=_problems,
    judge=_judge,
)
