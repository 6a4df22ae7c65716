"""CRUXEval (Gu et al. 2024, github.com/facebookresearch/cruxeval, MIT): predict a function's output, or an input.

The official rule: `assert OUTPUT == ANSWER` after the function's code runs to its end, where the answer is a literal
(output mode) or a call `f(...)` (input mode). Quirks kept: an answer without `f(` (input mode) or that repeats the call
(output mode) is left out, which changes n, unless no answer to the problem is right: then all count as wrong. `pass@k`
follows that; `strict_pass@k` counts every answer, and takes nothing but a literal (output) or one call (input).

In output mode answers that are literals are compared here, without a run.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from codeflow.eval.benchmark import CRUXEVAL, Attempt, Benchmark, Judgement, Metric, Problem, Sampling, read_rows
from codeflow.eval.metrics import Share, pass_at_k
from codeflow.eval.program_checks import check_programs
from codeflow.eval.task_metrics import pass_at
from codeflow.tokens.chat import Message

NAME = "cruxeval"
SECONDS = 3.0  # the official limit
_FIELDS = ("id", "code", "input", "output")
Mode = Literal["input", "output"]

_ASK_OUTPUT = """What does this assertion compare with? Follow the code step by step, even where it is wrong, then \
give the whole assertion with a literal in place of `??` between [ANSWER] and [/ANSWER].

```python
{code}

assert f({input}) == ??
```"""
_ASK_INPUT = """Find arguments with which this assertion holds; any will do. Work backwards step by step, then give \
the whole assertion with the call completed between [ANSWER] and [/ANSWER].

```python
{code}

assert f(??) == {output}
```"""


@dataclass(frozen=True, slots=True)
class CruxRow:
    """One of the 800 problems, fields as in the official file."""

    id: str
    code: str
    input: str
    output: str


def load(path: Path) -> list[CruxRow]:
    """Read the official file. Raises UserError naming the row when it is not in the official format."""
    rows = read_rows(path, dict.fromkeys(_FIELDS, str), "CRUXEval")
    return [CruxRow(**{field: row[field] for field in _FIELDS}) for row in rows]


def _problems(paths: Sequence[Path], mode: Mode) -> list[Problem]:
    found: list[Problem] = []
    for row in load(paths[0]):
        fields = {"code": row.code, "input": row.input, "output": row.output}
        ask = (_ASK_OUTPUT if mode == "output" else _ASK_INPUT).format(**fields)
        found.append(
            Problem(
                f"CRUXEval-{mode[0].upper()}/{row.id}",
                (Message("user", ask),),
                f"{row.code}\n\nassert f({row.input}) == " if mode == "output" else "",
                f"[ANSWER]assert f({row.input}) == {row.output}[/ANSWER]",
                {**fields, "mode": mode},
                stop=("\n",),
            )
        )
    return found


def answer_of(attempt: Attempt) -> str:
    """Return the literal or the call in an output, as the official readers cut it."""
    text = attempt.output
    if attempt.style == "text":
        return text.split("\n")[0].strip()
    if "[ANSWER]" in text:
        text = text.split("[ANSWER]")[-1]
    text = text.split("[/ANSWER]")[0].strip().removeprefix("assert ").strip()
    if attempt.problem.data["mode"] == "output":
        return text.split("==", 1)[1].strip() if "==" in text else text
    return text.rpartition("==")[0].strip() if "==" in text else text


def judge_answers(rows: Sequence[tuple[CruxRow, str]], mode: Mode, at_once: int) -> list[Judgement]:
    """Judge answers (`values`: `valid`, `strict`). Raises InfrastructureError when no sandbox works here."""
    found: list[Judgement | None] = [_at_sight(row, answer, mode) for row, answer in rows]
    waiting = [number for number, judgement in enumerate(found) if judgement is None]
    programs = [f"{rows[i][0].code}\nassert {rows[i][0].output} == {rows[i][1]}" for i in waiting]
    for number, judgement in zip(waiting, check_programs(programs, SECONDS, at_once), strict=True):
        strict = judgement.passed and mode == "input" and _is_one_call(rows[number][1])
        values = {"valid": 1.0, "strict": float(strict)}
        found[number] = Judgement(
            judgement.passed, judgement.reason, judgement.fault, values, judgement.sandbox, judgement.backend
        )
    return [judgement for judgement in found if judgement is not None]


def _at_sight(row: CruxRow, answer: str, mode: Mode) -> Judgement | None:
    """Return the judgement that needs no run, or None."""
    if ("f(" not in answer) if mode == "input" else (f"f({row.input})" in answer):
        return Judgement.of(False, "not an answer", valid=0.0, strict=0.0)
    if mode == "input":
        return None
    try:
        (statement,) = ast.parse(f"assert {row.output} == {answer}").body
        assert isinstance(statement, ast.Assert)
        test = statement.test
        if statement.msg or not isinstance(test, ast.Compare) or len(test.comparators) != 1:
            return None
        same = ast.literal_eval(test.left) == ast.literal_eval(test.comparators[0])
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return Judgement.of(same, "wrong value", valid=1.0, strict=float(same))


def _is_one_call(answer: str) -> bool:
    try:
        call: Any = ast.parse(answer, mode="eval").body
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "f":
            return False
        for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
            ast.literal_eval(argument)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return False
    return True


def official_scores(samples: Sequence[Judgement]) -> list[bool]:
    """Return the scores of one problem's answers as the official scorer lists them."""
    scores = [one.passed for one in samples if one.values["valid"]]
    return scores if any(scores) else [False] * len(samples)


def _official(k: int) -> Metric:
    def share(samples: Sequence[Judgement]) -> Share | None:
        scores = official_scores(samples)
        return Share(pass_at_k(len(scores), sum(scores), k), 1.0) if len(scores) >= k else None

    return Metric(f"pass@{k}", share)


def _benchmark(mode: Mode) -> Benchmark:
    def judge(attempts: Sequence[Attempt], at_once: int) -> list[Judgement]:
        rows: list[tuple[CruxRow, str]] = []
        for attempt in attempts:
            data = attempt.problem.data
            rows.append((CruxRow(attempt.problem.id, data["code"], data["input"], data["output"]), answer_of(attempt)))
        return judge_answers(rows, mode, at_once)

    return Benchmark(
        name=f"{NAME}_{mode}",
        files=(CRUXEVAL,),
        scorer="cruxeval-official-1",
        sampling=Sampling(temperature=0.0, max_new_tokens=1024),
        metrics=(_official(1), _official(5), pass_at(1, "strict")),
        load=lambda paths: _problems(paths, mode),
        judge=judge,
    )


BENCHMARKS = (_benchmark("output"), _benchmark("input"))
