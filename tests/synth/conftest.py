"""A small tasks artifact for the whole room."""

from __future__ import annotations

from pathlib import Path

import pytest

from codeflow.core.manifest import begin
from codeflow.sandbox.local import probe
from codeflow.synth.tasks import TasksConfig, run

CONFIG = TasksConfig(n_sft=84, n_rl=42, n_dev=28, n_heldout=28, seed=3)


@pytest.fixture(scope="session")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not probe().backend:
        pytest.skip(probe().problem)
    folder = tmp_path_factory.mktemp("tasks")
    begin(folder, "tasks", CONFIG, {}, "k")
    run(CONFIG, {}, folder, workers=1)
    return folder
