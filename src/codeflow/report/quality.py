"""The report's part on quality proxies: whose labels, how well each kind agrees with them, what they scored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from codeflow.core.records import read_records, shards
from codeflow.core.types import Document
from codeflow.report import charts, gather
from codeflow.report.gather import Artifact, Artifacts
from codeflow.report.sections import Section, cite

LABELS_KIND, CLASSIFIER_KIND, DOCUMENTS_KIND = "labels", "classifier", "documents"
BASELINE = "fasttext"
_SPEEDS = ".timing.json"
_N_BINS = 20


def quality(artifacts: Artifacts) -> Section:
    """Labels, classifiers and documents that a classifier scored; empty without any classifier."""
    classifiers = gather.of_kind(artifacts, CLASSIFIER_KIND)
    if not classifiers:
        return {}
    labels = gather.of_kind(artifacts, LABELS_KIND)
    scored = [a for a in gather.of_kind(artifacts, DOCUMENTS_KIND) if "read_share" in a.manifest.metrics]
    return {
        "labels": [_labels(artifact) for artifact in labels],
        "classifiers": [_classifier(artifact) for artifact in classifiers],
        "scored": [_scored(artifact) for artifact in scored],
        "sources": cite(*labels, *classifiers, *scored),
    }


def _labels(artifact: Artifact) -> Section:
    """Return how many labels there are and what they are made of; of a teacher, how far its passes agree."""
    metrics, counts = artifact.manifest.metrics, artifact.manifest.counts
    kappa: Mapping[str, Mapping[str, float | None]] = metrics.get("kappa", {})
    return {
        "name": artifact.name,
        "source": f"teacher {metrics['teacher']}" if "teacher" in metrics else "history",
        "read": counts.read,
        "kept": counts.kept,
        "dropped": sorted(counts.dropped.items(), key=lambda item: -item[1]),
        "notes": sorted(counts.notes.items(), key=lambda item: -item[1]),
        "kappa": {domain: grades for domain, grades in kappa.items() if any(v is not None for v in grades.values())},
        "known": metrics.get("toxicity_of_known_examples"),
        "price": metrics.get("price"),
        "n_repositories": len(metrics.get("labels", {})),
    }


def _classifier(artifact: Artifact) -> Section:
    """Return the comparison on held-out documents. Speeds lie beside the artifact and may be missing."""
    metrics = artifact.manifest.metrics
    timing = artifact.folder / _SPEEDS
    positive = metrics["positive_share"]
    table: Mapping[str, Any] = metrics["scorers"]
    drawn = [
        (name, f"over {grouping}", row["spearman"], *pair)
        for name, row in table.items()
        for grouping, pair in row["intervals"].items()
    ]
    lines = {
        name: [(b["score"], b["label"], b["n"]) for b in row["calibration"]["bins"]]
        for name, row in table.items()
        if "calibration" in row
    }
    return {
        "name": artifact.name,
        "metrics": metrics,
        "thresholds": list(next((row["f1"] for row in table.values() if "f1" in row), {})),
        "f1_of_all": 2 * positive / (1 + positive),  # of calling every document positive
        "speeds": json.loads(timing.read_text()) if timing.exists() else {},
        "chart": charts.intervals(drawn, f"Spearman's correlation with {metrics['target']}, held-out documents"),
        "calibration": charts.calibration(lines, "share of positives by score"),
        "verdicts": metrics["against_fasttext"],
    }


def _scored(artifact: Artifact) -> Section:
    """Return what a classifier scored, how much of the text it read, and how the scores lie."""
    counts, tag = artifact.manifest.counts, artifact.config["tag"]
    bins = [0] * _N_BINS
    for path in shards(artifact.folder, "documents"):
        for row in read_records(path, Document, columns=["tags"]):
            assert isinstance(row, dict)
            value = dict(row["tags"]).get(tag)
            if value is not None:
                bins[min(int(value * _N_BINS), _N_BINS - 1)] += 1
    return {
        "name": artifact.name,
        "tag": tag,
        "learnt": artifact.manifest.metrics["classifier"],
        "read_share": artifact.manifest.metrics["read_share"],
        "documents": counts.read,
        "scored": counts.notes.get("scored", 0),
        "scored_bytes": counts.notes.get("scored_bytes", 0),
        "chart": charts.histogram(bins, f"documents by {tag}"),
    }
