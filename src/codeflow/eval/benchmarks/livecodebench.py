"""LiveCodeBench (Jain et al. 2024, github.com/LiveCodeBench/LiveCodeBench, MIT): contest problems with hidden tests.

Reads the official `test*.jsonl` of code_generation_lite; hidden tests, which come pickled there, are read without
unpickling. The official rule: a program passes when all tests do. Programs that read standard input are run as a
function, once for each test; outputs are compared line by line, stripped, lines that differ as decimals (6.0 is 6;
0.3000001 is not 0.3). Functions get their arguments as JSON; a tuple equals a list at the top only, and True equals 1.
Expected outputs stay outside the sandbox. No packages beside the standard library are there for a program.
"""

from __future__ import annotations

import base64
import json
import pickletools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from codeflow.core.errors import UserError
from codeflow.eval.benchmark import Attempt, Benchmark, BenchmarkFile, Judgement, Problem, Sampling, read_rows
from codeflow.eval.program_checks import judged
from codeflow.eval.python_run import Job, Report, arguments, run_jobs
from codeflow.eval.task_metrics import mean, pass_at
from codeflow.sandbox.policy import MIB
from codeflow.solve.plain import from_tree
from codeflow.tokens.chat import Message

FILE = BenchmarkFile(
    "livecodebench", "livecodebench", "huggingface.co/datasets/livecodebench/code_generation_lite", "CC"
)
SECONDS = 6.0  # the official limit of one test
_MEMORY_BYTES = 4096 * MIB
_FIELDS = {"question_id": str, "question_content": str, "public_test_cases": str, "private_test_cases": str}
_MODULES = "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys"
IMPORTS = "".join(
    [
        *(f"from {name} import *\n" for name in (*_MODULES.split(), "json", "builtins", "typing")),
        *(f"import {name}\n" for name in (*_MODULES.split(), "json")),
        "sys.setrecursionlimit(50000)\n",
    ]
)
_SYSTEM = (
    "You are an expert Python programmer. You write a correct program that solves the problem and passes all tests."
)
_ASK_INPUT = (
    "Read the input from standard input and write the answer to standard output. Answer with one block of code."
)
_ASK_FUNCTION = "Complete this code. Answer with the whole of it in one block of code.\n\n```python\n{starter}\n```"


@dataclass(frozen=True, slots=True)
class Tests:
    """Tests of a problem. `function` is None for programs that read standard input."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    function: str | None


def _problems(paths: Sequence[Path]) -> list[Problem]:
    files = sorted(paths[0].glob("test*.jsonl"), key=lambda path: (len(path.name), path.name))
    if not files:
        raise UserError(f"{paths[0]} holds no test*.jsonl; get them from {FILE.source} ({FILE.licence})")
    found: list[Problem] = []
    for row in (row for path in files for row in read_rows(path, _FIELDS, "LiveCodeBench")):
        cases = [*json.loads(row["public_test_cases"]), *hidden_tests(row["private_test_cases"])]
        function = json.loads(row.get("metadata") or "{}").get("func_name")
        starter = row.get("starter_code") or ""
        ask = _ASK_FUNCTION.format(starter=starter) if starter else _ASK_INPUT
        tests = Tests(tuple(c["input"] for c in cases), tuple(c["output"] for c in cases), function)
        messages = (Message("system", _SYSTEM), Message("user", f"{row['question_content']}\n\n{ask}"))
        month = str(row.get("contest_date", ""))[:7]
        subsets = tuple(name for name in (row.get("difficulty"), row.get("platform"), month) if name)
        found.append(Problem(f"livecodebench/{row['question_id']}", messages, "", None, {"tests": tests}, subsets))
    return found


def hidden_tests(text: str) -> list[dict[str, str]]:
    """Return the hidden tests: JSON, or base64 of zlib of a pickle that holds one text of JSON.

    The pickle's instructions are looked at and never carried out. Raises UserError when it holds anything else.
    """
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        texts: list[str] = []
        for operation, argument, _ in pickletools.genops(zlib.decompress(base64.b64decode(text))):
            if "UNICODE" in operation.name:
                texts.append(str(argument))
            elif operation.name not in ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP"):
                raise ValueError(f"unexpected {operation.name}")
        (content,) = texts
        return json.loads(content)
    except (ValueError, zlib.error) as error:
        raise UserError(f"hidden tests cannot be read ({error}); get the official files again") from None


def program_of(output: str) -> str:
    """Return the last block of code in an answer, "" without one (the official rule)."""
    lines = output.split("\n")
    fences = [number for number, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) > 1 else ""


def job(tests: Tests, program: str) -> Job:
    """Return the run of a program on all inputs."""
    n = len(tests.inputs)
    if tests.function is None:
        inputs = list(tests.inputs)
        return Job.of("stdin", SECONDS, n, _MEMORY_BYTES, program=program, imports=IMPORTS, inputs=inputs)
    calls = [arguments([json.loads(line) for line in text.split("\n")]) for text in tests.inputs]
    return Job.of(
        "calls",
        SECONDS,
        n,
        _MEMORY_BYTES,
        program=f"{IMPORTS}\n\n{program}",
        entry_point=tests.function,
        solution_class="class Solution" in program,
        inputs=calls,
        stop_at_error=True,
    )


def results(tests: Tests, report: Report) -> list[bool | int]:
    """Return the official list of results: True, then -2 (wrong), -3 (time) or -4 (error) for the first that is not."""
    found: list[bool | int] = []
    for number, expected in enumerate(tests.outputs):
        line = report.lines[number] if number < len(report.lines) else None
        line = line if isinstance(line, list) and line else [""]
        kind, said = line[0], line[-1]
        if kind in ("output", "value", "object"):
            right = same_output(said, expected) if kind == "output" else same_value(said, expected)
            found.append(True if right else -2)
        elif kind == "time" or (not kind and report.status == "time"):
            found.append(-3)
        else:
            found.append(-4)
        if found[-1] is not True:
            break
    return found


def same_output(printed: Any, expected: str) -> bool:
    """Compare what was printed with what should have been, by the official rule."""
    if not isinstance(printed, str):
        return False
    left, right = ([line.strip() for line in text.strip().split("\n")] for text in (printed, expected))
    return len(left) == len(right) and all(
        one == other or _same_decimals(one, other) for one, other in zip(left, right, strict=True)
    )


def _same_decimals(left: str, right: str) -> bool:
    try:
        return [Decimal(word) for word in left.split()] == [Decimal(word) for word in right.split()]
    except (InvalidOperation, ValueError):
        return False


def same_value(tree: Any, expected: str) -> bool:
    """Compare a function's value, a tree of `solve.plain`, with the expected one as JSON."""
    try:
        value = from_tree(tree)
        return (list(value) if isinstance(value, tuple) else value) == json.loads(expected)
    except (ValueError, TypeError, IndexError, RecursionError):
        return False


def judge_programs(pairs: Sequence[tuple[Tests, str]], at_once: int) -> list[Judgement]:
    """Judge programs (`tests_passed`: the share). Raises InfrastructureError when no sandbox works here."""
    reports = run_jobs([job(tests, program) for tests, program in pairs], at_once)
    found: list[Judgement] = []
    names = {-2: "wrong answer", -3: "time limit exceeded", -4: "runtime error"}
    for (tests, _), report in zip(pairs, reports, strict=True):
        scores = results(tests, report)
        n_right = sum(score is True for score in scores)
        passed = n_right == len(tests.inputs)
        reason = f"test {len(scores)}: {names.get(scores[-1], '')}" if scores else "no test"
        found.append(judged(report, passed, reason, tests_passed=n_right / max(len(tests.inputs), 1)))
    return found


def _judge(attempts: Sequence[Attempt], at_once: int) -> list[Judgement]:
    return judge_programs([(one.problem.data["tests"], program_of(one.output)) for one in attempts], at_once)


BENCHMARK = Benchmark(
    name="livecodebench",
    files=(FILE,),
    scorer="livecodebench-official-1",
    sampling=Sampling(temperature=0.6, top_p=0.95, samples=1, max_new_tokens=4096),
    metrics=(pass_at(1), pass_at(5), mean("tests_passed")),
    load=_problems,
    judge=_judge,
)
