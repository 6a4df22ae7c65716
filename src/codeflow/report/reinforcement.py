"""Sections of the report about post-training: headroom of the starts, curves of reinforcement learning, rollouts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from codeflow.core.types import Rollout, Score, Task
from codeflow.report import curves, gather
from codeflow.report.gather import Artifact, Artifacts
from codeflow.report.sections import Section, cite

CHAT = "micro_tasks_chat"
_N_SHOWN, _CHARACTERS = 5, 1600


def reinforcement(artifacts: Artifacts) -> Section:
    """Curves of every run, those of one path beside each other, and rollouts from its first and last steps."""
    found = gather.reinforced(artifacts)
    if not found:
        return {}
    paths: dict[str, list[Artifact]] = {}
    for artifact in found:
        paths.setdefault("thinking" if artifact.config["rollout"].get("thinking") else "instruct", []).append(artifact)
    return {
        "paths": [{"name": name, **_path(runs)} for name, runs in paths.items()],
        "rollouts": [_rollouts(artifact, artifacts) for artifact in found],
        "sources": cite(*found),
    }


def _path(artifacts: Sequence[Artifact]) -> Section:
    runs = [curves.Run(a.name, gather.curve(a), control=a.config["reward"] == "random") for a in artifacts]
    differs = any(row.get("reward") != row.get("passed") for run in runs for row in run.rows)
    small = {"entropy": "entropy (nats per token)", "length_tokens": "length (tokens)"}
    small |= {"groups_with_signal": "groups with a signal"} | ({"reward": "reward"} if differs else {})
    return {
        "chart": curves.reinforcement(runs, "passed", "share of the step's answers that pass all hidden tests", True),
        "small": [curves.reinforcement(runs, key, label) for key, label in small.items()],
        "runs": [_run(artifact, run.rows) for artifact, run in zip(artifacts, runs, strict=True)],
    }


def _run(artifact: Artifact, rows: curves.Rows) -> Section:
    metrics = artifact.manifest.metrics
    return {
        "name": artifact.name,
        "start": artifact.start,
        "reward": artifact.config["reward"],
        "steps": len(rows),
        "first": metrics.get("mean_passed_of_first_steps"),
        "last": metrics.get("mean_passed_of_last_steps"),
        "tail_steps": metrics.get("tail_steps"),
        "seconds": artifact.run.get("seconds"),
        "n_rollouts": artifact.manifest.counts.read,
        "n_faults": artifact.manifest.counts.read - artifact.manifest.counts.kept,
    }


def _rollouts(artifact: Artifact, artifacts: Artifacts) -> Section:
    """Return pairs of rollouts on the same kind of task, from the first steps and from the last.

    Always a group's first sample, kinds in the order of the first step: not chosen by outcome.
    """
    tasks = gather.tasks(artifact, artifacts)
    before, after = (_by_kind(gather.rollouts(artifact, last), tasks) for last in (False, True))
    shared = [kind for kind in before if kind in after]
    kinds = [*shared, *(kind for kind in before if kind not in after)][:_N_SHOWN]
    rest = [kind for kind in after if kind not in kinds]
    pairs = [(before[kind], after[kind if kind in after else rest.pop(0)]) for kind in kinds if kind in after or rest]
    return {"name": artifact.name, "pairs": [(_shown(*one), _shown(*two)) for one, two in pairs]}


def _by_kind(rollouts: Sequence[Rollout], tasks: Mapping[str, Task]) -> dict[str, tuple[Rollout, Task | None]]:
    """Return the first sample of the first task of each kind (family and level; without tasks: of each task)."""
    found: dict[str, tuple[Rollout, Task | None]] = {}
    for rollout in rollouts:
        if rollout.sample == 0:
            task = tasks.get(rollout.task_id)
            found.setdefault(_kind(task) or rollout.task_id, (rollout, task))
    return found


def _kind(task: Task | None) -> str:
    data: Mapping[str, Any] = json.loads(task.data) if task else {}
    return f"{data['family']}, level {data.get('level', '?')}" if "family" in data else ""


def _shown(rollout: Rollout, task: Task | None) -> Section:
    verdict = rollout.verdict
    if verdict.fault == "infrastructure":
        judged = "not judged"
    else:
        judged = f"{'passed' if verdict.passed else 'failed'}, {verdict.tests_passed} of {verdict.tests_run} tests"
    return {
        "step": rollout.step,
        "kind": _kind(task) or rollout.task_id,
        "prompt": _cut(task.prompt if task else "(the tasks are not among the report's inputs)"),
        "answer": _cut(rollout.text),
        "passed": verdict.passed,
        "verdict": judged + (f": {_cut(verdict.reason, 200)}" if verdict.reason and not verdict.passed else ""),
        "stop": "" if rollout.stop_reason == "stop" else f"cut off ({rollout.stop_reason})",
    }


def _cut(text: str, characters: int = _CHARACTERS) -> str:
    """Return text that no control character can disguise, cut to a length."""
    text = "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
    return text if len(text) <= characters else text[:characters] + "…"


def headroom(artifacts: Artifacts) -> Section:
    """Held-out pass@k of every start of reinforcement learning, beside what was trained from it."""
    scored = gather.scores_by_stage(artifacts)
    chat = {name: {s.metric: s for s in rows if s.benchmark == CHAT} for name, rows in scored.items()}
    runs = gather.reinforced(artifacts)
    starts = [name for name in dict.fromkeys(run.start for run in runs) if chat.get(name)]
    if not starts:
        return {}
    metrics = sorted({metric for name in starts for metric in chat[name]}, key=lambda metric: int(metric[5:]))
    rows, words = [], []
    for start in starts:
        rows.append({"name": start, "role": "start", **_scored(artifacts[start], chat[start], {})})
        children = [a for a in artifacts.values() if a.start == start and chat.get(a.name)]
        rows += [{"name": a.name, "role": _role(a), **_scored(a, chat[a.name], chat[start])} for a in children]
        words.append(_start_words(start, chat[start], metrics))
        words += [_child_words(a, chat[start], chat[a.name], metrics) for a in children]
    sources = [a for a in gather.of_kind(artifacts, "scores") if any(s.benchmark == CHAT for s in gather.scores(a))]
    return {"metrics": metrics, "rows": rows, "words": words, "sources": cite(*sources)}


def _role(artifact: Artifact) -> str:
    reward = artifact.config.get("reward")
    return {None: "further SFT", "random": "GRPO, random reward (control)"}.get(reward, "GRPO")


def _scored(artifact: Artifact, found: Mapping[str, Score], start: Mapping[str, Score]) -> Section:
    beside = {metric: _beside(score, start[metric]) for metric, score in found.items() if metric in start}
    return {"seconds": artifact.run.get("seconds"), "scores": found, "beside": beside}


def _beside(score: Score, start: Score) -> str:
    if score.low > start.high:
        return "higher, intervals apart"
    return "lower, intervals apart" if score.high < start.low else "intervals overlap"


def _start_words(name: str, found: Mapping[str, Score], metrics: Sequence[str]) -> str:
    told = ", ".join(f"{metric} {_interval(found[metric])}" for metric in metrics if metric in found)
    ends = [found[metric].value for metric in (metrics[0], metrics[-1]) if metric in found]
    room = f": of the answers it has within its reach, it misses {ends[1] - ends[0]:.3f} at the first try"
    return f"{name} starts with {told}" + (room if len(ends) == 2 and len(metrics) > 1 else "") + "."


def _interval(score: Score) -> str:
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _child_words(
    artifact: Artifact, start: Mapping[str, Score], found: Mapping[str, Score], metrics: Sequence[str]
) -> str:
    told = [
        f"{metric} {_interval(start[metric])} → {_interval(found[metric])}, {_beside(found[metric], start[metric])}"
        for metric in dict.fromkeys((metrics[0], metrics[-1]))
        if metric in start and metric in found
    ]
    seconds = artifact.run.get("seconds")
    time = f" in {seconds:.0f} s" if seconds else ""
    return f"{artifact.name} ({_role(artifact)}){time}: {'; '.join(told)}." if told else ""
