"""Sections of the report about data and text: the funnel, the mixture, histories, held-out text and completions.

A section is a function from gathered artifacts to what the template prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codeflow.core.types import Score
from codeflow.report import charts, gather
from codeflow.report.gather import Artifact, Artifacts
from codeflow.report.page import ReportConfig

Section = dict[str, Any]
COMPRESSORS = ("gzip", "xz")  # yardsticks among the checkpoints


def cite(*artifacts: Artifact) -> list[dict[str, str]]:
    """Return the sources that a section's caption links to."""
    return [{"name": artifact.name, "fingerprint": artifact.short} for artifact in artifacts]


def funnel(artifacts: Artifacts, config: ReportConfig) -> Section:
    """The data funnel: what each stage read and kept, reasons for drops, examples of dropped documents."""
    chain = gather.of_kind(artifacts, "documents")
    stages = []
    for artifact in chain:
        counts = artifact.manifest.counts
        examples = gather.dropped_examples(artifact, config.examples_per_reason, config.example_characters)
        stages.append(
            {
                "name": artifact.name,
                "read": counts.read,
                "kept": counts.kept,
                "reasons": sorted(counts.dropped.items(), key=lambda item: -item[1]),
                "notes": sorted(counts.notes.items(), key=lambda item: -item[1]),
                "examples": examples,
                "remarks": artifact.remarks,
            }
        )
    # A source reads far more than it takes (the rest lies beyond its cap), so its bar starts at what it took.
    drawn = [
        (s["name"], s["read"] if artifact.manifest.inputs else s["kept"], s["kept"])
        for s, artifact in zip(stages, chain, strict=True)
    ]
    return {"chart": charts.funnel(drawn), "stages": stages, "sources": cite(*chain)}


def mixture(artifacts: Artifacts) -> Section:
    """What the tokens are made of: languages, licences, sets, and each phase's weights."""
    documents = gather.of_kind(artifacts, "documents")[-1]
    tables = gather.documents_by(documents)

    def rows(table: Mapping[str, Sequence[int]], n: int = 14) -> list[tuple[str, float, str]]:
        items = [(name if len(name) <= 34 else name[:33] + "…", value) for name, value in table.items()]
        shown = [(name, float(size), f"{size / 1e6:.2f} MB, {count:,} documents") for name, (count, size) in items[:n]]
        if rest := items[n:]:
            size, count = sum(v[1] for _, v in rest), sum(v[0] for _, v in rest)
            shown.append((f"{len(rest)} more", float(size), f"{size / 1e6:.2f} MB, {count:,} documents"))
        return shown

    packed = gather.of_kind(artifacts, "tokens")
    sets = [
        {"artifact": artifact.name, "set": name, **values}
        for artifact in packed
        for name, values in artifact.manifest.metrics.get("sets", {}).items()
    ]
    weights = {a.config["phase"]: _weights(a) for a in gather.phases(artifacts)}
    tokenizers = gather.of_kind(artifacts, "tokenizer")
    per_language = tokenizers[-1].manifest.metrics.get("bytes_per_token", {}) if tokenizers else {}
    return {
        "languages": charts.bars(rows(tables["language"]), "text by language"),
        "licences": charts.bars(rows(tables["licence"]), "text by licence"),
        "sets": sets,
        "weights": weights,
        "bytes_per_token": sorted(per_language.items()),
        "sources": cite(documents, *packed, *tokenizers),
        "remarks": _remarks(artifacts),
    }


def _weights(phase: Artifact) -> Mapping[str, float]:
    """Return a phase's weights by set; where a mixture plan dealt them or they changed on the way, what was drawn."""
    metrics = phase.manifest.metrics
    changed = "mixture" in phase.manifest.inputs or phase.config.get("changes") or metrics.get("weight_changes")
    return gather.drawn_shares(phase, metrics.get("sets", {})) if changed else gather.weights_of(phase)


def _remarks(artifacts: Artifacts) -> list[str]:
    """Return what sources and phases had to say, each remark once, with the artifacts that said it."""
    said: dict[str, list[str]] = {}
    for artifact in artifacts.values():
        if artifact.manifest.kind in ("samples", "commits", "prompts", "triplets", "checkpoint"):
            for remark in artifact.remarks:
                said.setdefault(remark, []).append(artifact.name)
    return [f"{remark} ({', '.join(names)})" for remark, names in said.items()]


def scores(artifacts: Artifacts, config: ReportConfig) -> Section:
    """All scores with intervals, and some generations to read; empty where nothing was scored."""
    every = gather.of_kind(artifacts, "scores")
    if not every:
        return {}
    found = [score for artifact in every for score in gather.scores(artifact)]
    bits = _by_checkpoint([s for s in found if s.metric == "bits_per_byte"])
    levels = _by_checkpoint([s for s in found if s.metric == "edit_similarity" and s.subset])
    return {
        "bits": charts.intervals(bits, "bits per byte on held-out documents, lower is better") if bits else "",
        "rows": [score for score in found if score.metric != "bits_per_byte"],
        "bit_rows": _pivot([score for score in found if score.metric == "bits_per_byte"]),
        "completion": charts.intervals(levels, "edit similarity of completions, by level") if levels else "",
        "generations": _generations(every[-1], config.n_generations),
        "remarks": list(dict.fromkeys(remark for artifact in every for remark in artifact.remarks)),
        "sources": cite(*every),
    }


def _by_checkpoint(found: Sequence[Score]) -> list[tuple[str, str, float, float, float]]:
    """Return rows for a chart: checkpoints below each other, and of their subsets as many as there are colours."""
    subsets = list(dict.fromkeys(score.subset for score in found))[: len(charts.COLOURS)]
    return [(s.checkpoint, s.subset or "all", s.value, s.low, s.high) for s in found if s.subset in subsets]


def _generations(artifact: Artifact, n: int) -> list[dict[str, Any]]:
    """Return `n` generations of the last checkpoint, spread over the benchmarks: the best rewarded first."""
    rows = list(gather.generations(artifact))
    if not rows:
        return []
    last = [row for row in rows if row["checkpoint"] == rows[-1]["checkpoint"]]
    by_benchmark: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(last, key=lambda row: -row["reward"]):
        by_benchmark.setdefault(row["benchmark"], []).append(row)
    share = max(1, n // max(len(by_benchmark), 1))
    keys = ("task", "prompt", "output", "reference", "reason", "sandbox")
    return [
        {"benchmark": name, **{key: str(row[key])[:600] for key in keys if row[key]}}
        for name, found in by_benchmark.items()
        for row in found[:share]
    ]


def _pivot(found: Sequence[Score]) -> Section:
    columns = list(dict.fromkeys(score.checkpoint for score in found))
    subsets = list(dict.fromkeys(score.subset for score in found))
    by_place = {(score.subset, score.checkpoint): score for score in found}
    return {"columns": columns, "rows": [(s or "all", [by_place.get((s, c)) for c in columns]) for s in subsets]}


def evolution(artifacts: Artifacts, config: ReportConfig) -> Section:
    """Repository-evolution triplets: how many, why candidates failed, and a few to read."""
    found = gather.of_kind(artifacts, "triplets")
    if not found:
        return {"triplets": [], "sources": [], "counts": None, "remarks": []}
    artifact = found[-1]
    examples = [
        {
            "origin": t.origin,
            "messages": t.messages,
            "patch": t.patch[:1800],
            "position": t.position,
            "scores": t.scores,
        }
        for t in gather.triplets(artifact, config.n_triplets)
    ]
    return {
        "triplets": examples,
        "sources": cite(artifact),
        "counts": artifact.manifest.counts,
        "remarks": artifact.remarks,
    }
