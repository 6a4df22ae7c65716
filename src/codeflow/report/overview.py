"""The report's frame: the few numbers that matter, and what every stage took and was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codeflow.core.types import Score
from codeflow.report import charts, gather, lineage
from codeflow.report.gather import Artifact, Artifacts
from codeflow.report.reinforcement import CHAT
from codeflow.report.sections import COMPRESSORS, Section


def stages(artifacts: Artifacts) -> Section:
    """Lineage, time and memory of every stage."""
    rows = [_row(artifact) for artifact in artifacts.values()]
    clock = gather.busy(artifacts)
    ran = sorted(clock.starts.items(), key=lambda item: item[1])
    memory = [
        (row["name"], float(row["peak_memory_bytes"]), f"{row['peak_memory_bytes'] / 2**20:,.0f} MiB")
        for row in rows
        if row["peak_memory_bytes"]
    ]
    return {
        "rows": rows,
        "picture": lineage.draw(artifacts),
        "time": charts.lanes([(n, at, artifacts[n].run["seconds"]) for n, at in ran], "when stages ran"),
        "memory": charts.bars(memory, "resident memory at most, while the stage ran", 0.26),
        "total_seconds": sum(row["seconds"] or 0 for row in rows),
        "wall_seconds": clock.seconds,
        "peak_memory_bytes": _peak(artifacts),
    }


def _row(artifact: Artifact) -> Section:
    manifest, run = artifact.manifest, artifact.run
    return {
        "name": artifact.name,
        "kind": manifest.kind,
        "fingerprint": manifest.fingerprint,
        "inputs": {key: (Path(one.path).name, one.fingerprint[:10]) for key, one in manifest.inputs.items()},
        "n_bytes": manifest.n_bytes,
        "seconds": run.get("seconds"),
        "peak_memory_bytes": run.get("peak_memory_bytes"),
        "resumed": run.get("resumed", False),
        "version": manifest.codeflow_version,
    }


def _peak(artifacts: Artifacts) -> int:
    return max((artifact.run.get("peak_memory_bytes", 0) for artifact in artifacts.values()), default=0)


def summary(artifacts: Artifacts) -> list[tuple[str, str]]:
    """The numbers that matter, as (name, text): data, training, scores, cost."""
    documents = gather.of_kind(artifacts, "documents")
    lines = [
        ("documents", f"{documents[-1].manifest.counts.kept:,} kept of {documents[0].manifest.counts.kept:,} taken")
    ]
    lines += _trained(artifacts)
    lines += _folded(artifacts)
    scores = [s for a in gather.of_kind(artifacts, "scores") for s in gather.scores(a) if not s.subset]
    lines += _held_out(scores)
    lines += _reinforced(artifacts)
    lines += _programs(scores)
    seconds, peak = gather.busy(artifacts).seconds, _peak(artifacts)
    return [*lines, ("made in", f"{seconds:.0f} s, at most {peak / 2**30:.1f} GiB")]


def _trained(artifacts: Artifacts) -> list[tuple[str, str]]:
    """Tokens, and the held-out loss of pre-training from its first phase's start to its last one's end."""
    phases = [a for a in gather.phases(artifacts) if not a.config["phase"].startswith(("sft_", "dense_", "loop_"))]
    tokens = sum(a.manifest.metrics.get("tokens", 0) for a in gather.phases(artifacts))
    lines = [("tokens trained on, all phases", f"{tokens:,}")] if tokens else []
    points = [row["validation"] for a in phases for row in gather.curve(a) if row.get("validation")]
    if points:
        names = [name for name in sorted(points[0]) if name in points[-1]]
        moves = ", ".join(f"{name} {points[0][name]:.2f} → {points[-1][name]:.2f}" for name in names)
        lines.append(("held-out loss, pre-training", moves))
    return lines


def _folded(artifacts: Artifacts) -> list[tuple[str, str]]:
    found = gather.folds(artifacts)
    if not found:
        return []
    losses, chosen = found[-1].manifest.metrics["losses"], found[-1].config.get("strategy", "")
    if chosen not in losses:
        return []
    jumps = ", ".join(f"{name} {losses[chosen][name] - value:+.3f}" for name, value in losses["dense"].items())
    return [(f"dense to loop ({chosen}), jump of held-out loss", jumps)]


def _interval(score: Score) -> str:
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _held_out(scores: Sequence[Score]) -> list[tuple[str, str]]:
    """The best checkpoint's bits per byte beside gzip's."""
    bits = [s for s in scores if s.metric == "bits_per_byte"]
    models = [s for s in bits if s.checkpoint not in COMPRESSORS]
    if not models:
        return []
    best = min(models, key=lambda score: score.value)
    gzip = next((f", gzip {s.value:.3f}" for s in bits if s.checkpoint == "gzip"), "")
    return [(f"bits per byte on held-out text, {best.checkpoint}", _interval(best) + gzip)]


def _reinforced(artifacts: Artifacts) -> list[tuple[str, str]]:
    """Each first run of a path: held-out pass@1 and the largest pass@k, before and after."""
    chat = {
        name: {s.metric: s for s in rows if s.benchmark == CHAT}
        for name, rows in gather.scores_by_stage(artifacts).items()
    }
    lines, seen = [], set()
    for run in gather.reinforced(artifacts):
        path = bool(run.config["rollout"].get("thinking"))
        before, after = chat.get(run.start, {}), chat.get(run.name, {})
        if path in seen or run.config["reward"] == "random" or not before or not after:
            continue
        seen.add(path)
        metrics = sorted(before.keys() & after.keys(), key=lambda metric: int(metric[5:]))
        for metric in dict.fromkeys((metrics[0], metrics[-1])):
            lines.append((f"{run.name}, {metric}", f"{_interval(before[metric])} → {_interval(after[metric])}"))
    return lines


def _programs(scores: Sequence[Score]) -> list[tuple[str, str]]:
    """The last checkpoint that wrote HumanEval programs."""
    found = [s for s in scores if s.benchmark == "humaneval" and s.metric == "pass@1"]
    return [(f"HumanEval pass@1, {found[-1].checkpoint}", _interval(found[-1]))] if found else []
