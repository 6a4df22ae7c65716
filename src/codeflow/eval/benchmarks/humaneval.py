"""HumanEval (Chen et al. 2021, github.com/openai/human-eval, MIT): complete a Python function from its docstring.

The file is the official `HumanEval.jsonl.gz`; it is not part of this project. A completion passes when the program
`prompt + completion + test + check(entry_point)` runs to its end, as the official rule says. A chat model is asked for
the whole function; what stands before it in the prompt (imports, given functions) is put before its answer.

The official tests run beside the candidate. Residual risk: a program written against this very harness can find the
token by walking frames, and objects with a lying `__eq__` pass, as they do by the official rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codeflow.eval.benchmark import HUMANEVAL, Attempt, Benchmark, Judgement, Problem, Sampling, read_rows
from codeflow.eval.program_checks import check_programs, cut_at, program_in
from codeflow.eval.task_metrics import pass_at
from codeflow.tokens.chat import Message

NAME = "humaneval"
STOP_TEXTS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # those of the paper
SECONDS = 3.0  # the official limit
_FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
_ASK = "Complete this Python function. Answer with the whole function in one block of code.\n\n```python\n{prompt}```"


@dataclass(frozen=True, slots=True)
class HumanEvalRow:
    """One of the 164 problems, fields as in the official file."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


def load(path: Path) -> list[HumanEvalRow]:
    """Read the official file. Raises UserError naming the row when it is not in the official format."""
    rows = read_rows(path, dict.fromkeys(_FIELDS, str), "HumanEval")
    return [HumanEvalRow(**{field: row[field] for field in _FIELDS}) for row in rows]


def _problems(paths: Sequence[Path]) -> list[Problem]:
    return [
        Problem(
            row.task_id,
            (Message("user", _ASK.format(prompt=row.prompt)),),
            row.prompt,
            row.canonical_solution,
            {"prompt": row.prompt, "test": row.test, "entry_point": row.entry_point},
            stop=STOP_TEXTS,
        )
        for row in load(paths[0])
    ]


def solution(attempt: Attempt) -> str:
    """Return the program that an attempt gives: the completed prompt."""
    data = attempt.problem.data
    if attempt.style == "chat":
        return program_in(attempt.output, data["prompt"], data["entry_point"])
    return data["prompt"] + cut_at(attempt.output, STOP_TEXTS)


def _judge(attempts: Sequence[Attempt], at_once: int) -> list[Judgement]:
    programs = [
        f"{solution(attempt)}\n{attempt.problem.data['test']}\ncheck({attempt.problem.data['entry_point']})"
        for attempt in attempts
    ]
    return check_programs(programs, SECONDS, at_once)


BENCHMARK = Benchmark(
    name=NAME,
    files=(HUMANEVAL,),
    scorer="humaneval-official-2",
    sampling=Sampling(temperature=0.0, max_new_tokens=768),
    metrics=(pass_at(1), pass_at(10), pass_at(100)),
    load=_problems,
    judge=_judge,
)
