"""What Spider and BIRD share: databases and their schemas, the question, the query in an answer, the run of both."""

from __future__ import annotations

import contextlib
import functools
import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from codeflow.core.errors import UserError
from codeflow.eval.benchmark import Attempt, Judgement
from codeflow.eval.program_checks import code_in
from codeflow.eval.sql_run import Answer, Query, run_queries

SECONDS = 30.0  # of a query; the official limit of BIRD
_ASK = """Here is the schema of a SQLite database.

{schema}

{hint}Write one SQLite query that answers this question, as one block of code: {question}"""


def database(folder: Path, name: str) -> Path:
    """Return `folder/name/name.sqlite`. Raises UserError when it is not there."""
    path = folder / name / f"{name}.sqlite"
    if not path.is_file():
        raise UserError(f"{path} is not there; unpack the benchmark's databases into {folder}")
    return path


@functools.lru_cache(maxsize=256)
def schema_text(path: Path) -> str:
    """Return the statements that made the tables of a database, which belongs to the benchmark and is trusted."""
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        found = connection.execute("select sql from sqlite_master where type = 'table' and sql is not null")
        return "\n\n".join(sql for (sql,) in found)


@functools.lru_cache(maxsize=256)
def columns(path: Path) -> dict[str, list[str]]:
    """Return the columns of each table, in lower case."""
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        tables = [name.lower() for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        return {
            table: [row[1].lower() for row in connection.execute("select * from pragma_table_info(?)", (table,))]
            for table in tables
        }


def question(path: Path, text: str, hint: str = "") -> str:
    """Return what a model is asked."""
    return _ASK.format(schema=schema_text(path), question=text, hint=f"Note: {hint}\n\n" if hint else "")


def query_in(output: str) -> str:
    """Return the query in an answer: the first block of code that selects, on one line."""
    code = code_in(output, "SELECT" if "SELECT" in output else "select")
    return re.sub(r"\s+", " ", code).strip().rstrip(";").strip()


def judge_by_rows(
    pairs: Sequence[tuple[Query, Query]],
    same: Callable[[int, Answer, Answer], bool],
    at_once: int,
    seconds: float = SECONDS,
) -> list[Judgement]:
    """Judge (gold, predicted) pairs by their rows; `same` gets the pair's number and two answers with rows.

    A gold query that fails is no fault of the model: officially the prediction is wrong then, and so it is here, with
    that reason. Raises InfrastructureError when no sandbox works here.
    """
    answers = run_queries([query for pair in pairs for query in pair], seconds, at_once)
    found: list[Judgement] = []
    for number, (gold, predicted) in enumerate(pairs):
        wanted, got = answers[gold], answers[predicted]
        fault = next((answer for answer in (wanted, got) if answer.problem == "infrastructure"), None)
        if fault:
            found.append(Judgement(False, fault.detail, "infrastructure", {}, "infrastructure", fault.backend))
            continue
        if wanted.rows is None:
            passed, reason = False, f"the gold query fails ({wanted.problem}: {wanted.detail})"
        elif got.rows is None:
            passed, reason = False, f"{got.problem}: {got.detail}"
        else:
            passed, reason = same(number, wanted, got), "other rows"
        reason = "passed" if passed else reason
        found.append(Judgement(passed, reason, "" if passed else "model", {}, got.problem or "ok", got.backend))
    return found


def queries_of(attempts: Sequence[Attempt]) -> list[str]:
    """Return the predicted queries; a base model continues the word that the prompt ends with."""
    found: list[str] = []
    for attempt in attempts:
        text = attempt.output if attempt.style == "chat" else f"SELECT {attempt.output.partition(';')[0]}"
        found.append(query_in(text))
    return found
