"""The report's part on a mixture plan: from which law it comes, what it promises, and what training made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from codeflow.report import charts, gather
from codeflow.report.gather import Artifact, Artifacts
from codeflow.report.sections import Section, cite

PLAN_KIND, PLAN = "mixture_plan", "mixture.json"
LAW_KIND, LAWS = "scaling_law", "laws.json"
_SAME_SIZE, _SAME_SHARE = 0.02, 0.02  # a run counts as what the plan speaks of


def allocation(artifacts: Artifacts) -> Section:
    """The last mixture plan of the run, the law behind it and the phases trained with it; empty without a plan."""
    found = gather.of_kind(artifacts, PLAN_KIND)
    if not found:
        return {}
    plan = json.loads((found[-1].folder / PLAN).read_text())
    laws = gather.of_kind(artifacts, LAW_KIND)
    trained = [phase for phase in gather.phases(artifacts) if set(plan["weights"]) <= _sets(phase).keys()]
    return {
        "plan": plan,
        "chart": _shares(plan),
        "laws": _laws(laws[-1]) if laws else [],
        "trained": [_trained(phase, plan) for phase in trained],
        "remarks": plan["remarks"],
        "sources": cite(found[-1], *laws, *trained),
    }


def _shares(plan: Mapping[str, Any]) -> str:
    """Draw each row's shares; the interval is that of the plan under resampled fits."""
    intervals = plan["spread"]["shares"] if plan["spread"] else {}
    rows = []
    for name, shares in plan["rows"].items():
        for language, share in shares.items():
            low, high = intervals.get(language, (share, share)) if name == "allocated" else (share, share)
            rows.append((language, name, 100 * share, 100 * low, 100 * high))
    return charts.intervals(rows, "share of the tokens, %")


def _laws(artifact: Artifact) -> list[Section]:
    """Return each law's parameters with intervals, hold-out error and warnings."""
    laws: Mapping[str, Any] = json.loads((artifact.folder / LAWS).read_text())
    return [
        {
            "name": name,
            "n_runs": law["n_runs"],
            "noise": law["noise"],
            "parameters": law["parameters"],
            "hold_out": law["hold_out"],
            "warnings": law["warnings"],
        }
        for name, law in laws.items()
    ]


def _sets(phase: Artifact) -> Mapping[str, Any]:
    return phase.manifest.metrics.get("sets", {})


def _trained(phase: Artifact, plan: Mapping[str, Any]) -> Section:
    """Return what a phase drew and reached, beside what the law said of shares and a size like its own."""
    drawn = gather.drawn_shares(phase, plan["weights"])
    measured = phase.manifest.metrics.get("validation_after", {})
    row = next((name for name, shares in plan["rows"].items() if _close(drawn, shares)), None)
    n_tokens = sum(use["tokens"] for use in _sets(phase).values())
    same_size = all(
        abs(ours / plan[name] - 1) < _SAME_SIZE
        for name, ours in (("n_parameters", phase.manifest.metrics["n_parameters"]), ("n_tokens", n_tokens))
    )
    predicted = plan["predicted_loss_by_language"].get(row, {}) if same_size else {}
    weights = plan["loss_weights"] if drawn.keys() <= measured.keys() else {}
    return {
        "name": phase.name,
        "row": row if same_size else None,
        "shares": drawn,
        "measured": measured,
        "predicted": predicted,
        "mean": sum(weights[name] * measured[name] for name in weights) if weights else None,
        "mean_predicted": plan["predicted_loss"][row] if predicted else None,
    }


def _close(drawn: Mapping[str, float], shares: Mapping[str, float]) -> bool:
    return all(abs(drawn[name] - share) < _SAME_SHARE for name, share in shares.items())
