"""BFCL's multi-turn categories (Patil et al., github.com/ShishirPatil/gorilla, Apache-2.0), in prompting mode.

A user asks turn by turn; within a turn the model calls functions, sees their results, and goes on until it calls none.
The functions are the official simulators of the wheel `bfcl-eval`, and so is the checker (states and responses after
every turn); both run in the sandbox, in an environment of their own with pinned versions. Only calls that were read as
such get there, with plain values: nothing that a model writes is evaluated as code. More than 20 steps in a turn end a
conversation, which then fails.

Reads the official `BFCL_v4_multi_turn_*.json`, `possible_answer/` and `multi_turn_func_doc/`, as in the wheel's folder
`data`. The words of the prompts are ours.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codeflow.core.errors import UserError
from codeflow.eval.benchmark import Attempt, Benchmark, Judgement, Problem, Sampling, read_rows
from codeflow.eval.benchmarks.bfcl import FILE, calls_prompt
from codeflow.eval.call_text import read_calls
from codeflow.eval.program_checks import storable
from codeflow.eval.task_metrics import accuracy
from codeflow.sandbox.local import open_sandbox
from codeflow.sandbox.policy import MIB, Limits, Policy
from codeflow.sandbox.result import Result, Status
from codeflow.solve.repository import environment as environments
from codeflow.solve.repository.mine import cache_folder
from codeflow.tokens.chat import Message

CATEGORIES = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context")
WHEELS = ("bfcl-eval==2026.3.23", "mpmath==1.3.0")
MOST_STEPS = 20  # of one turn, by the official runner
_DRIVER = Path(__file__).parents[1].joinpath("simulators_driver.py").read_text(encoding="utf-8")
_LIMITS = Limits(wall_seconds=60, cpu_seconds=30, memory_bytes=2048 * MIB, output_bytes=8 * MIB)
_ATTEMPTS = 3
_NAME = re.compile(r"[A-Za-z_]\w*")
_FIELDS = {"id": str, "question": list, "initial_config": dict, "involved_classes": list}
_DOCUMENTS = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}
_MORE = "There are more functions now:\n{functions}\n\nGo on with them."
_RESULTS = "Results of the calls:\n{results}"
_TURNS = (
    "\n\nThe user may go on asking. Results of your calls come as the next message; call further functions until the "
    "request is met, then answer in words without any call."
)


def _problems(paths: Sequence[Path]) -> list[Problem]:
    found: list[Problem] = []
    for category in CATEGORIES:
        path = paths[0] / f"BFCL_v4_{category}.json"
        if path.exists():
            rows = read_rows(paths[0] / "possible_answer" / path.name, {"id": str, "ground_truth": list}, "BFCL")
            answers = {row["id"]: row["ground_truth"] for row in rows}
            found += [_problem(row, answers, paths[0], category) for row in read_rows(path, _FIELDS, "BFCL")]
    if not found:
        raise UserError(f"{paths[0]} holds no BFCL_v4_multi_turn_*.json; get the folder `data` of {FILE.source}")
    return found


def _problem(row: Mapping[str, Any], answers: Mapping[str, Any], folder: Path, category: str) -> Problem:
    if row["id"] not in answers:
        raise UserError(f"{folder}/possible_answer has no answer to {row['id']}; get both files of the same version")
    functions = {
        one["name"]: one
        for name in row["involved_classes"]
        for one in read_rows(folder / "multi_turn_func_doc" / f"{_DOCUMENTS[name]}.json", {"name": str}, "BFCL")
        if one["name"] not in row.get("excluded_function", ())
    }
    held = {int(turn): names for turn, names in (row.get("missed_function") or {}).items()}
    later = {name for names in held.values() for name in names}
    asked: list[str] = []
    for number, messages in enumerate(row["question"]):
        text = "\n\n".join(message["content"] for message in messages)
        more = json.dumps([functions[name] for name in held.get(number, ()) if name in functions])
        asked.append(text if messages else _MORE.format(functions=more))
    system = calls_prompt([one for name, one in functions.items() if name not in later], "python") + _TURNS
    kept = {name: row[name] for name in ("id", "initial_config", "involved_classes")}
    data = {"entry": kept, "ground_truth": answers[row["id"]], "asked": tuple(asked)}
    return Problem(row["id"], (Message("system", system), Message("user", asked[0])), "", None, data, (category,))


@dataclass(frozen=True, slots=True)
class _Played:
    """A conversation so far: calls by turn and step. `forced`: a turn had too many steps."""

    turns: tuple[tuple[tuple[str, ...], ...], ...]
    called: bool  # the last output called functions
    forced: bool


def calls_of(text: str) -> tuple[str, ...]:
    """Return the calls in an output as Python source with plain values; none where it has none that can be read."""
    try:
        calls = read_calls(text, "python")
    except ValueError:
        return ()
    return tuple(
        f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        for call in calls
        for name, arguments in call.items()
        if _NAME.fullmatch(name) and all(_NAME.fullmatch(key) for key in arguments)
    )


def _played(outputs: Sequence[str]) -> _Played:
    turns: list[list[tuple[str, ...]]] = [[]]
    calls: tuple[str, ...] = ()
    for output in outputs:
        calls = calls_of(output)
        if calls:
            turns[-1].append(calls)
            if len(turns[-1]) > MOST_STEPS:
                return _Played(tuple(map(tuple, turns)), True, True)
        else:
            turns.append([])
    return _Played(tuple(map(tuple, turns)), bool(calls), False)


def _judge(attempts: Sequence[Attempt], at_once: int) -> list[Judgement]:
    return asyncio.run(_judge_all(attempts, at_once))


async def _judge_all(attempts: Sequence[Attempt], at_once: int) -> list[Judgement]:
    try:
        packages = environments.prepare(WHEELS, cache_folder(""), locked=True).folder
    except environments.NoEnvironmentError as error:
        raise UserError(
            f"the simulators of BFCL are not on pip's index ({error}); they need {' and '.join(WHEELS)}"
        ) from None
    policy = replace(Policy(), readable=((str(packages.resolve()), "/packages"),))
    gate = asyncio.Semaphore(at_once)

    async def one(attempt: Attempt) -> Judgement:
        async with gate:
            return await _judged(attempt, policy)

    return list(await asyncio.gather(*[one(attempt) for attempt in attempts]))


async def _judged(attempt: Attempt, policy: Policy) -> Judgement:
    """Return the next message as the reason of a judgement without fault, or the official verdict at the end."""
    data, played = attempt.problem.data, _played(attempt.outputs)
    asked: tuple[str, ...] = data["asked"]
    if played.forced:
        return Judgement.of(False, "multi_turn:force_terminated")
    finished = len(played.turns) > len(asked)
    if not finished and not played.called:
        return Judgement(False, asked[len(played.turns) - 1])
    turns = played.turns[: len(asked)] if finished else played.turns
    job = {"entry": data["entry"], "ground_truth": data["ground_truth"], "turns": turns, "finished": finished}
    result = await _run(policy, job)
    if result.status is not Status.OK:
        said = result.detail or result.stderr.decode("utf-8", "replace").strip()[-300:]
        fault = "infrastructure" if result.status is Status.INFRASTRUCTURE else "model"
        return Judgement(False, storable(f"{result.status}: {said}"), fault, {}, str(result.status), result.backend)
    answer = json.loads(result.channel)
    ran = (str(result.status), result.backend)
    if not finished:
        pairs = [{"call": call, "result": one} for call, one in zip(turns[-1][-1], answer["results"], strict=True)]
        return Judgement(False, storable(_RESULTS.format(results=json.dumps(pairs))), "", {}, *ran)
    reason = "passed" if answer["valid"] else storable(answer["error_type"]) or "invalid"
    return Judgement(bool(answer["valid"]), reason, "" if answer["valid"] else "model", {}, *ran)


async def _run(policy: Policy, job: Mapping[str, Any]) -> Result:
    """Run the driver; infrastructure faults are tried again."""
    attempt = 1
    while True:
        async with open_sandbox(policy) as sandbox:
            line = [*sandbox.python, "-c", _DRIVER]
            result = await sandbox.exec(line, stdin=json.dumps(job).encode(), limits=_LIMITS, channel=True)
        if result.status is not Status.INFRASTRUCTURE or attempt == _ATTEMPTS:
            return result
        attempt += 1


BENCHMARK = Benchmark(
    name="bfcl_multi_turn",
    files=(FILE,),
    scorer=f"bfcl-multi-turn-1 {WHEELS[0]}",
    sampling=Sampling(temperature=0.01, top_p=0.85, max_new_tokens=1024),
    metrics=(accuracy(),),
    load=_problems,
    judge=_judge,
    tries=8 * (MOST_STEPS + 2),
    follow_up=lambda _, judgement: judgement.reason,
    conversation=True,
)
