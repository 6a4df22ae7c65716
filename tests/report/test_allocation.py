"""The mixture section of the report, fed by a mixture plan, the law behind it and phases trained with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from codeflow.core.storage import write_text
from codeflow.report.allocation import allocation
from codeflow.report.gather import read_artifact
from tests.report.conftest import finish, make_page, phase, start
from tests.report.test_page import write_run

PLAN: dict[str, Any] = {
    "weights": {"a": 0.75, "b": 0.25},
    "n_parameters": 1000.0,
    "n_tokens": 400.0,
    "rows": {"allocated": {"a": 0.75, "b": 0.25}, "uniform": {"a": 0.5, "b": 0.5}},
    "predicted_loss": {"allocated": 1.5, "uniform": 1.625},
    "loss_weights": {"a": 0.5, "b": 0.5},
    "predicted_loss_by_language": {"allocated": {"a": 1.25, "b": 1.75}, "uniform": {"a": 1.5, "b": 1.75}},
    "spread": {"confidence": 0.95, "n_fits": 90, "shares": {"a": [0.7, 0.8], "b": [0.2, 0.3]}, "gain": [0.1, 0.2]},
    "remarks": ["gain over uniform shares: <told>"],
}
LAW = {
    "a": {
        "n_runs": 12,
        "noise": 0.01,
        "parameters": [{"name": "aN", "value": 0.3478, "low": 0.25, "high": 0.5}],
        "hold_out": {"mean_error": 0.0123},
        "warnings": ["aN is barely identifiable"],
    }
}


def metrics(rows_of_a: int, rows_of_b: int, n_parameters: int = 1000) -> dict[str, Any]:
    """Return what a phase of 400 tokens reports."""
    rows = {"a": rows_of_a, "b": rows_of_b}
    sets = {name: {"rows": n, "tokens": 400 * n / (rows_of_a + rows_of_b)} for name, n in rows.items()}
    return {"n_parameters": n_parameters, "sets": sets, "validation_after": {"a": 1.3, "b": 1.8}}


def write_plan(folder: Path) -> dict[str, Path]:
    law = start(folder / "law", "scaling_law", {})
    write_text(law / "laws.json", json.dumps(LAW))
    finish(law)
    plan = start(folder / "mixture_plan", "mixture_plan", {"law": law})
    write_text(plan / "mixture.json", json.dumps(PLAN))
    finish(plan)
    return {"law": law, "mixture_plan": plan}


def test_a_plan_its_law_and_its_phases_are_told(tmp_path: Path) -> None:
    inputs = write_run(tmp_path) | write_plan(tmp_path)
    inputs["planned"] = phase(tmp_path / "planned", "planned", {"mixture": inputs["mixture_plan"]}, metrics(30, 10))
    inputs["equal"] = phase(tmp_path / "equal", "equal", {}, metrics(20, 20))
    inputs["large"] = phase(tmp_path / "large", "large", {}, metrics(20, 20, n_parameters=2000))
    html, _ = make_page(tmp_path, inputs)
    assert 'id="allocation"' in html
    assert "gain over uniform shares: &lt;told&gt;" in html
    assert "aN is barely identifiable" in html
    assert "a: 0.75, b: 0.25" in html  # the weights of `planned` are those that were dealt, not its configuration's
    section = allocation({name: read_artifact(name, path) for name, path in inputs.items()})
    assert [(t["name"], t["row"], t["mean_predicted"]) for t in section["trained"]] == [
        ("planned", "allocated", 1.5),
        ("equal", "uniform", 1.625),
        ("large", None, None),  # the law was asked about another size
    ]
    assert section["trained"][0]["mean"] == (1.3 + 1.8) / 2
    assert {source["name"] for source in section["sources"]} == {"law", "mixture_plan", "planned", "equal", "large"}


def test_without_a_plan_there_is_no_such_part(tmp_path: Path) -> None:
    assert 'id="allocation"' not in make_page(tmp_path, write_run(tmp_path))[0]
