"""The report and `show` on a small run that is written here, with hostile text in it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts, begin, input_record, seal
from codeflow.core.records import write_records
from codeflow.core.storage import sha256_text, write_text
from codeflow.core.types import Document, DroppedDocument, Origin, Score
from codeflow.report import curves
from codeflow.report.curves import Panel
from codeflow.report.show import show_artifact
from tests.report.conftest import make_page

HOSTILE = "<script>alert('x')</script> & \x1b[31mred"


class Phase(Config):
    phase: str = "general"
    mixture: dict[str, float] = {"code": 1.0}


def document(text: str) -> Document:
    origin = Origin("package", "demo 1.0", "1.0", "demo/a.py", "MIT", "2026-01-01T00:00:00Z")
    return Document(sha256_text(text), text, "Python", origin, {"quality": 0.5})


def write_run(folder: Path) -> dict[str, Path]:
    """Write collect -> clean, a checkpoint and scores."""
    collect, clean, train, scores = (folder / name for name in ("collect", "clean", "train_general", "evaluate"))
    begin(collect, "documents", Phase(), {}, "1")
    write_records(collect / "documents-00000.parquet", [document("a = 1\n"), document(HOSTILE)], Document)
    seal(collect, Counts(read=9, kept=2, dropped={"over_cap": 7}))
    begin(clean, "documents", Phase(), {"documents": input_record(collect)}, "2")
    write_records(clean / "documents-00000.parquet", [document("a = 1\n")], Document)
    dropped = DroppedDocument(document(HOSTILE), "filters", "too_short", HOSTILE)
    write_records(clean / "dropped-00000.parquet", [dropped], DroppedDocument)
    seal(clean, Counts(read=2, kept=1, dropped={"filters/too_short": 1}))
    begin(train, "checkpoint", Phase(), {"tokens": input_record(clean)}, "3")
    rows = [
        {"step": 0, "phase": "general", "tokens": 0, "validation": {"code": 9.0}},
        {"step": 1, "phase": "general", "loss": 8.5, "lr": 1.0, "tokens": 512, "validation": {"code": 8.25}},
    ]
    write_text(train / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_text(train / ".timing.jsonl", json.dumps({"step": 1, "tokens_per_second": 1234.0, "mfu": 0.5}) + "\n")
    seal(train, Counts())
    begin(scores, "scores", Phase(), {"general": input_record(train)}, "4")
    found = [
        Score("heldout", "bits_per_byte", "", 3.5, 3.25, 3.75, 4, 0, "gzip"),
        Score("heldout", "bits_per_byte", "", 2.125, 2.0, 2.25, 4, 0, "general"),
        Score("micro_tasks", "pass@1", "", 0.0, 0.0, 0.0, 24, 1, "general"),
    ]
    write_records(scores / "scores-00000.parquet", found, Score)
    seal(scores, Counts())
    return {path.name: path for path in (collect, clean, train, scores)}


class Links(HTMLParser):
    """Collects what a page would load or lead to, and its anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href") and value:
                self.targets.append(value)
            if name == "id" and value:
                self.ids.add(value)


def test_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    html, summary = make_page(tmp_path, write_run(tmp_path))
    links = Links()
    links.feed(html)
    assert "script" not in links.tags
    assert all(target.startswith("#") for target in links.targets)
    assert {target.removeprefix("#") for target in links.targets} <= links.ids
    assert "&lt;script&gt;" in html
    assert "code 9.00 → 8.25" in summary
    assert "2.125 [2.000, 2.250], gzip 3.500" in summary
    assert "1 kept of 2 taken" in summary


def test_every_section_cites_its_artifacts(tmp_path: Path) -> None:
    html, _ = make_page(tmp_path, write_run(tmp_path))
    cited = re.findall(r'<p class="sources">from .*?</p>', html)
    assert len(cited) == 4
    assert all('href="#artifact-' in caption for caption in cited)


def test_a_run_without_scores_has_no_section_of_them(tmp_path: Path) -> None:
    inputs = write_run(tmp_path)
    del inputs["evaluate"]
    html, _ = make_page(tmp_path, inputs)
    assert 'id="scores"' not in html
    assert 'href="#scores"' not in html


def test_charts_are_reproducible() -> None:
    panel = Panel("general", {"training": [{"tokens": 0, "validation": {"code": 2.0}}, {"tokens": 5, "loss": 1.0}]})
    assert curves.losses([panel]) == curves.losses([panel]) != ""


def test_show_prints_lineage_counts_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = write_run(tmp_path)
    show_artifact(inputs["clean"], 1, 0, verify=True)
    shown = capsys.readouterr().out
    assert "every SHA-256 verified" in shown
    assert "dropped: filters/too_short" in shown
    assert "text: a = 1" in shown
    show_artifact(inputs["train_general"], 1, 0, verify=False)
    assert "loss 8.5" in capsys.readouterr().out


def test_show_refuses_a_flipped_byte(tmp_path: Path) -> None:
    inputs = write_run(tmp_path)
    path = inputs["train_general"] / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b"8.5", b"7.5"))
    with pytest.raises(UserError, match=r"metrics\.jsonl does not match its SHA-256"):
        show_artifact(inputs["train_general"], 1, 0, verify=True)


def test_terminal_escapes_in_documents_are_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = write_run(tmp_path)
    show_artifact(inputs["collect"], 2, 0, verify=False)
    assert "\x1b[31m" not in capsys.readouterr().out


def test_changed_mixtures_are_drawn_and_told() -> None:
    rows = [
        {"step": 0, "tokens": 0, "mixture": {"code": 0.5, "general": 0.5}},
        {"step": 1, "tokens": 5, "loss": 2.0},
        {
            "step": 2,
            "tokens": 9,
            "loss": 1.0,
            "mixture": {"code": 0.7, "general": 0.3},
            "mixture_reasons": {"code": "degraded"},
        },
        {"step": 3, "tokens": 12, "loss": 1.0},
    ]
    chart = curves.mixtures([Panel("sft", {"sft": rows}), Panel("still", {"still": [{"step": 1, "loss": 1.0}]})])
    assert "sft" in chart
    assert "still" not in chart
    assert curves.mixtures([]) == ""
