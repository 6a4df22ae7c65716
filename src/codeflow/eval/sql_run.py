"""Answers to untrusted SQL on SQLite files: read-only, in the sandbox, with limits; and when two answers are equal.

A database is put into the sandbox whole, so it must fit into memory. Queries that would write fail here, while the
official scorers let them change the file that later queries are judged on.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codeflow.sandbox.local import open_sandbox
from codeflow.sandbox.policy import MIB, Limits, Policy
from codeflow.sandbox.result import Result, Status

_PER_START = 64
_MOST_BYTES = 32 * MIB  # of one answer
_NAME = "database.sqlite"
_START_SECONDS = 10.0

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """A query to run on a database file. `ignore_bad_text`: bytes that are no UTF-8 are left out, not an error."""

    database: Path
    text: str
    ignore_bad_text: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The rows of a query, or None and why: "error", "time", "size", "crash" or "infrastructure"."""

    rows: list[Row] | None
    problem: str = ""
    detail: str = ""
    backend: str = ""


def run_queries(queries: Sequence[Query], seconds: float, at_once: int) -> dict[Query, Answer]:
    """Return the answers of all queries, `at_once` sandboxes at a time; equal queries run once.

    Raises InfrastructureError when no sandbox works here.
    """
    return asyncio.run(_run_queries(list(dict.fromkeys(queries)), seconds, at_once))


async def _run_queries(queries: list[Query], seconds: float, at_once: int) -> dict[Query, Answer]:
    gate = asyncio.Semaphore(at_once)
    groups: dict[tuple[Path, bool], list[Query]] = {}
    for query in queries:
        groups.setdefault((query.database, query.ignore_bad_text), []).append(query)
    parts = [group[i : i + _PER_START] for group in groups.values() for i in range(0, len(group), _PER_START)]
    found = await asyncio.gather(*[_one_start(part, seconds, gate) for part in parts])
    answers = {query: answer for part in found for query, answer in part.items()}
    missing = [query for query in queries if query not in answers]  # a neighbour ended the process
    found = await asyncio.gather(*[_one_start([query], seconds, gate) for query in missing])
    return answers | {query: answer for part in found for query, answer in part.items()}


async def _one_start(queries: list[Query], seconds: float, gate: asyncio.Semaphore) -> dict[Query, Answer]:
    """Return the answers that came out of one sandbox; for a single query there always is one."""
    first = queries[0]
    async with gate:
        content = await asyncio.to_thread(first.database.read_bytes)
        job = {
            "file": _NAME,
            "seconds": seconds,
            "most_bytes": _MOST_BYTES,
            "ignore_bad_text": first.ignore_bad_text,
            "queries": [[number, query.text] for number, query in enumerate(queries)],
        }
        wall = _START_SECONDS + seconds * len(queries)
        limits = Limits(
            wall_seconds=wall,
            cpu_seconds=wall,
            memory_bytes=1024 * MIB,
            output_bytes=4 * _MOST_BYTES,
            disk_bytes=4 * len(content) + 64 * MIB,
        )
        async with open_sandbox(Policy(limits)) as sandbox:
            await sandbox.write(_NAME, content)
            argv = [*sandbox.python, "-c", _driver()]
            result = await sandbox.exec(argv, stdin=json.dumps(job).encode(), limits=limits, channel=True)
    answers = {queries[line[0]]: _answer(line, result) for line in _lines(result.channel)}
    if len(queries) == 1 and first not in answers:
        infrastructure = result.status is Status.INFRASTRUCTURE
        problem = "infrastructure" if infrastructure else "crash"
        answers[first] = Answer(None, problem, result.detail or str(result.status), result.backend)
    return answers


@functools.cache
def _driver() -> str:
    return Path(__file__).with_name("sql_driver.py").read_text(encoding="utf-8")


def _lines(channel: bytes) -> list[list[Any]]:
    lines = channel.split(b"\n")
    return [json.loads(line) for line in lines[:-1]]  # what follows the last line break was cut


def _answer(line: list[Any], result: Result) -> Answer:
    _, kind, content = line
    if kind != "rows":
        return Answer(None, kind, content, result.backend)
    rows = [tuple(bytes.fromhex(v["b"]) if isinstance(v, dict) else v for v in row) for row in content]
    return Answer(rows, backend=result.backend)


def same_rows(gold: Sequence[Row], predicted: Sequence[Row], ordered: bool) -> bool:
    """Say whether some order of columns makes two tables equal: as lists where `ordered`, else as bags of rows.

    The rule of Spider's test suites (Zhong et al. 2020), with its quirk that rows are first compared with their values
    sorted as text by value and type.
    """
    if len(gold) != len(predicted) or not gold:
        return len(gold) == len(predicted)
    if len(gold[0]) != len(predicted[0]):
        return False
    left, right = [_sorted(row) for row in gold], [_sorted(row) for row in predicted]
    if left != right if ordered else set(left) != set(right):
        return False
    if ordered:
        return _same_bag(list(zip(*gold, strict=True)), list(zip(*predicted, strict=True)))
    return _permutes(list(zip(*gold, strict=True)), list(zip(*predicted, strict=True)), [])


def _sorted(row: Row) -> Row:
    return tuple(sorted(row, key=lambda value: str(value) + str(type(value))))


def _same_bag(left: list[Any], right: list[Any]) -> bool:
    return Counter(left) == Counter(right)


def _permutes(gold: list[Row], predicted: list[Row], chosen: list[int]) -> bool:
    """Say whether the first columns of gold, put beside the chosen ones, can be continued to a whole match."""
    n = len(chosen)
    if n == len(gold):
        return True
    wanted = Counter(zip(*gold[: n + 1], strict=True))
    for column in range(len(gold)):
        if column not in chosen:
            rows = zip(*(predicted[i] for i in (*chosen, column)), strict=True)
            if Counter(rows) == wanted and _permutes(gold, predicted, [*chosen, column]):
                return True
    return False


def same_set(gold: Sequence[Row], predicted: Sequence[Row]) -> bool:
    """Say whether two tables hold the same rows, however often and in any order (the rule of BIRD)."""
    return set(gold) == set(predicted)
