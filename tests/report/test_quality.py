"""The section on quality proxies, fed by labels, a comparison and documents that a proxy scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codeflow.core.manifest import Counts, seal
from codeflow.core.records import write_records
from codeflow.core.storage import write_text
from codeflow.core.types import Document
from codeflow.report import charts
from codeflow.report.gather import read_artifact
from codeflow.report.quality import quality
from codeflow.transform.operator import with_tags
from tests.report.conftest import finish, make_page, start
from tests.report.test_page import document, write_run

INTERVALS = {"repositories": [-0.1, 0.3], "files": [0.05, 0.15]}
TRAINED = {
    "spearman": 0.125,
    "intervals": INTERVALS,
    "auc": 0.5625,
    "f1": {"0.3": {"f1": 0.613}, "0.5": {"f1": 0.5875}},
    "calibration": {"ece": 0.031, "brier": 0.244, "bins": [{"n": 7, "score": 0.25, "label": 0.3}]},
}
UNTRAINED = {"spearman": 0.0625, "intervals": INTERVALS, "auc": None}


def comparison(**fields: Any) -> dict[str, Any]:
    """Return the metrics of a classifier that has neither won nor lost."""
    row = {"difference": 0.03, "intervals": INTERVALS, "beats_baseline": "not shown"}
    return {
        "source": "history",
        "domain": "code",
        "target": "survival<b>",
        "n_documents": 1200,
        "n_repositories": 9,
        "positive_share": 0.5,
        "scorers": {"linear": TRAINED, "fasttext": TRAINED, "length": UNTRAINED},
        "against_fasttext": {"linear": row, "length": row},
        **fields,
    }


def write_proxies(folder: Path, **fields: Any) -> dict[str, Path]:
    """Write labels of history and of a teacher, a classifier, and documents of which two were scored."""
    labels = start(folder / "labels", "labels", {})
    seal(labels, Counts(read=9, kept=5, dropped={"no_label": 4}, notes={"reverted": 1}), {"labels": {"r": {"0": 5}}})
    graded = start(folder / "graded", "labels", {})
    kappa = {"code": {"toxicity": None, "information_density": 0.8125}, "general": {"toxicity": None}}
    known = {"exact": 0.75, "kappa": 0.5}
    seal(graded, Counts(), {"teacher": "m", "kappa": kappa, "price": 1.5, "toxicity_of_known_examples": known})
    trained = start(folder / "classifier", "classifier", {"labels": labels})
    write_text(trained / ".timing.json", json.dumps({"linear": 25e6}))
    finish(trained, metrics=comparison(**fields))
    scored = start(folder / "scored", "documents", {"classifier": trained})
    shown = [with_tags(document("a = 1\n"), {"value": 1.0}), with_tags(document("b = 1\n"), {"value": 0.01})]
    write_records(scored / "documents-00000.parquet", [*shown, document("c")], Document)
    write_text(scored / "config.json", json.dumps({"tag": "value"}))
    learnt = {"kind": "linear", "domain": "code", "target": "survival", "source": "history"}
    notes = {"scored": 2, "scored_bytes": 12, "read_bytes": 9}
    seal(scored, Counts(read=3, kept=3, notes=notes), {"read_share": 0.75, "classifier": learnt})
    return {path.name: path for path in (labels, graded, trained, scored)}


def test_labels_comparison_and_scored_documents_are_told(tmp_path: Path) -> None:
    inputs = write_run(tmp_path) | write_proxies(tmp_path)
    html, _ = make_page(tmp_path, inputs)
    assert 'id="quality"' in html
    assert 'href="#quality"' in html
    assert "linear beats fastText: <b>not shown</b>" in html
    assert "length beats fastText" not in html  # it learns nothing: no claim about it
    assert "survival&lt;b&gt;" in html
    for told in ("0.613", "0.031", "0.244", "25.0", "one grade only", "0.81", "75% exactly", "75.0% of their bytes"):
        assert told in html, told
    section = quality({name: read_artifact(name, path) for name, path in inputs.items()})
    assert {source["name"] for source in section["sources"]} == {"labels", "graded", "classifier", "scored"}
    assert [one["source"] for one in section["labels"]] == ["history", "teacher m"]
    assert list(section["labels"][1]["kappa"]) == ["code"]  # a domain without a graded document has no row
    assert section["classifiers"][0]["f1_of_all"] == pytest.approx(2 / 3)
    assert section["scored"][0]["scored"] == 2


def test_bins_that_hold_next_to_nothing_are_not_drawn() -> None:
    common, rare = (0.5, 0.5, 995), (0.9, 0.0, 5)
    assert charts.calibration({"a": [common, rare]}, "x") == charts.calibration({"a": [common]}, "x")
    assert charts.calibration({"a": []}, "x") != charts.calibration({}, "x")  # its name is in the legend


def test_without_the_baseline_nothing_is_claimed(tmp_path: Path) -> None:
    inputs = write_run(tmp_path) | write_proxies(tmp_path, against_fasttext={})
    (tmp_path / "classifier" / ".timing.json").unlink()
    html, _ = make_page(tmp_path, inputs)
    assert "fastText was not trained: nothing is claimed against it." in html
    assert "beats fastText" not in html


def test_without_a_classifier_there_is_no_such_section(tmp_path: Path) -> None:
    assert 'id="quality"' not in make_page(tmp_path, write_run(tmp_path))[0]


def test_a_run_that_trained_nothing_has_no_empty_charts(tmp_path: Path) -> None:
    inputs = {name: path for name, path in write_run(tmp_path).items() if name in ("collect", "clean")}
    html, _ = make_page(tmp_path, inputs | write_proxies(tmp_path))
    assert 'id="quality"' in html
    assert "training" not in html.lower().replace("trained", "")
