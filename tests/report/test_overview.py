from __future__ import annotations

import re
from pathlib import Path

import pytest

from codeflow.core.manifest import Counts, begin, seal
from codeflow.report import lineage, overview
from codeflow.report.gather import Artifact, busy, read_artifact, weights_of
from codeflow.train.config import TrainConfig
from tests.report.conftest import finish, start


def read(folder: Path) -> dict[str, Artifact]:
    return {path.name: read_artifact(path.name, path) for path in sorted(folder.iterdir())}


def test_wall_time_is_the_union_of_stages_without_pauses(tmp_path: Path) -> None:
    for name, at, seconds in (("a", "00:00:00", 10.0), ("b", "00:00:04", 10.0), ("c", "00:00:06", 2.0)):
        finish(start(tmp_path / name, "tokens", {}), ran=(at, seconds))
    finish(start(tmp_path / "d", "tokens", {}), ran=("03:00:00", 5.0))  # a later run over the same folder
    finish(start(tmp_path / "e", "tokens", {}))  # copied in: no times
    clock = busy(read(tmp_path))
    assert clock.seconds == pytest.approx(19.0)
    assert clock.starts == pytest.approx({"a": 0.0, "b": 4.0, "c": 6.0, "d": 14.0})
    found = overview.stages(read(tmp_path))
    assert found["wall_seconds"] == pytest.approx(19.0)
    assert found["total_seconds"] == pytest.approx(27.0)


SOURCES = {
    "documents": [],
    "tasks": [],
    "tokenizer": ["documents"],
    "pack": ["documents", "tokenizer"],
    "train": ["pack", "tokenizer"],
    "rl": ["train", "tasks", "tokenizer"],
    "scores": ["train", "rl", "documents"],
}


def test_weights_of_groups_are_multiplied_out(tmp_path: Path) -> None:
    mixture = {"phase": {"weight": 0.9, "of": {"a": 1.0, "b": {"weight": 3.0, "of": {"c": 1.0}}}}, "x/fresh": 0.1}
    begin(tmp_path / "p", "checkpoint", TrainConfig.model_validate({"mixture": mixture}), {}, "key")
    seal(tmp_path / "p", Counts())
    assert weights_of(read_artifact("p", tmp_path / "p")) == pytest.approx({"a": 0.225, "c": 0.675, "x/fresh": 0.1})


def test_implied_arrows_are_left_out() -> None:
    assert lineage.reduced(SOURCES) == {
        "documents": [],
        "tasks": [],
        "tokenizer": ["documents"],
        "pack": ["tokenizer"],
        "train": ["pack"],
        "rl": ["train", "tasks"],
        "scores": ["rl"],
    }


def test_artifacts_stand_right_above_what_is_made_from_them() -> None:
    layer = lineage.layers(lineage.reduced(SOURCES))
    assert layer == {"documents": 0, "tokenizer": 1, "pack": 2, "train": 3, "tasks": 3, "rl": 4, "scores": 5}


def test_the_picture_has_every_artifact_and_no_box_on_another(tmp_path: Path) -> None:
    first = finish(start(tmp_path / "a", "documents", {}))
    wide = {f"b{n:02d}": finish(start(tmp_path / f"b{n:02d}", "checkpoint", {"x": first})) for n in range(20)}
    finish(start(tmp_path / "c", "scores", {**wide, "first": first}))
    picture = lineage.draw(read(tmp_path))
    boxes = re.findall(r'x="([-\d.]+)" y="([-\d.]+)" width="(\d+)" height="(\d+)"', picture)
    assert len(boxes) == 22
    places = [(float(x), float(y), float(w), float(h)) for x, y, w, h in boxes]
    for i, (x, y, w, h) in enumerate(places):
        assert not any(abs(x - x2) < w and abs(y - y2) < h for x2, y2, _, _ in places[:i])
    assert picture.count("<path") == 40
    assert max(x + w for x, _, w, _ in places) <= 1200, "as wide as the page"
