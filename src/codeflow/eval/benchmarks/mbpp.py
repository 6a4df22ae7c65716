"""MBPP (Austin et al. 2021, github.com/google-research/google-research, CC-BY-4.0): short Python tasks.

Reads `mbpp.jsonl` (tasks 11 to 510 are the test split) or `sanitized-mbpp.json`, both official. A program passes when
its three assertions hold. A base model is shown the three examples of the paper's prompt, tasks 2, 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codeflow.core.errors import UserError
from codeflow.eval.benchmark import Attempt, Benchmark, BenchmarkFile, Judgement, Problem, Sampling, read_rows
from codeflow.eval.program_checks import check_programs, code_in, cut_at
from codeflow.eval.task_metrics import pass_at
from codeflow.tokens.chat import Message

FILE = BenchmarkFile("mbpp", "mbpp/mbpp.jsonl", "github.com/google-research/google-research, folder mbpp", "CC-BY-4.0")
SECONDS = 3.0
_TEST_IDS, _SHOT_IDS = range(11, 511), (2, 3, 4)
_ASK = (
    "You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n{tests}"
)
_FIELDS = {"task_id": int, "code": str, "test_list": list}


def _task(row: dict[str, Any]) -> str:
    tests = "\n".join(row["test_list"])
    text = row.get("text") or row.get("prompt") or ""
    return _ASK.format(text=text, tests=tests)


def _problems(paths: Sequence[Path]) -> list[Problem]:
    rows = {row["task_id"]: row for row in read_rows(paths[0], _FIELDS, "MBPP")}
    chosen = [row for number, row in sorted(rows.items()) if number in _TEST_IDS]
    if not chosen:
        raise UserError(f"{paths[0]} holds none of the tasks 11 to 510; get the official file of MBPP again")
    shots = "".join(
        f"{_task(rows[number])}\n[BEGIN]\n{rows[number]['code'].rstrip()}\n[DONE]\n\n"
        for number in _SHOT_IDS
        if number in rows
    )
    return [
        Problem(
            f"MBPP/{row['task_id']}",
            (Message("user", f"{_task(row)}\n\nAnswer with one block of Python code."),),
            f"{shots}{_task(row)}\n[BEGIN]\n",
            row["code"],
            {"tests": row["test_list"], "setup": row.get("test_setup_code") or "\n".join(row.get("test_imports", ()))},
            stop=("[DONE]",),
        )
        for row in chosen
    ]


def _judge(attempts: Sequence[Attempt], at_once: int) -> list[Judgement]:
    programs: list[str] = []
    for attempt in attempts:
        data = attempt.problem.data
        code = code_in(attempt.output) if attempt.style == "chat" else cut_at(attempt.output, attempt.problem.stop)
        programs.append("\n".join([data["setup"], code, *data["tests"]]))
    return check_programs(programs, SECONDS, at_once)


BENCHMARK = Benchmark(
    name="mbpp",
    files=(FILE,),
    scorer="mbpp-official-1",
    sampling=Sampling(temperature=0.0, max_new_tokens=512),
    metrics=(pass_at(1), pass_at(10), pass_at(80)),
    load=_problems,
    judge=_judge,
)
