"""HumanEval+ and MBPP+ (Liu et al. 2023, github.com/evalplus/evalplus, Apache-2.0): the same tasks, many more inputs.

Reads the official `HumanEvalPlus.jsonl` and `MbppPlus.jsonl`. `pass@1` needs all inputs, `base_pass@1` the original
ones. Arguments that JSON cannot hold (tuples, sets, complex numbers) are made of its lists for the tasks that
need them, as officially. The rule is in `differential.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from codeflow.eval.benchmark import Attempt, Benchmark, BenchmarkFile, Judgement, Problem, Sampling, read_rows
from codeflow.eval.differential import Reference, judge_outputs
from codeflow.eval.program_checks import code_in, cut_at, program_in
from codeflow.eval.task_metrics import pass_at
from codeflow.tokens.chat import Message

_SOURCE, _LICENCE = "github.com/evalplus/humanevalplus_release and mbppplus_release", "Apache-2.0"
FILES = {
    "humaneval": BenchmarkFile("humaneval_plus", "humaneval_plus/HumanEvalPlus.jsonl", _SOURCE, _LICENCE),
    "mbpp": BenchmarkFile("mbpp_plus", "mbpp_plus/MbppPlus.jsonl", _SOURCE, _LICENCE),
}
Which = Literal["humaneval", "mbpp"]
_FIELDS = {"task_id": str, "prompt": str, "entry_point": str, "canonical_solution": str, "base_input": list}
_STOP = {"humaneval": ("\nclass", "\ndef", "\n#", "\nif", "\nprint"), "mbpp": ('\n"""', "\nassert")}
_ASK = "Complete this Python task. Answer with the whole function in one block of code.\n\n```python\n{prompt}```"

# Which arguments of MBPP+ are tuples (or sets, complex numbers) although JSON has lists: numbers of tasks, by shape.
_TUPLES = (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809)
_LISTS_OF_TUPLES = (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780)
_FIRST_LIST_OF_TUPLES, _SECOND_TUPLE = (75, 413, 444, 753), (106, 750)
_FIRST_TUPLE, _TUPLES_OF_TUPLES = (250, 307, 405, 446, 617, 720, 763, 808), (259, 278, 401, 445)
_ALL_TUPLES = (580, 615, 791)


def _deep(value: Any) -> Any:
    return tuple(_deep(item) for item in value) if isinstance(value, list) else value


def mbpp_arguments(number: int, given: list[Any]) -> tuple[Any, ...]:
    """Return one call's arguments of an MBPP+ task with the types that its program expects."""
    first: Any = given[0] if given else None
    rest = given[1:]
    if number in _TUPLES:
        return tuple(tuple(one) for one in given)
    if number in _LISTS_OF_TUPLES:
        return tuple([tuple(one) for one in argument] for argument in given)
    if number in _FIRST_LIST_OF_TUPLES:
        return ([tuple(one) for one in first], *rest)
    if number in _SECOND_TUPLE:
        return (first, tuple(given[1]))
    if number in _FIRST_TUPLE:
        return (tuple(first), *rest)
    if number in _TUPLES_OF_TUPLES:
        return tuple(tuple(tuple(one) if isinstance(one, list) else one for one in argument) for argument in given)
    if number in _ALL_TUPLES:
        return _deep(given)
    match number:
        case 115:
            return ([set(one) if isinstance(one, list) and one else {} for one in first],)
        case 124:
            return (float(first), complex(given[1]))
        case 252:
            return (complex(first),)
        case 722:
            return ({key: tuple(value) for key, value in first.items()}, *rest)
    return tuple(given)


def _problems(paths: Sequence[Path], which: Which) -> list[Problem]:
    found: list[Problem] = []
    for row in read_rows(paths[0], _FIELDS, "EvalPlus"):
        number = int(row["task_id"].rpartition("/")[2])

        def calls(key: str, row: dict[str, Any] = row, number: int = number) -> tuple[tuple[Any, ...], ...]:
            inputs = row.get(key) or []
            return tuple(mbpp_arguments(number, one) if which == "mbpp" else tuple(one) for one in inputs)

        program = row["prompt"] + row["canonical_solution"]
        reference = Reference(
            program, row["entry_point"], calls("base_input"), calls("plus_input"), row.get("atol") or 0
        )
        found.append(
            Problem(
                row["task_id"],
                (Message("user", _ASK.format(prompt=row["prompt"])),),
                row["prompt"],
                f"```python\n{program}\n```",
                {"prompt": row["prompt"], "reference": reference, "which": which},
                stop=_STOP[which],
            )
        )
    return found


def _program(attempt: Attempt) -> str:
    data = attempt.problem.data
    if attempt.style == "text":
        return data["prompt"] + cut_at(attempt.output, attempt.problem.stop)
    if data["which"] == "mbpp":
        return code_in(attempt.output, f"def {data['reference'].entry_point}(")
    return program_in(attempt.output, data["prompt"], data["reference"].entry_point)


def _judge(attempts: Sequence[Attempt], at_once: int) -> list[Judgement]:
    return judge_outputs([(one.problem.data["reference"], _program(one)) for one in attempts], at_once)


def _benchmark(which: Which) -> Benchmark:
    return Benchmark(
        name=f"{which}_plus",
        files=(FILES[which],),
        scorer="evalplus-official-1",
        sampling=Sampling(temperature=0.0, max_new_tokens=768),
        metrics=(pass_at(1), pass_at(1, "base"), pass_at(10)),
        load=lambda paths: _problems(paths, which),
        judge=_judge,
    )


BENCHMARKS = (_benchmark("humaneval"), _benchmark("mbpp"))
