"""Logs for the viewer of Inspect AI; where it is installed its own reader opens them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from codeflow.core.errors import UserError
from codeflow.core.records import write_records
from codeflow.core.types import Episode, Score, Turn, Verdict
from codeflow.eval.records import Generated
from codeflow.report.inspect_log import export


def generated(task: str, sample: int, **fields) -> Generated:
    values = {
        "benchmark": "sums",
        "subset": "even",
        "checkpoint": "mine",
        "task": task,
        "sample": sample,
        "prompt": "1 + 1?",
        "output": "2",
        "reference": "2",
        "passed": True,
        "reward": 1.0,
        "reason": "passed",
        "fault": "",
        "sandbox": "ok",
        "backend": "fork server",
        "prompt_sha256": "0",
        "scorer": "sums-1",
    }
    return Generated(**{**values, **fields})


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    folder = tmp_path / "scores"
    rows = [
        generated("sums/1", 0),
        generated("sums/1", 1, output="3 \u2028\0", passed=False, reward=0.0, reason="differs", fault="model"),
        generated(
            "sums/2", 0, passed=False, reward=0.0, reason="no disk", fault="infrastructure", sandbox="infrastructure"
        ),
        generated("other/1", 0, benchmark="other"),
    ]
    write_records(folder / "generations-00000.parquet", rows, Generated)
    settings = {"temperature": "0.0"}
    found = [
        Score("sums", "pass@1", "", 0.5, 0.0, 1.0, 1, 1, "mine", settings),
        Score("sums", "pass@1", "even", 0.5, 0.0, 1.0, 1, 1, "mine", settings),
        Score("other", "pass@1", "", 1.0, 1.0, 1.0, 1, 0, "mine", settings),
    ]
    write_records(folder / "scores-00000.parquet", found, Score)
    return folder


@pytest.fixture
def episodes(tmp_path: Path) -> Path:
    folder = tmp_path / "episodes"
    turns = (
        Turn(0, "prompt", False, (1, 2), (), "Change it."),
        Turn(0, "assistant", True, (3,), (-0.5,), "<tool_call>...</tool_call>"),
        Turn(0, "tool", False, (4,), (), "done", 0),
        Turn(0, "summary", True, (5,), (-0.1,), "All done."),
        Turn(1, "prompt", False, (6,), (), "Go on."),
    )
    right = Verdict(True, 1.0, "passed", "", 2, 2)
    broken = Verdict(False, 0.0, "the sandbox failed", "infrastructure", 0, 2)
    rows = [
        Episode("calc/1", "mine", 0, number, turns, "submitted", "diff --git", 1.5, verdict)
        for number, verdict in enumerate((right, broken))
    ]
    write_records(folder / "episodes-00000.parquet", rows, Episode)
    return folder


def test_one_log_for_each_benchmark(scores, tmp_path):
    paths = export(scores, tmp_path / "logs")
    logs = {log["eval"]["task"]: log for log in (json.loads(path.read_text()) for path in paths)}
    assert set(logs) == {"sums", "other"}
    log = logs["sums"]
    assert log["eval"]["model"] == "codeflow/mine"
    assert log["eval"]["config"]["epochs"] == 2
    assert log["results"]["total_samples"] == 3
    assert log["results"]["completed_samples"] == 2
    metrics = log["results"]["scores"][0]["metrics"]
    assert metrics["pass@1"]["value"] == 0.5
    assert metrics["pass@1 (even)"]["metadata"]["n_faults"] == 1
    values = [sample["scores"].get("sums-1", {}).get("value") for sample in log["samples"]]
    assert values == ["C", "I", None]
    assert log["samples"][2]["error"]["message"] == "no disk"
    assert log["samples"][0]["metadata"]["backend"] == "fork server"
    again = export(scores, tmp_path / "again")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
    assert [path.name for path in again] == [path.name for path in paths]


def test_episodes_show_every_turn(episodes, tmp_path):
    [path] = export(episodes, tmp_path / "logs")
    log = json.loads(path.read_text())
    first, second = log["samples"]
    assert [message["role"] for message in first["messages"]] == ["user", "assistant", "tool", "assistant", "user"]
    assert first["messages"][3]["metadata"] == {"context": 0, "turn": "summary", "tokens": 1}
    assert first["scores"]["verdict"]["value"] == "C"
    assert "error" in second
    assert log["results"]["scores"][0]["metrics"]["accuracy"]["value"] == 1.0


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(UserError, match="give a scores artifact"):
        export(tmp_path, tmp_path / "logs")


@pytest.mark.skipif(importlib.util.find_spec("inspect_ai") is None, reason="inspect-ai is not installed")
def test_inspects_own_reader_opens_them(scores, episodes, tmp_path):
    from inspect_ai.log import read_eval_log  # pyright: ignore[reportMissingImports]

    for path in [*export(scores, tmp_path / "logs"), *export(episodes, tmp_path / "logs")]:
        log = read_eval_log(str(path))
        assert log.status == "success"
        assert log.samples
        assert log.results.scores
