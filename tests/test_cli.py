"""Bad input through the command line: one clear line, exit code 2, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codeflow.core.storage import folder_lock


def codeflow(*arguments: str, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "codeflow", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that are given no folder of their own leave a lock where they are started."""
    monkeypatch.chdir(tmp_path)


def complaint(*arguments: str, **environment: str) -> str:
    """Return the one line that a command ends with on bad input."""
    code, _, errors = codeflow(*arguments, **environment)
    assert code == 2, errors
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, errors
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "tinny"], ["no recipe 'tinny'", "did you mean 'tiny'"]),
        (["run", "tiny", "train.genral.steps=2", "--plan"], ["train.genral", "did you mean 'general'"]),
        (["run", "tiny", "train.general.steps=many", "--plan"], ["train.general.steps", "many", "integer"]),
        (["run", "tiny", "--until", "trian_code"], ["trian_code", "did you mean 'train_code'"]),
        (["run", "tiny", "--remake", "nothing", "--plan"], ["no stage 'nothing'"]),
        (["show", "/nowhere"], ["/nowhere", "not an artifact"]),
        (["dedup", "out"], ["--input documents=DIR"]),
        (["dedup", "out", "-i", "document=/nowhere"], ["no input 'document'", "did you mean 'documents'"]),
        (["generate", "/nowhere", "--prompt", "x"], ["/nowhere"]),
        (["reweight", "/nowhere", "code=0.6"], ["/nowhere is no phase in training"]),
        (["reweight", "/nowhere", "code"], ["'code' is no weight of a set", "SET=WEIGHT"]),
        (["inspect-logs", "/nowhere", "-o", "/tmp"], ["/nowhere", "scores artifact"]),
        (["mine-tasks", "/nowhere"], ["/nowhere"]),
        (["solve"], ["--model CHECKPOINT"]),
        (["solve", "/nowhere", "--model", "runs/x"], ["/nowhere"]),
        (["solve", "/nowhere", "--model", "runs/x", "agent.max_turn=3"], ["max_turn", "did you mean 'max_turns'"]),
        (["mine-tasks", ".", "max_task=3"], ["max_task", "did you mean 'max_tasks'"]),
        (["tasks", "out", "--on", "ray"], ["--on ray", "'tasks' does not work on shards"]),
        (["collect", "out", "--on", "spark"], ["--on spark", "choose local, ray, or ray:HOST:PORT"]),
        (["rum"], ["No such command 'rum'"]),
    ],
)
def test_bad_arguments(arguments: list[str], words: list[str]) -> None:
    line = complaint(*arguments)
    for word in words:
        assert word in line


def test_a_path_that_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    line = complaint("run", "smoke", "-o", str(tmp_path / "run"), "--repos", str(tmp_path / "plain"))
    assert "plain" in line
    assert "repository" in line


def test_an_empty_repository(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "empty")], check=True)
    line = complaint("run", "smoke", "-o", str(tmp_path / "run"), "--repos", str(tmp_path / "empty"))
    assert "empty" in line


def test_missing_git_is_named(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    arguments = ["history", str(tmp_path / "out" / "history"), f'repositories=["{repository}"]']
    assert "git" in complaint(*arguments, PATH=str(tmp_path))


def test_output_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "choose an output folder" in complaint("run", "smoke", "-o", str(tmp_path / "file" / "run"))


def test_two_runs_on_one_folder(tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        assert f"in use by process {os.getpid()}" in complaint("run", "smoke", "-o", str(tmp_path))


def test_plan_and_fields_and_version() -> None:
    code, _, plan = codeflow("run", "tiny", "--plan", "-o", "/nonexistent-run")
    assert code == 0
    assert "train_anneal" in plan
    code, fields, _ = codeflow("pack", "--fields")
    assert code == 0
    assert '"context_tokens": 512' in fields
    assert codeflow("--version")[1].strip() == "0.1.0"
