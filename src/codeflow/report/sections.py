"""The report's sections: from gathered artifacts to what the template prints. One function per section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codeflow.core.types import Score
from codeflow.report import charts, gather, lineage
from codeflow.report.gather import Artifact
from codeflow.report.page import ReportConfig

Artifacts = Mapping[str, Artifact]
Section = dict[str, Any]
_COMPRESSORS = ("gzip", "xz")  # yardsticks among the checkpoints


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
    weights = {a.config["phase"]: a.config["mixture"] for a in gather.phases(artifacts)}
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


def _remarks(artifacts: Artifacts) -> list[str]:
    """Return what sources and phases had to say, each remark once, with the artifacts that said it."""
    said: dict[str, list[str]] = {}
    for artifact in artifacts.values():
        if artifact.manifest.kind in ("samples", "commits", "prompts", "triplets", "checkpoint"):
            for remark in artifact.remarks:
                said.setdefault(remark, []).append(artifact.name)
    return [f"{remark} ({', '.join(names)})" for remark, names in said.items()]


def training(artifacts: Artifacts) -> Section:
    """Loss by phase, throughput and model FLOP utilisation."""
    checkpoints = gather.phases(artifacts)
    curves = {artifact.config["phase"]: gather.curve(artifact) for artifact in checkpoints}
    flat = [row for rows in curves.values() for row in rows]
    timed = list(enumerate(row for row in flat if "tokens_per_second" in row))
    phases = []
    for artifact in checkpoints:
        rows = curves[artifact.config["phase"]]
        validations = [row["validation"] for row in rows if "validation" in row]
        phases.append(
            {
                "phase": artifact.config["phase"],
                "steps": len([row for row in rows if "loss" in row]),
                "metrics": artifact.manifest.metrics,
                "validation": [
                    (name, validations[0][name], validations[-1][name])
                    for name in sorted(validations[0])
                    if name in validations[-1]
                ]
                if validations
                else [],
                "seconds": artifact.run.get("seconds"),
                "fingerprint": artifact.short,
            }
        )
    return {
        "chart": charts.loss_curves(_main_line(checkpoints, curves)),
        "throughput": charts.series([(i, row["tokens_per_second"]) for i, row in timed], "tokens per second"),
        "mfu": charts.series([(i, row["mfu"]) for i, row in timed if "mfu" in row], "model FLOP utilisation"),
        "learning_rate": charts.series([(i, row["lr"]) for i, row in enumerate(flat) if "lr" in row], "learning rate"),
        "phases": phases,
        "sources": cite(*checkpoints),
    }


def _main_line(checkpoints: Sequence[Artifact], curves: Mapping[str, Any]) -> dict[str, Any]:
    """Return the curves of one line of descent: what the last looped or, without a fold, the last phase came from.

    Supervised fine-tuning is left out: its loss is of answers only, on another scale.
    """
    folded = any(artifact.config["phase"].startswith("loop_") for artifact in checkpoints)
    skipped = ("sft_", "dense_") if folded else ("sft_",)
    return {phase: rows for phase, rows in curves.items() if not phase.startswith(skipped)}


def folding(artifacts: Artifacts) -> Section:
    """Dense to loop: held-out loss before, right after by strategy, and after recovery beside the dense control."""
    found = gather.folds(artifacts)
    if not found:
        return {}
    losses = found[-1].manifest.metrics["losses"]
    mid = [a for a in gather.phases(artifacts) if a.config["phase"].startswith(("loop_", "dense_"))]
    after = {a.name: a.manifest.metrics.get("validation_after", {}) for a in mid}
    sets = sorted({name for values in [*losses.values(), *after.values()] for name in values})
    return {"sets": sets, "rows": list(losses.items()), "after": list(after.items()), "sources": cite(found[-1], *mid)}


def reinforcement(artifacts: Artifacts) -> Section:
    """Reward by step of every run of reinforcement learning."""
    found = gather.reinforced(artifacts)
    if not found:
        return {}
    drawn = [
        charts.series([(row["step"], row["passed"]) for row in gather.curve(a) if "passed" in row], f"{a.name}: passed")
        for a in found
    ]
    return {"charts": drawn, "sources": cite(*found)}


def scores(artifacts: Artifacts, config: ReportConfig) -> Section:
    """All scores with intervals, and some generations to read."""
    artifact = gather.required(artifacts, "scores")
    found = gather.scores(artifact)
    bits = [(s.subset or "all", s.checkpoint, s.value, s.low, s.high) for s in found if s.metric == "bits_per_byte"]
    levels = [
        (s.subset, s.checkpoint, s.value, s.low, s.high) for s in found if s.metric == "edit_similarity" and s.subset
    ]
    return {
        "bits": charts.intervals(bits, "bits per byte on held-out documents, lower is better", reference="gzip")
        if bits
        else "",
        "rows": [score for score in found if score.metric != "bits_per_byte"],
        "bit_rows": _pivot([score for score in found if score.metric == "bits_per_byte"]),
        "completion": charts.intervals(levels, "edit similarity of completions, by level") if levels else "",
        "generations": _generations(artifact, config.n_generations),
        "remarks": artifact.remarks,
        "sources": cite(artifact),
    }


def _generations(artifact: Artifact, n: int) -> list[dict[str, Any]]:
    """Return `n` generations of the last checkpoint, spread over the benchmarks: the best rewarded first."""
    rows = list(gather.generations(artifact))
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


def stages(artifacts: Artifacts) -> Section:
    """Lineage, time and memory of every stage."""
    rows = []
    for artifact in artifacts.values():
        manifest, run = artifact.manifest, artifact.run
        rows.append(
            {
                "name": artifact.name,
                "kind": manifest.kind,
                "fingerprint": manifest.fingerprint,
                "inputs": {
                    key: (record.path.rsplit("/", 1)[-1], record.fingerprint[:10])
                    for key, record in manifest.inputs.items()
                },
                "n_bytes": manifest.n_bytes,
                "seconds": run.get("seconds"),
                "peak_memory_bytes": run.get("peak_memory_bytes"),
                "resumed": run.get("resumed", False),
                "started_at": run.get("started_at", ""),
                "version": manifest.codeflow_version,
            }
        )
    timed = [
        (row["name"], float(row["seconds"] or 0), f"{row['seconds']:.1f} s")
        for row in rows
        if row["seconds"] is not None
    ]
    memory = [
        (row["name"], float(row["peak_memory_bytes"]), f"{row['peak_memory_bytes'] / 2**20:,.0f} MiB")
        for row in rows
        if row["peak_memory_bytes"]
    ]
    return {
        "rows": rows,
        "picture": lineage.draw(artifacts),
        "time": charts.bars(timed, "seconds by stage", 0.26),
        "memory": charts.bars(memory, "peak memory by stage", 0.26),
        "total_seconds": sum(row["seconds"] or 0 for row in rows),
        "peak_memory_bytes": max((row["peak_memory_bytes"] or 0 for row in rows), default=0),
    }


def summary(artifacts: Artifacts) -> list[tuple[str, str]]:
    """The numbers that matter, as (name, text)."""
    documents = gather.of_kind(artifacts, "documents")
    lines = [
        ("documents", f"{documents[-1].manifest.counts.kept:,} kept of {documents[0].manifest.counts.kept:,} taken")
    ]
    for artifact in gather.of_kind(artifacts, "tokens"):
        sets = artifact.manifest.metrics.get("sets", {})
        lines.append(("tokens", f"{sum(values['n_tokens'] for values in sets.values()):,} in {len(sets)} sets"))
    for artifact in gather.of_kind(artifacts, "triplets"):
        lines.append(("evolution triplets", f"{artifact.manifest.counts.kept:,}"))
    for artifact in gather.phases(artifacts):
        points = [row["validation"] for row in gather.curve(artifact) if "validation" in row]
        if points:
            names = [name for name in sorted(points[0]) if name in points[-1]]
            moves = ", ".join(f"{name} {points[0][name]:.2f} → {points[-1][name]:.2f}" for name in names)
            lines.append((f"held-out loss, {artifact.config['phase']} phase", moves))
    for artifact in gather.of_kind(artifacts, "scores"):
        lines += _headlines(gather.scores(artifact))
    seconds = sum(artifact.run.get("seconds", 0) for artifact in artifacts.values())
    peak = max((artifact.run.get("peak_memory_bytes", 0) for artifact in artifacts.values()), default=0)
    return [*lines, ("made in", f"{seconds:.0f} s of stages, at most {peak / 2**30:.1f} GiB")]


def _headlines(found: Sequence[Score]) -> list[tuple[str, str]]:
    """One line per benchmark and metric: the last checkpoint, beside gzip where there is one."""
    whole = [score for score in found if not score.subset]
    last = {(score.benchmark, score.metric): score for score in whole if score.checkpoint not in _COMPRESSORS}
    beside = {(score.benchmark, score.metric): score for score in whole if score.checkpoint == "gzip"}
    lines = []
    for key, score in last.items():
        text = f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
        text += f", gzip {beside[key].value:.3f}" if key in beside else ""
        lines.append((f"{score.benchmark} {score.metric}, {score.checkpoint}", text))
    return lines
