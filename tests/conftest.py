"""Fixtures for every room: a synthetic git repository."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))


@pytest.fixture(scope="session")
def synthetic_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository of 60 main-line commits made by scripts/make_history.py. Read it, don't change it."""
    from make_history import write_history

    folder = tmp_path_factory.mktemp("history") / "tally"
    write_history(folder)
    return folder
