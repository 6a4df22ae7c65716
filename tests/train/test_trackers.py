"""Curves elsewhere: what they are sent, where packages are missing, and a phase that is watched by all of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from codeflow.core.config import validate
from codeflow.core.errors import UserError
from codeflow.core.metrics import read_metrics
from codeflow.train.monitor import TIMING
from codeflow.train.trackers import numbers, open_trackers
from codeflow.train.watch_config import WatchConfig

from .test_pretrain import contents, phase_config, train


class _Calls:
    """Stands for both packages and notes what they are told."""

    def __init__(self) -> None:
        self.opened: list[dict[str, Any]] = []
        self.sent: dict[str, dict[int, dict[str, float]]] = {"tensorboard": {}, "wandb": {}}
        self.closed: list[str] = []

    def writer(self, folder: str, purge_step: int | None) -> SimpleNamespace:
        self.opened.append({"folder": folder, "purge_step": purge_step})
        return SimpleNamespace(
            add_scalar=lambda name, value, step: self.sent["tensorboard"].setdefault(step, {}).update({name: value}),
            close=lambda: self.closed.append("tensorboard"),
        )

    def init(self, **fields: Any) -> SimpleNamespace:
        self.opened.append(fields)
        return SimpleNamespace(
            log=lambda values, step: self.sent["wandb"].setdefault(step, {}).update(values),
            finish=lambda: self.closed.append("wandb"),
        )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> _Calls:
    found = _Calls()
    board, wandb = ModuleType("torch.utils.tensorboard"), ModuleType("wandb")
    board.SummaryWriter = found.writer  # type: ignore[attr-defined]
    wandb.init = found.init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return found


def test_a_watched_phase_trains_as_an_unwatched_one(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path, calls: _Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = WatchConfig(
        trackers=("tensorboard", "wandb"), profile_from_step=3, profile_steps=2, price_per_process_hour=3600.0
    )
    train(phase_config(golden, steps=4, watch=watch), inputs, tmp_path / "watched")
    said = capsys.readouterr().err
    train(phase_config(golden, steps=4), inputs, tmp_path / "plain")
    assert contents(tmp_path / "watched") == contents(tmp_path / "plain")
    assert calls.closed == ["tensorboard", "wandb"]
    sent = calls.sent["wandb"]
    assert calls.sent["tensorboard"] == sent
    assert list(sent) == [0, 1, 2, 3, 4]
    assert {"loss", "lr", "grad_norm", "tokens", "tokens_per_second", "mfu", "cost", "validation/code"} <= set(sent[4])
    timed = list(read_metrics(tmp_path / "watched" / TIMING))[1:]
    assert timed[-1]["cost"] == pytest.approx(sum(row["seconds"] for row in timed))
    assert "cost" in said
    (trace,) = (tmp_path / "watched" / ".profile").iterdir()
    assert trace.name == "steps_3_4.json"
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert "aten::mm" in names


def test_a_phase_that_goes_on_goes_on_in_the_same_curves(tmp_path: Path, calls: _Calls) -> None:
    config = WatchConfig(trackers=("tensorboard", "wandb"), wandb_project="mine")
    for resumed_after in (-1, 7):
        open_trackers(config, tmp_path / "run" / "phase", "general", resumed_after)
    board, wandb, board_again, wandb_again = calls.opened
    assert (board["purge_step"], board_again["purge_step"]) == (None, 8)
    assert wandb == wandb_again
    assert wandb | {"mode": "offline", "project": "mine", "name": "run/phase", "resume": "allow"} == wandb


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_package_that_is_missing(name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"watch.trackers names '{name}'.* pip install 'codeflow\[{name}\]'"):
        open_trackers(validate(WatchConfig, {"trackers": [name]}), tmp_path, "p", -1)


def test_numbers_are_flat_and_finite() -> None:
    values = {
        "loss": 1.5,
        "skipped": "no",
        "validation": {"a": 2, "b": float("nan")},
        "deep": {"x": {"y": float("inf")}},
    }
    assert numbers(values) == {"loss": 1.5, "validation/a": 2.0}


@pytest.mark.parametrize(
    "fields", [{"trackers": ["mlflow"]}, {"trackers": ["wandb", "wandb"]}, {"price_per_process_hour": 0}]
)
def test_refusals(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        validate(WatchConfig, fields)
