"""Programming tasks: prompt, samples cut where the answer ends, verdicts from the sandbox, pass@k.

Verdicts that failed for reasons of the surroundings are counted and left out; they are never scored as wrong.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codeflow.core.errors import InfrastructureError
from codeflow.core.storage import sha256_text
from codeflow.core.types import Score, Task
from codeflow.eval.benchmarks import humaneval, micro_tasks
from codeflow.eval.metrics import Share, pass_at_k
from codeflow.eval.records import Generated, Scorer

if TYPE_CHECKING:
    from codeflow.sandbox.policy import Limits
    from codeflow.solve.verify import Checked

_ADDRESS = re.compile(r"0x[0-9a-f]{4,}")  # of an object in an error's text: differs from run to run


@dataclass(frozen=True, slots=True)
class ProgramTask:
    """A task with what turns a model's output into an answer, and its own proof."""

    task: Task
    answer: Callable[[str], str]  # output -> what the verifier is given
    gold: str  # an output that must pass
    scorer: str


def own_tasks() -> list[ProgramTask]:
    """Return this project's tasks."""
    from codeflow.solve.verify import python_calls_data

    found: list[ProgramTask] = []
    for micro in micro_tasks.TASKS:
        data = python_calls_data(micro.entry_point, micro.inputs(), micro.expected())
        name = f"{micro_tasks.NAME}/{micro.name}"
        task = Task(name, micro_tasks.NAME, micro.prompt, "python_calls", data, "written for this project")
        found.append(ProgramTask(task, _follow(micro.prompt), micro.gold, "python-calls-1"))
    return found


def humaneval_tasks(path: Path, n: int, seed: int) -> list[ProgramTask]:
    """Return `n` of HumanEval's problems (all, where there are not more), chosen by the seed, in official order."""
    from codeflow.solve.verify import humaneval_data

    problems = humaneval.load(path)
    if n < len(problems):
        kept = sorted(random.Random(f"humaneval/{seed}").sample(range(len(problems)), n))
        problems = [problems[index] for index in kept]
    found: list[ProgramTask] = []
    for problem in problems:
        data = humaneval_data(problem.prompt, problem.test, problem.entry_point)
        task = Task(problem.task_id, humaneval.NAME, problem.prompt, "humaneval", data, "github.com/openai/human-eval")
        found.append(ProgramTask(task, cut_humaneval, problem.canonical_solution, "humaneval-official-1"))
    return found


def _follow(prompt: str) -> Callable[[str], str]:
    return lambda output: prompt + cut_block(output)


def cut_block(output: str) -> str:
    """Return the indented block with which `output` begins: it ends before the first line that is not indented."""
    lines = output.splitlines(keepends=True)
    for index, line in enumerate(lines):
        if line.strip() and not line.startswith((" ", "\t")) and index > 0:
            return "".join(lines[:index])
    return output


def cut_humaneval(output: str) -> str:
    """Return `output` up to the first of the paper's stop texts."""
    places = [place for text in humaneval.STOP_TEXTS if (place := output.find(text)) >= 0]
    return output[: min(places)] if places else output


def check(
    tasks: Sequence[ProgramTask], outputs: Sequence[Sequence[str]], limits: Limits, at_once: int
) -> list[list[Checked]]:
    """Judge the outputs of each task, `at_once` at a time; equal answers to a task are run once.

    Raises InfrastructureError when no sandbox works here.
    """
    return asyncio.run(_check(tasks, outputs, limits, at_once))


async def _check(
    tasks: Sequence[ProgramTask], outputs: Sequence[Sequence[str]], limits: Limits, at_once: int
) -> list[list[Checked]]:
    from codeflow.sandbox.local import open_sandbox
    from codeflow.solve.verify import verify

    gate = asyncio.Semaphore(at_once)

    async def one(item: ProgramTask, answer: str) -> Checked:
        async with gate, open_sandbox() as sandbox:
            return await verify(item.task, answer, sandbox, limits)

    pairs = [[(number, item.answer(output)) for output in outputs[number]] for number, item in enumerate(tasks)]
    unique = list(dict.fromkeys(pair for row in pairs for pair in row))
    verdicts = await asyncio.gather(*[one(tasks[number], answer) for number, answer in unique])
    by_pair = dict(zip(unique, verdicts, strict=True))
    return [[by_pair[pair] for pair in row] for row in pairs]


def prove(tasks: Sequence[ProgramTask], limits: Limits, at_once: int) -> list[str]:
    """Return the ids of tasks whose gold answer does not earn reward 1 here (none, if all is well)."""
    checked = check(tasks, [[item.gold] for item in tasks], limits, at_once)
    return [item.task.id for item, (found,) in zip(tasks, checked, strict=True) if found.verdict.reward != 1.0]


def score(
    scorer: Scorer, tasks: Sequence[ProgramTask], checked: Sequence[Sequence[Checked]], ks: Sequence[int]
) -> list[Score]:
    """Return pass@k for each k that enough samples allow. Tasks left with fewer than k verdicts are left out of it."""
    n_faults = sum(found.verdict.fault == "infrastructure" for row in checked for found in row)
    counts: list[tuple[int, int]] = []
    for row in checked:
        judged = [found.verdict.passed for found in row if found.verdict.fault != "infrastructure"]
        counts.append((len(judged), sum(judged)))
    scores: list[Score] = []
    for k in ks:
        shares = [Share(pass_at_k(n, c, k), 1.0) for n, c in counts if n >= k]
        if shares:
            scores.append(scorer.score(f"pass@{k}", "", shares, n_faults))
    return scores


def rows(
    checkpoint: str,
    tasks: Sequence[ProgramTask],
    outputs: Sequence[Sequence[str]],
    checked: Sequence[Sequence[Checked]],
) -> list[Generated]:
    """Return the rows of generations."""
    found: list[Generated] = []
    for item, texts, results in zip(tasks, outputs, checked, strict=True):
        for sample, (text, result) in enumerate(zip(texts, results, strict=True)):
            verdict = result.verdict
            found.append(
                Generated(
                    benchmark=item.task.benchmark,
                    subset="",
                    checkpoint=checkpoint,
                    task=item.task.id,
                    sample=sample,
                    prompt=item.task.prompt,
                    output=text,
                    reference=item.gold,
                    passed=verdict.passed,
                    reward=verdict.reward,
                    reason=_storable(verdict.reason),
                    fault=verdict.fault,
                    sandbox=str(result.result.status),
                    backend=result.result.backend,
                    prompt_sha256=sha256_text(item.task.prompt),
                    scorer=item.scorer,
                )
            )
    return found


def _storable(text: str) -> str:
    """Return `text` without what differs from run to run, and without halves of characters."""
    return _ADDRESS.sub("0x..", text).encode("utf-8", "replace").decode()


def sandbox_problem() -> str:
    """Return "" when a sandbox works here, else one line that says what to do."""
    from codeflow.sandbox.local import probe

    try:
        return probe().problem
    except InfrastructureError as error:
        return str(error)
