"""Fixtures for every room: a synthetic git repository. Settings: one thread per test process, no time limits."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# xdist runs one process per core; more threads in each would wait for each other. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import HealthCheck, settings

settings.register_profile("codeflow", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("codeflow")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))


@pytest.fixture(scope="session")
def synthetic_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository of 60 main-line commits made by scripts/make_history.py. Read it, don't change it."""
    from make_history import write_history

    folder = tmp_path_factory.mktemp("history") / "tally"
    write_history(folder)
    return folder
