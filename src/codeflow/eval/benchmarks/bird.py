"""BIRD (Li et al. 2023, bird-bench.github.io, CC-BY-SA-4.0): questions to SQL over large, dirty databases.

Reads the official folder of the development set: `dev.json` and `dev_databases/NAME/NAME.sqlite`. Execution accuracy by
the official rule: the sets of rows are equal, nothing is mended, 30 s for a query; a row that occurs twice counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codeflow.eval.benchmark import Benchmark, BenchmarkFile, Judgement, Problem, Sampling, read_rows
from codeflow.eval.sql_run import Answer, Query, same_set
from codeflow.eval.task_metrics import accuracy
from codeflow.eval.text_to_sql import database, judge_by_rows, queries_of, question
from codeflow.tokens.chat import Message

FILE = BenchmarkFile("bird", "bird", "bird-bench.github.io", "CC-BY-SA-4.0")
_FIELDS = {"question": str, "SQL": str, "db_id": str}


def _problems(paths: Sequence[Path]) -> list[Problem]:
    found: list[Problem] = []
    for number, row in enumerate(read_rows(paths[0] / "dev.json", _FIELDS, "BIRD")):
        path = database(paths[0] / "dev_databases", row["db_id"])
        ask = question(path, row["question"], row.get("evidence", ""))
        data = {"query": row["SQL"], "database": str(path)}
        name = f"bird/{row.get('question_id', number)}"
        level = (row["difficulty"],) if row.get("difficulty") else ()
        found.append(Problem(name, (Message("user", ask),), f"{ask}\nSELECT ", row["SQL"], data, level, (";",)))
    return found


def judge_queries(problems: Sequence[Problem], predicted: Sequence[str], at_once: int) -> list[Judgement]:
    """Judge queries by execution."""

    def same(_: int, gold: Answer, mine: Answer) -> bool:
        return same_set(gold.rows or [], mine.rows or [])

    pairs = [
        (Query(Path(one.data["database"]), one.data["query"]), Query(Path(one.data["database"]), query))
        for one, query in zip(problems, predicted, strict=True)
    ]
    return judge_by_rows(pairs, same, at_once)


BENCHMARK = Benchmark(
    name="bird",
    files=(FILE,),
    scorer="bird-official-1",
    sampling=Sampling(temperature=0.2, top_p=0.95, max_new_tokens=512),
    metrics=(accuracy("execution_accuracy"),),
    load=_problems,
    judge=lambda attempts, at_once: judge_queries([one.problem for one in attempts], queries_of(attempts), at_once),
)
