"""The comparison of quality classifiers as numbers and as a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from codeflow.train.classifier_config import ClassifierConfig
from codeflow.train.classifier_scores import auc, calibration, compared, f1, interval, resamples, spearman_by_fold

if TYPE_CHECKING:
    from codeflow.train.classifier import HeldOutScores

BASELINE = "fasttext"
_UNTRAINED = ("length", "hand_made")


def result(shown: Sequence[HeldOutScores], config: ClassifierConfig, source: str) -> dict[str, Any]:
    """Return all numbers of the comparison, JSON-able."""
    labels = np.array([item.label for item in shown])
    folds = np.array([item.fold for item in shown], np.int64)
    positive = labels >= config.positive
    scores = {name: np.array([item.scores[name] for item in shown]) for name in shown[0].scores}
    groups = {
        "repositories": [item.repository for item in shown],
        "files": [f"{item.repository}\n{item.path}" for item in shown],
    }
    drawn = {name: resamples(keys, config.bootstrap_resamples, config.seed) for name, keys in groups.items()}
    table: dict[str, Any] = {}
    for name, values in scores.items():
        correlations = {
            grouping: interval(lambda rows, v=values: spearman_by_fold(v[rows], labels[rows], folds[rows]), rows_drawn)
            for grouping, rows_drawn in drawn.items()
        }
        row: dict[str, Any] = {
            "spearman": spearman_by_fold(values, labels, folds),
            "intervals": correlations,
            "auc": auc(values, positive),
        }
        if name not in _UNTRAINED:
            row["f1"] = {str(threshold): f1(values, positive, threshold) for threshold in config.thresholds}
            row["calibration"] = calibration(values, labels)
        table[name] = row
    baseline = BASELINE if BASELINE in scores else ""
    return {
        "source": source,
        "domain": config.domain,
        "target": config.target,
        "n_documents": len(shown),
        "n_repositories": len(set(groups["repositories"])),
        "positive_share": float(positive.mean()),
        "scorers": table,
        "against_fasttext": compared(scores, baseline, labels, folds, drawn) if baseline else {},
    }


def report_text(metrics: Mapping[str, Any], bytes_per_second: Mapping[str, float] | None = None) -> str:
    """Return the comparison as Markdown; with speeds only where they are given, since they are not reproducible."""
    lines = [
        f"# Quality proxies: {metrics['target']}, {metrics['domain']}, labels by {metrics['source']}",
        "",
        f"{metrics['n_documents']:,} held-out documents of {metrics['n_repositories']} repositories, "
        f"{metrics['positive_share']:.0%} positive; each scored by a model that never saw its repository. "
        "Intervals: 95 % bootstrap over repositories.",
        "",
    ]
    timed = bytes_per_second is not None
    head = ["scorer", "Spearman", "interval", "AUC", "best F1 (at)", "calibration error", *(["MB/s"] if timed else [])]
    lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, row in metrics["scorers"].items():
        cells = [name, f"{row['spearman']:.3f}", _interval(row["intervals"]["repositories"]), f"{row['auc'] or 0:.3f}"]
        if "f1" in row:
            threshold, best = max(row["f1"].items(), key=lambda pair: pair[1]["f1"])
            cells += [f"{best['f1']:.3f} ({threshold})", f"{row['calibration']['ece']:.3f}"]
        else:
            cells += ["", ""]
        if bytes_per_second is not None:
            cells.append(f"{bytes_per_second[name] / 1e6:.1f}" if name in bytes_per_second else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_verdicts(metrics)]) + "\n"


def _verdicts(metrics: Mapping[str, Any]) -> list[str]:
    if not metrics["against_fasttext"]:
        return ["fastText was not trained: nothing is claimed against it."]
    lines = []
    for name, row in metrics["against_fasttext"].items():
        over = ", ".join(f"{_interval(pair)} over {grouping}" for grouping, pair in row["intervals"].items())
        lines.append(
            f"* {name} beats fastText: **{row['beats_baseline']}** (Spearman {row['difference']:+.3f}; {over})"
        )
    return lines


def _interval(pair: Sequence[float]) -> str:
    return f"{pair[0]:.3f} to {pair[1]:.3f}"
