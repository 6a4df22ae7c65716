"""A synthetic tokens artifact and a tiny phase on it, shared by the tests of training."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and sums have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def golden() -> ModuleType:
    """The script that makes the golden curve: its token sets and model are the tests' own."""
    return importlib.import_module("make_golden_curve")


@pytest.fixture(scope="session")
def inputs(golden: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two sets of 64-token rows and their tokenizer."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = golden.make_tokenizer(folder / "tokenizer")
    golden.make_tokens(folder / "tokens", tokenizer, n_rows=48, context_tokens=64, sets=("general", "code"))
    return {"tokens": folder / "tokens", "tokenizer": folder / "tokenizer"}
