"""Aider Polyglot (github.com/Aider-AI/polyglot-benchmark, MIT): 225 exercises in six languages, two tries each.

A model changes given files, in the format `diff` or `whole` (`edit_formats.py`); the second try sees what the tests
printed. Score after try 2 is the published pass rate; `well_formed` the share of answers whose edits all apply.

Differences to the official runner: the words of the prompts are ours, and an answer that cannot be applied is a try
whose error the model sees next, where Aider asks up to three more times within the same try. Exercises in languages
that cannot run here are left out and named (`exercises.py`).
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from codeflow.core.progress import say
from codeflow.eval.benchmark import Attempt, Benchmark, BenchmarkFile, Judgement, Problem, Sampling
from codeflow.eval.edit_formats import Edited, apply_diff, apply_whole, as_diff, as_whole
from codeflow.eval.exercises import Exercise, missing, read_exercises, run_tests
from codeflow.eval.program_checks import storable
from codeflow.eval.task_metrics import mean, pass_at
from codeflow.sandbox.result import Status
from codeflow.tokens.chat import Message

FILE = BenchmarkFile("aider_polyglot", "aider_polyglot", "github.com/Aider-AI/polyglot-benchmark", "MIT")
_MODULES = "node_modules"  # beside the languages: an installation of the JavaScript track's packages
_MOST_SHOWN = 12_000  # characters of what tests printed
_SYSTEM = {
    "diff": (
        "You change files of code. Write each change as a block: the file's name on a line of its own, then in a "
        "fence a line `<<<<<<< SEARCH`, lines of the file exactly as they are, a line `=======`, the lines in their "
        "place, and a line `>>>>>>> REPLACE`. Change only the files that you are given."
    ),
    "whole": (
        "You change files of code. For each file that you change write its name on a line of its own, then a fence "
        "with the whole new content. Leave nothing out. Change only the files that you are given."
    ),
}
_ASK = "{files}{instructions}\n\nImplement what is asked in: {names}. Keep the names that are there; tests use them."
_AGAIN = "{said}\n\nThese are the results of the tests, and the tests are right. Mend: {names}."
_APPLY: dict[str, Callable[[Mapping[str, str], str], Edited]] = {"diff": apply_diff, "whole": apply_whole}
Format = Literal["diff", "whole"]


def _load(form: Format, paths: Sequence[Path]) -> list[Problem]:
    modules = paths[0] / _MODULES
    exercises = read_exercises(paths[0])
    reasons = {one.language: missing(one.language, modules) for one in exercises}
    for language, n in Counter(one.language for one in exercises if reasons[one.language]).items():
        say(f"  aider_polyglot: {n} exercises in {language} are left out: {reasons[language]}")
    return [_problem(one, form, modules) for one in exercises if not reasons[one.language]]


def _problem(exercise: Exercise, form: Format, modules: Path) -> Problem:
    files = "".join(f"{path}\n```\n{text}```\n\n" for path, text in exercise.solution.items())
    names = " ".join(Path(path).name for path in exercise.solution)
    asked = _ASK.format(files=files, instructions=exercise.instructions.strip(), names=names)
    whole = set(exercise.gold) == set(exercise.solution)
    gold = as_diff(exercise.solution, exercise.gold) if form == "diff" else as_whole(exercise.gold)
    return Problem(
        exercise.id,
        (Message("system", _SYSTEM[form]), Message("user", asked)),
        "",
        gold if whole else None,
        {"exercise": exercise, "modules": modules, "names": names},
        (exercise.language,),
    )


def _judge(form: Format, attempts: Sequence[Attempt], at_once: int) -> list[Judgement]:
    return asyncio.run(_judge_all(form, attempts, at_once))


async def _judge_all(form: Format, attempts: Sequence[Attempt], at_once: int) -> list[Judgement]:
    gate = asyncio.Semaphore(at_once)

    async def one(attempt: Attempt) -> Judgement:
        async with gate:
            return await _judged(form, attempt)

    return list(await asyncio.gather(*[one(attempt) for attempt in attempts]))


async def _judged(form: Format, attempt: Attempt) -> Judgement:
    exercise: Exercise = attempt.problem.data["exercise"]
    edited = Edited(dict(exercise.solution), 0, ())
    for output in attempt.outputs:  # a second try changes what the first one left
        edited = _APPLY[form](edited.files, output)
    values = {"well_formed": float(not edited.problems)}
    if edited.problems:
        said = storable("\n".join(edited.problems))[:_MOST_SHOWN]
        return Judgement(False, said, "model", values)
    result = await run_tests(exercise, edited.files, attempt.problem.data["modules"])
    if result.status is Status.INFRASTRUCTURE:
        return Judgement(False, result.detail, "infrastructure", {}, str(result.status), result.backend)
    passed = result.status is Status.OK
    said = "Tests timed out!" if result.status is Status.TIME else result.stdout.decode("utf-8", "replace")
    reason = "passed" if passed else storable(said)[-_MOST_SHOWN:] or str(result.status)
    return Judgement(passed, reason, "" if passed else "model", values, str(result.status), result.backend)


def _follow_up(attempt: Attempt, judgement: Judgement) -> str:
    return _AGAIN.format(said=judgement.reason, names=attempt.problem.data["names"])


def _benchmark(form: Format) -> Benchmark:
    return Benchmark(
        name=f"aider_polyglot_{form}",
        files=(FILE,),
        scorer="aider-polyglot-1",
        sampling=Sampling(temperature=0.0, max_new_tokens=8192),
        metrics=(pass_at(1), mean("well_formed")),
        load=functools.partial(_load, form),
        judge=functools.partial(_judge, form),
        tries=2,
        follow_up=_follow_up,
        transfer_from="python",
    )


BENCHMARKS = (_benchmark("diff"), _benchmark("whole"))
