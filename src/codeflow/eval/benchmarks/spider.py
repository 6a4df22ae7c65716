"""Spider (Yu et al. 2018, yale-lily.github.io/spider, CC-BY-SA-4.0): questions to SQL, over databases never seen.

Reads the official folder: `dev.json`, `tables.json`, `database/NAME/NAME.sqlite`. Execution accuracy follows the
official test-suite scorer (taoyds/test-suite-sql-eval, Apache-2.0): `! =` is mended, `distinct` dropped, rows compared
as bags under every order of columns, their order only where the gold query has ORDER BY, on every `.sqlite` file of the
database's folder. `exact_match` is the official exact set match. Officially "value" in a prediction becomes 1; here
too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from codeflow.core.errors import UserError
from codeflow.eval.benchmark import Benchmark, BenchmarkFile, Judgement, Problem, Sampling, read_rows
from codeflow.eval.sql_clauses import Query as Clauses
from codeflow.eval.sql_clauses import Schema, SqlError, read_query
from codeflow.eval.sql_match import exact_set_match, foreign_keys, hardness
from codeflow.eval.sql_run import Answer, Query, same_rows
from codeflow.eval.task_metrics import accuracy, mean
from codeflow.eval.text_to_sql import columns, database, judge_by_rows, queries_of, question
from codeflow.tokens.chat import Message

FILE = BenchmarkFile("spider", "spider", "yale-lily.github.io/spider", "CC-BY-SA-4.0")
_FIELDS = {"question": str, "query": str, "db_id": str}
_CURRENT_YEAR = re.compile(r"YEAR\s*\(\s*CURDATE\s*\(\s*\)\s*\)\s*", re.IGNORECASE)
_QUOTED = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|--[^\n]*|/\*.*?\*/"
_DISTINCT = re.compile(rf"({_QUOTED})|\bdistinct\b|(;.*)", re.IGNORECASE | re.DOTALL)


def executable(query: str) -> str:
    """Return what is officially run for a query: operators mended, `distinct` and all but the first statement gone."""
    for broken, whole in (("> =", ">="), ("< =", "<="), ("! =", "!=")):
        query = query.replace(broken, whole)
    return _CURRENT_YEAR.sub("2020", _DISTINCT.sub(lambda found: found[1] or "", query))


def read_gold(path: Path) -> list[tuple[str, str]]:
    """Return (query, database name) of an official `gold.txt`."""
    lines = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return [(line[0].strip(), line[1].strip()) for line in lines]


def problem(folder: Path, number: int, text: str, query: str, name: str) -> Problem:
    """Return one problem of an official folder. Raises UserError when its database is missing."""
    path = database(folder / "database", name)
    ask = question(path, text)
    level = hardness(read_query(query, Schema(columns(path))))
    data = {"query": query, "database": str(path), "tables": str(folder / "tables.json")}
    return Problem(f"spider/{number}", (Message("user", ask),), f"{ask}\nSELECT ", query, data, (level,), (";",))


def _problems(paths: Sequence[Path]) -> list[Problem]:
    questions = paths[0] / "dev.json"
    if not questions.is_file():
        raise UserError(f"{questions} is not there; get the whole of Spider from {FILE.source} ({FILE.licence})")
    rows = read_rows(questions, _FIELDS, "Spider")
    return [problem(paths[0], n, row["question"], row["query"], row["db_id"]) for n, row in enumerate(rows)]


def judge_queries(problems: Sequence[Problem], predicted: Sequence[str], at_once: int) -> list[Judgement]:
    """Judge queries by execution, with `exact_match` among the values."""
    predicted = [query.replace("value", "1") for query in predicted]
    pairs: list[tuple[Query, Query]] = []
    owners: list[int] = []
    for number, (one, query) in enumerate(zip(problems, predicted, strict=True)):
        for path in sorted(Path(one.data["database"]).parent.glob("*.sqlite*")):
            gold, mine = (Query(path, executable(text), True) for text in (one.data["query"], query))
            pairs.append((gold, mine))
            owners.append(number)

    def same(number: int, gold: Answer, mine: Answer) -> bool:
        ordered = "order by" in problems[owners[number]].data["query"].lower()
        return same_rows(gold.rows or [], mine.rows or [], ordered)

    found: list[Judgement] = []
    by_owner: dict[int, list[Judgement]] = {}
    for owner, judgement in zip(owners, judge_by_rows(pairs, same, at_once), strict=True):
        by_owner.setdefault(owner, []).append(judgement)
    for number, (one, query) in enumerate(zip(problems, predicted, strict=True)):
        worst = max(by_owner[number], key=lambda j: (j.fault == "infrastructure", not j.passed))
        found.append(replace(worst, values={"exact_match": float(exact_match(one, query))}))
    return found


def exact_match(one: Problem, query: str) -> bool:
    """Say whether a query is the gold one by the official exact set match."""
    path, tables = Path(one.data["database"]), Path(one.data["tables"])
    schema = Schema(columns(path))
    keys = _foreign_keys(tables).get(path.stem, {})
    try:
        predicted = read_query(query, schema)
    except SqlError:
        predicted = Clauses()
    return exact_set_match(predicted, read_query(one.data["query"], schema), schema, keys)


@functools.lru_cache(maxsize=4)
def _foreign_keys(tables: Path) -> dict[str, dict[str, str]]:
    rows = read_rows(tables, {"db_id": str, "foreign_keys": list}, "Spider")
    return {row["db_id"]: foreign_keys(row) for row in rows}


BENCHMARK = Benchmark(
    name="spider",
    files=(FILE,),
    scorer="spider-test-suite-1",
    sampling=Sampling(temperature=0.2, top_p=0.95, max_new_tokens=512),
    metrics=(accuracy("execution_accuracy"), mean("exact_match")),
    load=_problems,
    judge=lambda attempts, at_once: judge_queries([one.problem for one in attempts], queries_of(attempts), at_once),
)
