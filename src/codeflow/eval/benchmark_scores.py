"""Scores of finished benchmarks: by metric, subset and try, with intervals clustered by task; two runs compared.

Further metrics of every benchmark: `repair_rate` (failures of the first try that the second mends), where there is a
second try; `calibration_error` (of the model's confidence in its first answers), where confidences are known;
`transfer`, the mean of a metric over other languages as a share of the source language's, where a benchmark names one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codeflow.core.errors import UserError
from codeflow.core.storage import sha256_text
from codeflow.core.types import Score
from codeflow.eval.benchmark import Judgement, Metric
from codeflow.eval.benchmark_run import Finished
from codeflow.eval.metrics import Difference, Share, calibration_error, paired_difference, transfer_interval
from codeflow.eval.records import Generated, Scorer

_MOST_SHOWN = 20_000  # characters of a prompt in a row of generations


def score(finished: Finished, checkpoint: str, n_resamples: int, seed: int) -> list[Score]:
    """Return all scores of a benchmark."""
    sampling = finished.sampling
    settings = {
        "style": finished.style,
        "temperature": str(sampling.temperature),
        "top_p": str(sampling.top_p),
        "samples": str(sampling.samples),
        "max_new_tokens": str(sampling.max_new_tokens),
        "tasks": str(len(finished.problems)),
        "scorer": finished.benchmark.scorer,
        "seed": str(seed),
    }
    scorer = Scorer(finished.benchmark.name, checkpoint, settings, n_resamples, seed)
    found: list[Score] = []
    if finished.benchmark.conversation:
        last = finished.tries - 1
        return [one for metric in finished.benchmark.metrics for one in _by_subset(scorer, finished, metric, last, "")]
    for attempt in range(finished.tries):
        suffix = "" if attempt == 0 else f" after try {attempt + 1}"
        for metric in finished.benchmark.metrics:
            found += _by_subset(scorer, finished, metric, attempt, suffix)
    return found + _repair(scorer, finished) + _calibration(scorer, finished) + _transfer(scorer, finished)


def samples_of(finished: Finished, attempt: int) -> dict[str, list[Judgement]]:
    """Return for each task its samples' judgements after so many tries, infrastructure faults left out."""
    found: dict[str, list[Judgement]] = {}
    for problem in finished.problems:
        for sample in range(finished.sampling.samples):
            reached = [finished.judgements.get((problem.id, sample, number)) for number in range(attempt + 1)]
            last = next(one for one in reversed(reached) if one is not None)
            if last.fault != "infrastructure":
                found.setdefault(problem.id, []).append(last)
    return found


def _n_faults(finished: Finished) -> int:
    return sum(one.fault == "infrastructure" for one in finished.judgements.values())


def _by_subset(scorer: Scorer, finished: Finished, metric: Metric, attempt: int, suffix: str) -> list[Score]:
    samples = samples_of(finished, attempt)
    shares: dict[str, list[Share]] = {}
    for problem in finished.problems:
        share = metric.share(samples[problem.id]) if problem.id in samples else None
        if share:
            for subset in ("", *problem.subsets):
                shares.setdefault(subset, []).append(share)
    n_faults = _n_faults(finished)
    return [scorer.score(f"{metric.name}{suffix}", name, found, n_faults) for name, found in sorted(shares.items())]


def _repair(scorer: Scorer, finished: Finished) -> list[Score]:
    shares: dict[str, Share] = {}
    for (task, _, attempt), judgement in finished.judgements.items():
        if attempt == 1 and judgement.fault != "infrastructure":
            before = shares.get(task, Share(0.0, 0.0))
            shares[task] = Share(before.total + judgement.passed, before.weight + 1)
    return [scorer.score("repair_rate", "", list(shares.values()), _n_faults(finished))] if shares else []


def _calibration(scorer: Scorer, finished: Finished) -> list[Score]:
    rows = [
        (answer.confidence, finished.judgements[key].passed, key[0])
        for key, answer in finished.answers.items()
        if key[2] == 0
        and answer.confidence == answer.confidence  # known
        and finished.judgements[key].fault != "infrastructure"
    ]
    if not rows:
        return []
    confidences, right, tasks = zip(*rows, strict=True)
    value, low, high = calibration_error(confidences, right, tasks, scorer.n_resamples, scorer.seed)
    names = (scorer.benchmark, "calibration_error", "", value, low, high, len(set(tasks)), _n_faults(finished))
    return [Score(*names, scorer.checkpoint, dict(scorer.settings))]


def _transfer(scorer: Scorer, finished: Finished) -> list[Score]:
    source = finished.benchmark.transfer_from
    if not source:
        return []
    metric, samples = finished.benchmark.metrics[0], samples_of(finished, 0)
    values: dict[str, list[float]] = {}
    for problem in finished.problems:
        share = metric.share(samples[problem.id]) if problem.id in samples else None
        if share and problem.subsets:
            values.setdefault(problem.subsets[0], []).append(share.total / share.weight)
    if source not in values or len(values) < 2 or not sum(values[source]):
        return []
    value, low, high = transfer_interval(values, source, scorer.n_resamples, scorer.seed)
    n = sum(map(len, values.values()))
    name = f"transfer from {source}: {metric.name}"
    names = (scorer.benchmark, name, "", value, low, high, n, _n_faults(finished))
    return [Score(*names, scorer.checkpoint, dict(scorer.settings))]


def compare(left: Finished, right: Finished, n_resamples: int, seed: int) -> dict[str, Difference]:
    """Return the paired difference (right - left) of each metric on the tasks that both have a score for.

    Raises UserError when they are not runs of one benchmark.
    """
    if left.benchmark.name != right.benchmark.name:
        raise UserError(f"runs of {left.benchmark.name} and {right.benchmark.name}; compare runs of one benchmark")
    found: dict[str, Difference] = {}
    both = (samples_of(left, left.tries - 1), samples_of(right, right.tries - 1))
    for metric in right.benchmark.metrics:
        pairs: list[tuple[float, float]] = []
        for task in (one.id for one in right.problems):
            shares = [metric.share(samples[task]) for samples in both if task in samples]
            if len(shares) == 2 and shares[0] and shares[1]:
                pairs.append((shares[0].total / shares[0].weight, shares[1].total / shares[1].weight))
        if pairs:
            found[metric.name] = paired_difference([a for a, _ in pairs], [b for _, b in pairs], n_resamples, seed)
    return found


def rows(finished: Finished, checkpoint: str) -> list[Generated]:
    """Return one row for each answer, to be read from prompt to sandbox."""
    found: list[Generated] = []
    by_id = {problem.id: problem for problem in finished.problems}
    for (task, sample, attempt), answer in finished.answers.items():
        problem, judgement = by_id[task], finished.judgements[task, sample, attempt]
        prompt = problem.text if finished.style == "text" else "\n\n".join(one.content for one in problem.messages)
        found.append(
            Generated(
                benchmark=finished.benchmark.name,
                subset=problem.subsets[0] if problem.subsets else "",
                checkpoint=checkpoint,
                task=task if attempt == 0 else f"{task}#{attempt + 1}",
                sample=sample,
                prompt=prompt[:_MOST_SHOWN],
                output=answer.text,
                reference=problem.gold or "",
                passed=judgement.passed,
                reward=float(judgement.passed),
                reason=judgement.reason,
                fault=judgement.fault,
                sandbox=judgement.sandbox,
                backend=judgement.backend,
                prompt_sha256=sha256_text(prompt),
                scorer=finished.benchmark.scorer,
            )
        )
    return found


def provenance(finished: Finished) -> Mapping[str, Any]:
    """Return what a benchmark's scores rest on."""
    judged = finished.judgements.values()
    return {
        "scorer": finished.benchmark.scorer,
        "style": finished.style,
        "sampling": {name: getattr(finished.sampling, name) for name in type(finished.sampling).__dataclass_fields__},
        "tries": finished.tries,
        "tasks": len(finished.problems),
        "prompt_sha256": finished.prompt_sha256,
        "files": [{"path": one.relative_path, "source": one.source} for one in finished.benchmark.files],
        "backends": sorted({one.backend for one in judged if one.backend}),
        "infrastructure_faults": _n_faults(finished),
        "gold_failures": list(finished.gold_failures),
        "prompts_too_long": sum(one.stop_reason == "prompt too long" for one in finished.answers.values()),
    }
