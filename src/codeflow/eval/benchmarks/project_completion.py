"""Completion judged by running tests, in the manner of ExecRepoBench (Yang et al. 2024): nothing has to be fetched.

A middle is taken out of a function of a small project (`tested_projects.py`), the project's other files stand before
the file with the hole, and what a model writes passes when all tests of the project pass with it. The tests are not
shown. A base model gets the recipe's completion format; a chat model is asked for the whole function.

The projects are part of this repository, so a corpus that holds it holds the answers: the stage `prompts` names them
for decontamination. Residual risk: that of `solve/hidden_tests.py`, which runs the tests.
"""

from __future__ import annotations

import asyncio
import functools
import textwrap
from collections.abc import Sequence
from pathlib import Path

from codeflow.core.config import canonical_json
from codeflow.core.storage import sha256_text
from codeflow.eval.benchmark import Attempt, Benchmark, Judgement, Problem, Sampling
from codeflow.eval.holes import Hole, prompt_text
from codeflow.eval.metrics import edit_similarity
from codeflow.eval.program_checks import code_in, storable
from codeflow.eval.task_metrics import mean, pass_at
from codeflow.eval.tested_projects import Cut, Project, cuts, projects
from codeflow.sandbox.policy import Limits
from codeflow.solve.hidden_tests import judge_tests
from codeflow.tokens.chat import Message

NAME = "project_completion"
LIMITS = Limits(wall_seconds=10, cpu_seconds=3)  # of all tests of a project; they take a tenth of a second
_ASK = (
    "These are files of a project:\n\n{files}The last one lacks a piece, at {mark}. Write the whole function `{name}` "
    "anew, the piece included, in one block of code. Answer with that and nothing else."
)
_MARK = "<hole>"


@functools.cache
def problems() -> tuple[Problem, ...]:
    """Return the holes of all projects as problems."""
    return tuple(_problem(project, cut) for project in projects() for cut in cuts(project))


def _problem(project: Project, cut: Cut) -> Problem:
    text = dict(project.sources)[cut.path]
    start, stop = cut.middle
    hole = Hole(project.name, project.context_of(cut.path), cut.path, text[:start], text[stop:])
    name = cut.function.rpartition(".")[2]
    shown = [*hole.files[::-1], (cut.path, f"{hole.prefix}{_MARK}{hole.suffix}")]
    files = "".join(f"{path}\n```python\n{content}```\n\n" for path, content in shown)
    return Problem(
        f"{project.name}/{cut.path}/{cut.function}/{cut.level}",
        (Message("user", _ASK.format(files=files, mark=_MARK, name=name)),),
        prompt_text(hole),
        text[start:stop],
        {"project": project.name, "path": cut.path, "name": name, "definition": cut.definition, "middle": cut.middle},
        (cut.level, project.name),
        hole=hole,
    )


def completed(attempt: Attempt) -> str:
    """Return the file with what the attempt wrote: the middle, or a chat model's whole function in its place."""
    data = attempt.problem.data
    text = dict(_project(attempt).sources)[data["path"]]
    header = f"def {data['name']}("
    code = code_in(attempt.output, header) if attempt.style == "chat" else attempt.output
    if attempt.style == "text" or header not in code:
        start, stop = data["middle"]
        return text[:start] + code + text[stop:]
    lines = code.splitlines(keepends=True)
    first = next(n for n, line in enumerate(lines) if header in line)
    function = textwrap.dedent("".join(lines[first:]))
    start, stop = data["definition"]
    indent = " " * (start - text.rfind("\n", 0, start) - 1)
    return text[:start] + textwrap.indent(function, indent).strip() + text[stop:]


def _judge(attempts: Sequence[Attempt], at_once: int) -> list[Judgement]:
    return asyncio.run(_judge_all(attempts, at_once))


async def _judge_all(attempts: Sequence[Attempt], at_once: int) -> list[Judgement]:
    gate = asyncio.Semaphore(at_once)

    async def one(attempt: Attempt) -> Judgement:
        project = _project(attempt)
        candidate = {**dict(project.sources), attempt.problem.data["path"]: completed(attempt)}
        files = {path: text.encode("utf-8", "replace") for path, text in candidate.items()}
        async with gate:
            verdict, result = await judge_tests(project.suite, files, LIMITS)
        values = {"tests_passed": verdict.reward}
        if attempt.style == "text":
            values["edit_similarity"] = edit_similarity(attempt.output, attempt.problem.gold or "")
        said = storable(verdict.reason)
        return Judgement(verdict.passed, said, verdict.fault, values, str(result.status), result.backend)

    return list(await asyncio.gather(*[one(attempt) for attempt in attempts]))


def _project(attempt: Attempt) -> Project:
    return next(project for project in projects() if project.name == attempt.problem.data["project"])


def _load(_: Sequence[Path]) -> list[Problem]:
    return list(problems())


_VERSION = sha256_text(canonical_json([(one.name, one.sources, one.tests) for one in projects()]))[:8]

BENCHMARK = Benchmark(
    name=NAME,
    files=(),
    scorer=f"project-tests-1-{_VERSION}",
    sampling=Sampling(temperature=0.0, max_new_tokens=512),
    metrics=(pass_at(1), pass_at(10), mean("tests_passed"), mean("edit_similarity")),
    load=_load,
    judge=_judge,
    style="text",
)
