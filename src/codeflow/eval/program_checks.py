"""Programs in what a model wrote, and verdicts on programs that carry their own tests."""

from __future__ import annotations

import re
from collections.abc import Sequence

from codeflow.eval.benchmark import Judgement
from codeflow.eval.python_run import Job, Report, run_jobs

_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_ADDRESS = re.compile(r"0x[0-9a-f]{4,}")  # of an object in an error's text: differs from run to run


def cut_at(text: str, stops: Sequence[str]) -> str:
    """Return `text` up to the first of the stop texts."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def code_in(text: str, wanted: str = "") -> str:
    """Return the first block of code, or the first that holds `wanted`; the whole text where there is no block."""
    blocks = _FENCE.findall(text)
    fitting = [block for block in blocks if wanted in block] or blocks
    return fitting[0] if fitting else text


def program_in(text: str, prompt: str, entry_point: str) -> str:
    """Return the program in an answer to `prompt`: a whole function with what the prompt gives before it, or a body."""
    header = f"def {entry_point}("
    code = code_in(text, header)
    return prompt.partition(header)[0] + code if header in code else prompt + code


def check_programs(programs: Sequence[str], seconds: float, at_once: int) -> list[Judgement]:
    """Judge programs that pass when they run to their end within `seconds`.

    Raises InfrastructureError when no sandbox works here.
    """
    jobs = [Job.of("program", seconds, 1, program=program) for program in programs]
    return [judged(report, report.passed) for report in run_jobs(jobs, at_once)]


def judged(report: Report, passed: bool, reason: str = "", **values: float) -> Judgement:
    """Return the judgement that rests on a run; infrastructure faults are kept apart."""
    if report.fault:
        return Judgement(False, report.fault, "infrastructure", {}, report.status, report.backend)
    text = "passed" if passed else storable(reason or report.problem())
    return Judgement(passed, text, "" if passed else "model", values, report.status, report.backend)


def storable(text: str) -> str:
    """Return `text` without what differs from run to run, and without halves of characters."""
    return _ADDRESS.sub("0x..", text).encode("utf-8", "replace").decode()
