"""BFCL v3 (Patil et al., github.com/ShishirPatil/gorilla, Apache-2.0): calls of functions, judged by their syntax tree.

Reads the official files `BFCL_v3_*.json` or `BFCL_v4_*.json` (v3 is v4 without memory, web search and format
sensitivity) and `possible_answer/`, in prompting mode: functions are described in the system message, calls come as
text. Covered: the single-turn categories, live and not, with relevance and irrelevance. The multi-turn categories are
in `bfcl_multi_turn.py`; an overall score of v3, which averages over both, is not given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codeflow.core.errors import UserError
from codeflow.eval.benchmark import Benchmark, BenchmarkFile, Judgement, Problem, Sampling, read_rows
from codeflow.eval.call_text import Calls, read_calls
from codeflow.eval.function_calls import CallLanguage, check_calls
from codeflow.eval.task_metrics import accuracy
from codeflow.tokens.chat import Message

FILE = BenchmarkFile("bfcl", "bfcl", "github.com/ShishirPatil/gorilla or the wheel bfcl-eval", "Apache-2.0")
CATEGORIES = (
    *("simple_python", "simple_java", "simple_javascript", "multiple", "parallel", "parallel_multiple", "irrelevance"),
    *("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple"),
    *("live_irrelevance", "live_relevance"),
)
_FIELDS = {"id": str, "question": list, "function": list}
_DIALECTS = {"python": "Python 3", "java": "Java 8", "javascript": "JavaScript"}
_SYSTEM = """You compose function calls. Given a question and functions, call the functions that answer it. When none \
of them fits, or an argument they need is missing, say so instead.
When you call functions, answer with nothing but [name_1(key_1=value_1, key_2=value_2), name_2(key=value)].

The functions, as JSON, in {dialect} syntax:
{functions}"""


def language_of(category: str) -> CallLanguage:
    """Return the language that a category's calls are written in."""
    return "javascript" if "javascript" in category else "java" if "java" in category else "python"


def _file(folder: Path, category: str) -> Path | None:
    """Return the official file of a category; version 3 called the first one `simple`."""
    names = (category, category.removesuffix("_python").replace("simple_java", "java"))
    found = (path for name in names for path in sorted(folder.glob(f"BFCL_v[34]_{name}.json")))
    return next(found, None)


def load_category(folder: Path, category: str) -> list[Problem]:
    """Return the problems of one category, none where its file is not there."""
    path = _file(folder, category)
    if path is None:
        return []
    answered = folder / "possible_answer" / path.name
    answers = {row["id"]: row["ground_truth"] for row in _answers(answered)} if answered.exists() else {}
    judged = "relevance" not in category
    language = language_of(category)
    found: list[Problem] = []
    for row in read_rows(path, _FIELDS, "BFCL"):
        if judged and row["id"] not in answers:
            raise UserError(f"{answered} has no answer to {row['id']}; get both official files of the same version")
        system = Message("system", calls_prompt(row["function"], language))
        asked = tuple(Message(turn["role"], turn["content"]) for turn in row["question"][0])
        data = {"functions": row["function"], "answers": answers.get(row["id"], []), "category": category}
        found.append(Problem(row["id"], _merged((system, *asked)), "", None, data, (category,)))
    return found


def calls_prompt(functions: Sequence[Mapping[str, Any]], language: CallLanguage) -> str:
    """Return the system message that asks for calls of functions as text."""
    described = json.dumps([_described(one, language) for one in functions])
    return _SYSTEM.format(dialect=_DIALECTS[language], functions=described)


def _answers(path: Path) -> list[dict[str, Any]]:
    return list(read_rows(path, {"id": str, "ground_truth": list}, "BFCL"))


def _merged(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Put all system messages into the first."""
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    return (Message("system", system), *(message for message in messages if message.role != "system"))


def _described(function: Mapping[str, Any], language: CallLanguage) -> dict[str, Any]:
    """Return a description in which values of other languages are texts, as the official files are prepared."""
    if language == "python":
        return dict(function)
    parameters = dict(function["parameters"])
    parameters["properties"] = {
        name: {**given, "type": "string", "description": f"{given.get('description', '')} ({language} {given['type']})"}
        for name, given in parameters["properties"].items()
    }
    return {**function, "parameters": parameters}


def _problems(paths: Sequence[Path]) -> list[Problem]:
    found = [problem for category in CATEGORIES for problem in load_category(paths[0], category)]
    if not found:
        raise UserError(f"{paths[0]} holds no BFCL_v3_*.json or BFCL_v4_*.json; get them from {FILE.source}")
    return found


def judge_text(problem: Problem, text: str) -> Judgement:
    """Judge what a model wrote; `reason` is the official error type."""
    category = problem.data["category"]
    language = language_of(category)
    try:
        calls: Calls | None = read_calls(text, language)
    except ValueError:
        calls = None
    if "relevance" in category:
        called = bool(calls)
        right = called != ("irrelevance" in category)
        return Judgement.of(right, "irrelevance_error:decoder_success" if called else "relevance_error:decoder_failed")
    if calls is None:
        return Judgement.of(False, "ast_decoder:decoder_failed")
    kind = check_calls(problem.data["functions"], calls, problem.data["answers"], language, category)
    return Judgement.of(not kind, kind)


BENCHMARK = Benchmark(
    name="bfcl",
    files=(FILE,),
    scorer="bfcl-ast-1",
    sampling=Sampling(temperature=0.01, top_p=0.85, max_new_tokens=512),
    metrics=(accuracy(),),
    load=_problems,
    judge=lambda attempts, _: [judge_text(one.problem, one.output) for one in attempts],
)
