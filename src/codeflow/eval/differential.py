"""EvalPlus' rule (Liu et al. 2023, github.com/evalplus/evalplus, Apache-2.0): outputs like the reference solution's.

The reference solution and the candidate are called on the same inputs, each in a sandbox of its own; their outputs are
compared here, so that nothing a candidate does can make a wrong output right. Floats may differ by 1e-7 of the value
and the problem's tolerance (1e-6 where it is 0). Problems whose answer is not unique have rules of their own, by name.
Only values of plain types leave the sandbox; anything else equals nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from codeflow.eval.benchmark import Judgement
from codeflow.eval.program_checks import judged
from codeflow.eval.python_run import Job, Report, arguments, run_jobs
from codeflow.sandbox.policy import MIB
from codeflow.solve.plain import from_tree

SECONDS = 4.0  # of one call, the official least
_MEMORY_BYTES = 4096 * MIB
_RELATIVE, _ABSOLUTE = 1e-7, 1e-6
_AS_SETS = (
    *("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly"),
    *("larg_nnum", "intersection_array", "find_dissimilar", "Diff"),
)
_NOT_NONE = ("check_str", "text_match_three", "text_starta_endb")  # what counts is whether something is found


@dataclass(frozen=True)
class Reference:
    """A problem as the official files give it: reference program, function, inputs of both kinds, tolerance."""

    program: str
    entry_point: str
    base_inputs: tuple[tuple[Any, ...], ...]
    plus_inputs: tuple[tuple[Any, ...], ...]
    tolerance: float


def judge_outputs(pairs: Sequence[tuple[Reference, str]], at_once: int) -> list[Judgement]:
    """Judge programs on all inputs; the value `base` says whether the original ones alone are right.

    A problem whose reference solution fails here is an infrastructure fault: it says nothing about the candidate.
    Raises InfrastructureError when no sandbox works here.
    """
    mine = run_jobs([_job(reference, program) for reference, program in pairs], at_once)
    unique = list({id(reference): reference for reference, _ in pairs}.values())
    gold = dict(zip(map(id, unique), _golds(unique, at_once), strict=True))
    found: list[Judgement] = []
    for (reference, _), report in zip(pairs, mine, strict=True):
        wanted = gold[id(reference)]
        if wanted is None:
            reason = "the reference solution fails here"
            found.append(Judgement(False, reason, "infrastructure", {}, report.status, report.backend))
            continue
        n, base = _n_right(reference, report, wanted), len(reference.base_inputs)
        reason = f"input {n + 1}: {_said(report, n)}"
        found.append(judged(report, n == len(wanted), reason, base=float(n >= base)))
    return found


def _golds(references: Sequence[Reference], at_once: int) -> list[list[Any] | None]:
    reports = run_jobs([_job(reference, reference.program) for reference in references], at_once)
    found: list[list[Any] | None] = []
    for reference, report in zip(references, reports, strict=True):
        values = [_value(line) for line in report.lines if line[0] in ("value", "object")]
        complete = len(values) == len(reference.base_inputs) + len(reference.plus_inputs)
        found.append(values if complete else None)
    return found


def _job(reference: Reference, program: str) -> Job:
    inputs = [*reference.base_inputs, *reference.plus_inputs]
    return Job.of(
        "calls",
        SECONDS,
        len(inputs),
        _MEMORY_BYTES,
        program=program,
        entry_point=reference.entry_point,
        solution_class=False,
        inputs=[arguments(values) for values in inputs],
        stop_at_error=True,
    )


def _n_right(reference: Reference, report: Report, wanted: Sequence[Any]) -> int:
    """Return how many outputs are right before the first that is not."""
    inputs = (*reference.base_inputs, *reference.plus_inputs)
    for number, (given, expected) in enumerate(zip(inputs, wanted, strict=True)):
        line = report.lines[number] if number < len(report.lines) else None
        if not isinstance(line, list) or len(line) != 2 or line[0] not in ("value", "object"):
            return number
        try:
            right = same_output(reference.entry_point, given, _value(line), expected, reference.tolerance)
        except (ValueError, TypeError, IndexError, OverflowError, RecursionError):
            right = False
        if not right:
            return number
    return len(wanted)


def _value(line: Sequence[Any]) -> Any:
    """Return a reported value; one that is not plain is an object that equals nothing."""
    return from_tree(line[1]) if line[0] == "value" else object()


def _said(report: Report, number: int) -> str:
    line = report.lines[number] if number < len(report.lines) else None
    return "wrong output" if isinstance(line, list) and line[0] in ("value", "object") else report.problem()


def same_output(entry_point: str, given: Sequence[Any], value: Any, expected: Any, tolerance: float) -> bool:
    """Compare an output with the reference's by the official rule. Raises TypeError where that would fail so."""
    if entry_point == "find_zero":
        return abs(sum(factor * math.pow(value, power) for power, factor in enumerate(given[0]))) <= tolerance
    if entry_point in _AS_SETS:
        equal = set(value) == set(expected)
    elif entry_point in _NOT_NONE:
        equal = (value if isinstance(value, bool) else value is not None) == (expected is not None)
    else:
        special = _SPECIAL.get(entry_point)
        equal = value == expected or (special is not None and special(value, given, tolerance))
    tolerance = tolerance or (_ABSOLUTE if _is_floats(expected) else 0.0)
    if equal or tolerance == 0:
        return bool(equal)
    return type(value) is type(expected) and _close(value, expected, tolerance)


def _is_floats(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _close(value: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(expected, list | tuple):
        return len(value) == len(expected) and all(map(functools.partial(_close, tolerance=tolerance), value, expected))
    return value == expected or abs(value - expected) <= tolerance + _RELATIVE * abs(expected)


def _surface(value: Any, given: Sequence[Any], tolerance: float) -> bool:
    base, height = given
    return abs(value - round(base**2 + 2 * base * math.sqrt((base / 2) ** 2 + height**2))) <= tolerance


def _digits(value: Any, given: Sequence[Any], _: float) -> bool:
    width = max(len(str(number)) for number in given)
    left, right = (str(number).zfill(width) for number in given)
    return value == sum(abs(int(one) - int(other)) for one, other in zip(left, right, strict=True))


_SPECIAL: dict[str, Callable[[Any, Sequence[Any], float], bool]] = {
    "are_equivalent": lambda value, given, tolerance: True,
    "sum_div": lambda value, given, tolerance: value == 0,
    "surface_Area": _surface,
    "digit_distance_nums": _digits,
}
