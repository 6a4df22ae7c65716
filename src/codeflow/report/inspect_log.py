"""Evaluations and episodes as logs for the viewer of Inspect AI (inspect.aisi.org.uk): `inspect view --log-dir DIR`.

The logs are JSON of Inspect's log format, version 2, written here without Inspect. One file for each benchmark of a
scores artifact, with every answer, verdict and sandbox status, and all scores with their intervals; one for an artifact
or file of episodes, with every turn. Answers that failed for reasons of the surroundings carry an error and no score.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from codeflow import __version__
from codeflow.core.errors import UserError
from codeflow.core.records import shards
from codeflow.core.storage import make_folder, write_text

_FORMAT = 2
_STOP = {"stop": "stop", "length": "max_tokens", "context": "model_length"}
_ROLES = {"prompt": "user", "assistant": "assistant", "summary": "assistant", "tool": "tool", "user": "user"}


def export(source: Path, output: Path) -> list[Path]:
    """Write the logs of a scores artifact, or of `episodes-*.parquet`, to `output`; return their paths.

    Equal sources give equal files. Raises UserError for a folder that holds neither.
    """
    make_folder(output)
    logs = [*_of_scores(source), *_of_episodes(source)]
    if not logs:
        raise UserError(f"{source} holds no generations-*.parquet and no episodes-*.parquet; give a scores artifact")
    paths: list[Path] = []
    for name, log in logs:
        path = output / f"{log['eval']['created'][:19].replace(':', '-')}_{_plain(name)}_{log['eval']['eval_id']}.json"
        write_text(path, json.dumps(log, indent=1))
        paths.append(path)
    return paths


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", name)


def _rows(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                yield from batch.to_pylist()


def _of_scores(source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    files = shards(source, "generations")
    by_name: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in _rows(files):
        by_name.setdefault((row["benchmark"], row["checkpoint"]), []).append(row)
    scores = list(_rows(shards(source, "scores"))) if files else []
    created = _created(files)
    for (name, checkpoint), rows in sorted(by_name.items()):
        own = [one for one in scores if (one["benchmark"], one["checkpoint"]) == (name, checkpoint)]
        samples = [_sample(row) for row in rows]
        settings = {key: value for one in own[:1] for key, value in _pairs(one["settings"])}
        scorer = rows[0].get("scorer") or name
        log = _log(name, checkpoint, created, samples, settings)
        log["results"]["scores"] = [_eval_score(scorer, own, samples)] if own else []
        yield name, log


def _pairs(value: Any) -> list[tuple[str, str]]:
    return list(value.items()) if isinstance(value, dict) else [(key, one) for key, one in value or []]


def _created(files: Sequence[Path]) -> str:
    latest = max((path.stat().st_mtime for path in files), default=0.0)
    return datetime.fromtimestamp(int(latest), UTC).isoformat()


def _log(
    name: str, model: str, created: str, samples: Sequence[dict[str, Any]], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    identity = hashlib.sha256(json.dumps([name, model, samples, metadata], sort_keys=True).encode()).hexdigest()[:22]
    completed = sum("error" not in sample for sample in samples)
    ids = list(dict.fromkeys(sample["id"] for sample in samples))
    return {
        "version": _FORMAT,
        "status": "success",
        "eval": {
            "eval_id": identity,
            "run_id": identity,
            "task_id": identity,
            "created": created,
            "task": name,
            "task_version": 0,
            "dataset": {"name": name, "samples": len(ids), "sample_ids": ids},
            "model": model if "/" in model else f"codeflow/{model}",
            "config": {"epochs": max((sample["epoch"] for sample in samples), default=1)},
            "packages": {"codeflow": __version__},
            "metadata": dict(metadata),
        },
        "results": {"total_samples": len(samples), "completed_samples": completed, "scores": []},
        "stats": {"started_at": created, "completed_at": created, "model_usage": {}},
        "samples": list(samples),
    }


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {key: row[key] for key in ("subset", "sandbox", "backend", "prompt_sha256", "fault") if row.get(key)}
    sample = {
        "id": row["task"],
        "epoch": int(row["sample"]) + 1,
        "input": row["prompt"],
        "target": row["reference"] or "",
        "messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["output"]}],
        "output": _output(row["checkpoint"], row["output"], "stop"),
        "metadata": metadata,
    }
    return _judged(sample, row, row["output"])


def _judged(sample: dict[str, Any], row: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """Add the score, or the error of an infrastructure fault."""
    if row["fault"] == "infrastructure":
        error = {"message": row["reason"] or "the sandbox failed", "traceback": "", "traceback_ansi": ""}
        return {**sample, "scores": {}, "error": error}
    value = "C" if row["passed"] else "I"
    score = {"value": value, "answer": answer, "explanation": row["reason"], "metadata": {"reward": row["reward"]}}
    return {**sample, "scores": {row.get("scorer") or "verdict": score}}


def _output(model: str, text: str, stop_reason: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "source": "generate"}
    return {"model": model, "choices": [{"message": message, "stop_reason": stop_reason}], "completion": text}


def _eval_score(scorer: str, scores: Sequence[Mapping[str, Any]], samples: Sequence[Any]) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for one in scores:
        name = f"{one['metric']} ({one['subset']})" if one["subset"] else one["metric"]
        interval = {key: one[key] for key in ("low", "high", "n", "n_faults")}
        metrics[name] = {"name": name, "value": one["value"], "metadata": interval}
    scored = sum("error" not in sample for sample in samples)
    counted = {"scored_samples": scored, "unscored_samples": len(samples) - scored}
    return {"name": scorer, "scorer": scorer, **counted, "metrics": metrics}


def _of_episodes(source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    files = shards(source, "episodes")
    by_model: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(files):
        by_model.setdefault(row["checkpoint"], []).append(row)
    for model, rows in sorted(by_model.items()):
        samples = [_episode(row) for row in rows]
        log = _log("episodes", model, _created(files), samples, {})
        scored = [sample for sample in samples if "error" not in sample]
        passed = sum(sample["scores"]["verdict"]["value"] == "C" for sample in scored)
        metrics = {"accuracy": {"name": "accuracy", "value": passed / len(scored)}} if scored else {}
        log["results"]["scores"] = [{"name": "verdict", "scorer": "verdict", "metrics": metrics}]
        yield f"episodes-{model}", log


def _episode(row: Mapping[str, Any]) -> dict[str, Any]:
    messages = [_message(turn) for turn in row["turns"]]
    last = next((turn["text"] for turn in reversed(row["turns"]) if turn["sampled"]), "")
    sample = {
        "id": row["task_id"],
        "epoch": int(row["sample"]) + 1,
        "input": row["turns"][0]["text"] if row["turns"] else "",
        "target": "",
        "messages": messages,
        "output": _output(row["checkpoint"], last, _STOP.get(row["stop_reason"], "stop")),
        "metadata": {"stop_reason": row["stop_reason"], "patch": row["patch"]},
        "total_time": row["seconds"],
    }
    return _judged(sample, row["verdict"], row["patch"])


def _message(turn: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {"context": turn["context"], "turn": turn["role"], "tokens": len(turn["ids"])}
    return {"role": _ROLES[turn["role"]], "content": turn["text"], "metadata": metadata}
