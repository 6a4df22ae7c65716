"""Sections of the report about scores: the whole chain on one board, paths compared, and the published results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from codeflow.core.types import Score
from codeflow.report import gather
from codeflow.report.gather import Artifacts
from codeflow.report.sections import Section, cite

_TITLES = {"heldout": "held-out text", "micro_tasks_chat": "micro-tasks (chat)", "micro_tasks": "own programs"}


def board(artifacts: Artifacts) -> Section:
    """Every checkpoint of the chain as a row, every benchmark as a column."""
    found = gather.scores_by_stage(artifacts)
    columns = list(dict.fromkeys((s.benchmark, s.metric) for rows in found.values() for s in rows))
    columns.sort(key=lambda column: (column[0] != "heldout", column))
    heads = [{"benchmark": _TITLES.get(b, b.replace("_", " ")), "metric": m.replace("_", " ")} for b, m in columns]
    rows = []
    for name, scores in found.items():
        by_column: dict[tuple[str, str], Score] = {(s.benchmark, s.metric): s for s in scores}
        rows.append({"name": name, "stage": name in artifacts, "cells": [by_column.get(c) for c in columns]})
    sizes = [a.manifest.metrics.get("n_parameters", 0) for a in gather.of_kind(artifacts, "checkpoint")]
    return {
        "columns": heads,
        "rows": rows,
        "n_parameters": max(sizes, default=0),
        "sources": cite(*gather.of_kind(artifacts, "scores")),
    }


def published() -> Section:
    """The results that the recipe's authors report of their models, as data of this package (published.json)."""
    data: Mapping[str, Any] = json.loads(files("codeflow.report").joinpath("published.json").read_text())
    groups = []
    for group in data["groups"]:
        columns = zip(*group["models"].values(), strict=True)
        rows = list(zip(group["benchmarks"], columns, strict=True))
        groups.append({"title": group["title"], "models": list(group["models"]), "rows": rows})
    return {"source": data["source"], "unit": data["unit"], "groups": groups}


def comparison(artifacts: Artifacts) -> Section:
    """Starts and what was trained from them, task by task: the rows of a comparison artifact."""
    found = gather.of_kind(artifacts, "comparison")
    if not found:
        return {}
    data = json.loads((found[-1].folder / "comparison.json").read_text())
    parts: dict[tuple[int, tuple[str, ...]], list[Section]] = {}
    for row in data["rows"]:
        parts.setdefault((row["k"], tuple(row["arms"])), []).append(row)
    tables = [{"k": k, "arms": list(arms), "rows": rows} for (k, arms), rows in parts.items()]
    return {"tables": tables, "seconds": data["seconds"], "sources": cite(found[-1])}
