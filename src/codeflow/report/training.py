"""Sections of the report about training: losses over all phases, and what a fold did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codeflow.report import charts, curves, gather
from codeflow.report.curves import Panel
from codeflow.report.gather import Artifact, Artifacts
from codeflow.report.sections import Section, cite

_MID = {"stage1": "mid-training 1", "stage2": "mid-training 2"}
_FINE_TUNING = "sft_"  # phases whose loss is of answers only


def training(artifacts: Artifacts) -> Section:
    """Loss of every phase, throughput and model FLOP utilisation; empty where nothing was trained."""
    checkpoints = gather.phases(artifacts)
    if not checkpoints:
        return {}
    rows = {artifact.name: gather.curve(artifact) for artifact in checkpoints}
    flat = [row for steps in rows.values() for row in steps]
    timed = list(enumerate(row for row in flat if "tokens_per_second" in row))
    folded = {artifact.name for artifact in gather.folds(artifacts)}
    panels = _pretraining(checkpoints, rows)
    first_mid = len(panels)
    panels += _mid_training(checkpoints, rows)
    borders = {first_mid: "fold"} if folded and len(panels) > first_mid else {}
    return {
        "chart": curves.losses(panels, borders),
        "fine_tuning": curves.losses(_fine_tuning(checkpoints, rows), from_zero=True),
        "mixtures": curves.mixtures(_changing(checkpoints, rows)),
        "weight_changes": [line for artifact in checkpoints for line in _changes(artifact, rows[artifact.name])],
        "throughput": charts.series([(i, row["tokens_per_second"]) for i, row in timed], "tokens per second"),
        "mfu": charts.series([(i, row["mfu"]) for i, row in timed if "mfu" in row], "model FLOP utilisation"),
        "learning_rate": charts.series([(i, row["lr"]) for i, row in enumerate(flat) if "lr" in row], "learning rate"),
        "phases": [_told(artifact, rows[artifact.name]) for artifact in checkpoints],
        "sources": cite(*checkpoints),
    }


def _changing(checkpoints: Sequence[Artifact], rows: Mapping[str, curves.Rows]) -> list[Panel]:
    """Return a panel for each phase whose mixture changed while it ran."""
    n_mixtures = {name: sum("mixture" in row for row in steps) for name, steps in rows.items()}
    return [Panel(a.name, {a.name: rows[a.name]}) for a in checkpoints if n_mixtures[a.name] > 1]


def _changes(artifact: Artifact, rows: curves.Rows) -> list[tuple[str, int, dict[str, float], dict[str, str]]]:
    """Return (phase, step, weights, reasons by set) of every change of a phase's mixture."""
    reasons = {row["step"]: row["mixture_reasons"] for row in rows if "mixture_reasons" in row}
    found = [row for row in rows if "mixture" in row and row["step"] > 0]
    return [(artifact.name, row["step"], row["mixture"], reasons.get(row["step"] - 1, {})) for row in found]


def _told(artifact: Artifact, rows: Sequence[Mapping[str, Any]]) -> Section:
    """Return a phase's line of the table; held-out losses of the sets that start and end have in common."""
    points = [row["validation"] for row in rows if row.get("validation")]
    names = [name for name in sorted(points[0]) if name in points[-1]] if points else []
    return {
        "name": artifact.name,
        "steps": len([row for row in rows if "loss" in row]),
        "tokens": artifact.manifest.metrics.get("tokens"),
        "seconds": artifact.run.get("seconds"),
        "validation": [(name, points[0][name], points[-1][name]) for name in names],
    }


def _mid(artifact: Artifact) -> str:
    """Return which mid-training stage a phase is, "" for none."""
    kind, _, stage = artifact.config["phase"].partition("_")
    return stage if kind in ("loop", "dense") and stage in _MID else ""


def _pretraining(checkpoints: Sequence[Artifact], rows: Mapping[str, curves.Rows]) -> list[Panel]:
    found = [a for a in checkpoints if not _mid(a) and not a.config["phase"].startswith(_FINE_TUNING)]
    return [Panel(artifact.config["phase"], {"training": rows[artifact.name]}) for artifact in found]


def _mid_training(checkpoints: Sequence[Artifact], rows: Mapping[str, curves.Rows]) -> list[Panel]:
    """Return one panel per stage: the looped model and the dense control."""
    panels = []
    for stage, title in _MID.items():
        here = {
            artifact.config["phase"].partition("_")[0]: artifact for artifact in checkpoints if _mid(artifact) == stage
        }
        labels = {"loop": "training", "dense": "dense control, training"}
        lines = {label: rows[here[kind].name] for kind, label in labels.items() if kind in here}
        panels.append(Panel(title, lines))
    return [panel for panel in panels if panel.lines]


def _fine_tuning(checkpoints: Sequence[Artifact], rows: Mapping[str, curves.Rows]) -> list[Panel]:
    """Return one panel per path, told apart by the sets that it trains on."""
    panels: dict[str, dict[str, curves.Rows]] = {}
    for artifact in checkpoints:
        if artifact.config["phase"].startswith(_FINE_TUNING):
            path = " + ".join(sorted(gather.weights_of(artifact)))
            panels.setdefault(f"{path} path", {})[artifact.name] = rows[artifact.name]
    return [Panel(name, lines) for name, lines in panels.items()]


def folding(artifacts: Artifacts) -> Section:
    """Dense to loop: held-out loss before, right after by strategy, and after recovery beside the dense control."""
    found = gather.folds(artifacts)
    if not found:
        return {}
    fold = found[-1]
    measured: dict[str, dict[str, float]] = fold.manifest.metrics["losses"]
    before = measured["dense"]
    sets = sorted(before)
    chosen = fold.config.get("strategy", "")
    after = [(name, values) for name, values in measured.items() if name != "dense"]
    after.sort(key=lambda item: (not item[0].startswith(chosen), sum(item[1].values())))
    named = [("dense, before", before)] + [(f"{name}{' (used)' if name == chosen else ''}", v) for name, v in after]
    parts = [("right after the fold", named)]
    mid = [artifact for artifact in gather.phases(artifacts) if _mid(artifact)]
    parts += _stages(mid, sets)
    tables = [
        (title, [(name, values, _difference(values, {} if number else before)) for name, values in rows])
        for number, (title, rows) in enumerate(parts)
    ]
    return {
        "chart": curves.held_out(parts, sets),
        "parts": tables,
        "sets": sets,
        "jump": _difference(measured.get(chosen, {}), before),
        "jump_at_0": _difference(measured.get(f"{chosen}, second pass at 0", {}), before),
        "recovery": _recovery(mid),
        "sources": cite(fold, *mid),
    }


def _stages(mid: Sequence[Artifact], sets: Sequence[str]) -> list[tuple[str, list[tuple[str, dict[str, float]]]]]:
    """Return for each mid-training stage what the loop and the dense control lost before and after it."""
    parts = []
    for stage, title in _MID.items():
        rows = []
        for when in ("before", "after"):
            for artifact in mid:
                if _mid(artifact) != stage:
                    continue
                values = artifact.manifest.metrics.get(f"validation_{when}", {})
                kind = "loop" if artifact.config["phase"].startswith("loop") else "dense control"
                ramped = when == "before" and artifact.config.get("second_pass_ramp_steps")
                label = f"{kind}, {when}" + (", second pass at 0" if ramped else "")
                rows.append((label, {name: values[name] for name in sets if name in values}))
        if rows:
            both = len({label.partition(",")[0] for label, _ in rows}) > 1
            parts.append((f"{title}: the same tokens for both" if both else title, rows))
    return parts


def _difference(values: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in values.items() if name in before}


def _recovery(mid: Sequence[Artifact]) -> list[tuple[str, str, float, float]]:
    """Return (stage, set, loop, dense control) after each stage, of every set that both measured."""
    found = []
    for stage, title in _MID.items():
        ends = {
            artifact.config["phase"].partition("_")[0]: artifact.manifest.metrics.get("validation_after", {})
            for artifact in mid
            if _mid(artifact) == stage
        }
        loop, dense = ends.get("loop", {}), ends.get("dense", {})
        found += [(title, name, loop[name], dense[name]) for name in sorted(loop) if name in dense]
    return found
