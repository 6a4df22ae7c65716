"""Stage `comparison`: what training did to checkpoints on the same tasks, as a table.

    run(config, {any scores artifacts, any checkpoints}, output)
        table.md          for people and the docs
        comparison.json   the same numbers, for the report

Each path has a start and arms that were trained from it. All values are pass@k on micro-tasks with 95 % bootstrap
intervals clustered by task; a difference is taken task by task, on tasks judged in both. The pooled row averages each
task over its paths first: its interval is about tasks, not about seeds. Training seconds come from the checkpoints'
`run.json`, so the bytes differ between runs; only a report is made from them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt

from codeflow.core.config import Config
from codeflow.core.errors import UserError, suggest
from codeflow.core.manifest import RUN, Counts, Manifest, read_manifest, seal
from codeflow.core.storage import write_text

TABLE, DATA = "table.md", "comparison.json"
Estimate = dict[str, float]  # value, low, high, n (tasks)


class ComparedPath(Config):
    """One start and what was trained from it: label -> checkpoint."""

    name: str
    start: str
    arms: dict[str, str] = Field(min_length=1)


class ComparisonConfig(Config):
    """Which paths are compared, and which are pooled into one more row."""

    paths: tuple[ComparedPath, ...] = ()
    pooled: tuple[str, ...] = ()  # names of paths
    ks: tuple[PositiveInt, ...] = Field(default=(1, 8), min_length=1)
    bootstrap_resamples: PositiveInt = 4000
    seed: NonNegativeInt = 0


def run(config: ComparisonConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Write the table. Raises UserError for a checkpoint that no scores artifact has asked."""
    kinds = {name: read_manifest(folder).kind for name, folder in inputs.items()}
    judged: dict[str, dict[str, list[bool]]] = {}
    for name, kind in kinds.items():
        if kind == "scores":
            _judge(inputs[name], judged)
    seconds = {name: _seconds(inputs[name]) for name, kind in kinds.items() if kind == "checkpoint"}
    wanted = [checkpoint for path in config.paths for checkpoint in (path.start, *path.arms.values())]
    for checkpoint in wanted:
        if checkpoint not in judged:
            raise UserError(f"comparison: no scores of '{checkpoint}'{suggest(checkpoint, judged)}")
    found = {"ks": list(config.ks), "rows": rows(config, judged), "seconds": {c: seconds.get(c) for c in wanted}}
    write_text(output / DATA, json.dumps(found, indent=1) + "\n")
    write_text(output / TABLE, markdown(found))
    return seal(output, Counts(read=len(wanted), kept=len(wanted)))


def _judge(folder: Path, judged: dict[str, dict[str, list[bool]]]) -> None:
    """Add by checkpoint and task whether each judged answer passed."""
    from codeflow.core.records import read_records, shards
    from codeflow.eval.micro_task_scores import NAME
    from codeflow.eval.records import Generated

    columns = ["benchmark", "checkpoint", "task", "passed", "fault"]
    for path in shards(folder, "generations"):
        for row in read_records(path, Generated, columns):
            assert isinstance(row, dict)
            if row["benchmark"] == NAME and row["fault"] != "infrastructure":
                judged.setdefault(row["checkpoint"], {}).setdefault(row["task"], []).append(row["passed"])


def _seconds(folder: Path) -> float | None:
    return json.loads((folder / RUN).read_text())["seconds"] if (folder / RUN).exists() else None


def rows(config: ComparisonConfig, judged: Mapping[str, Mapping[str, Sequence[bool]]]) -> list[dict[str, Any]]:
    """Return one row per path and k, pooled ones last: the start, and each arm with its difference to the start."""
    from codeflow.eval.metrics import pass_at_k

    def by_task(checkpoint: str, k: int) -> dict[str, float]:
        answers = judged[checkpoint]
        return {task: pass_at_k(len(a), sum(a), k) for task, a in answers.items() if len(a) >= k}

    found: list[dict[str, Any]] = []
    for k in config.ks:
        for path in config.paths:
            arms = {label: by_task(checkpoint, k) for label, checkpoint in path.arms.items()}
            found.append(_row(config, path.name, k, by_task(path.start, k), arms))
            found[-1]["checkpoints"] = {"start": path.start, **path.arms}
        pooled = [path for path in config.paths if path.name in config.pooled]
        if len(pooled) > 1:
            labels = [label for label in pooled[0].arms if all(label in path.arms for path in pooled)]
            arms = {label: _mean([by_task(path.arms[label], k) for path in pooled]) for label in labels}
            start = _mean([by_task(path.start, k) for path in pooled])
            found.append(_row(config, f"mean of {len(pooled)}", k, start, arms))
    return found


def _mean(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    tasks = [task for task in values[0] if all(task in one for one in values)]
    return {task: sum(one[task] for one in values) / len(values) for task in tasks}


def _row(
    config: ComparisonConfig, name: str, k: int, start: Mapping[str, float], arms: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    measured = _estimate(config, list(start.values()))
    found = {}
    for label, values in arms.items():
        value = _estimate(config, list(values.values()))
        difference = _estimate(config, [values[task] - start[task] for task in start if task in values])
        apart = value["low"] > measured["high"] or value["high"] < measured["low"]
        found[label] = {"value": value, "difference": difference, "apart": apart}
    return {"path": name, "k": k, "start": measured, "arms": found}


def _estimate(config: ComparisonConfig, values: Sequence[float]) -> Estimate:
    from codeflow.eval.metrics import Share, bootstrap_interval, ratio

    if not values:
        raise UserError(f"comparison: no task has {max(config.ks)} judged answers; lower ks={list(config.ks)}")
    shares = [Share(value, 1.0) for value in values]
    low, high = bootstrap_interval(shares, config.bootstrap_resamples, config.seed)
    return {"value": ratio(shares), "low": low, "high": high, "n": len(shares)}


def markdown(found: Mapping[str, Any]) -> str:
    """Return the table: one part per k and set of arms, the paths as rows."""
    parts: dict[tuple[int, tuple[str, ...]], list[dict[str, Any]]] = {}
    for row in found["rows"]:
        parts.setdefault((row["k"], tuple(row["arms"])), []).append(row)
    text = ""
    for (k, labels), part in parts.items():
        heads = ["start: SFT", *(head for label in labels for head in (label, f"{label} − start"))]
        text += f"| pass@{k} | {' | '.join(heads)} |\n|---{'|---' * len(heads)}|\n"
        for row in part:
            cells = [_interval(row["start"])]
            for label in labels:
                arm = row["arms"][label]
                cells += [_interval(arm["value"]) + (" *" if arm["apart"] else ""), _interval(arm["difference"], "+")]
            text += f"| {row['path']} | {' | '.join(cells)} |\n"
        text += "\n"
    n_tasks = [row["start"]["n"] for row in found["rows"]]
    text += (
        f"\\* does not overlap with the start's interval. Intervals are 95 % bootstrap intervals clustered by task "
        f"(at least {min(n_tasks, default=0)} tasks); differences are taken task by task.\n"
    )
    known = [f"{name} {value:.0f}" for name, value in found["seconds"].items() if value is not None]
    return text + (f"\nSeconds of training: {', '.join(known)}.\n" if known else "")


def _interval(estimate: Estimate, sign: str = "") -> str:
    value, low, high = (f"{estimate[name]:{sign}.3f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
