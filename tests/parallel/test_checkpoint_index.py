"""The index of a checkpoint: JSON, checked, and nothing on disk is run."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from codeflow.core.errors import UserError
from codeflow.parallel import checkpoint
from codeflow.parallel.checkpoint_index import INDEX, parts_in, read_index
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.mesh import World, world


@pytest.fixture
def here() -> Iterator[World]:
    with world(MeshConfig()) as joined:
        yield joined


@pytest.fixture
def saved(here: World, tmp_path: Path) -> Path:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "n": torch.tensor(3.0)}
    checkpoint.save(tmp_path / "state", 1, tensors, {}, here)
    return tmp_path / "state"


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._mark),)


def test_the_index_says_what_lies_where(saved: Path) -> None:
    index = read_index(saved)
    assert {name: (entry.dtype, entry.shape) for name, entry in index.tensors.items()} == {
        "a": ("float32", (2, 3)),
        "b": ("bfloat16", (4,)),
        "n": ("float32", ()),
    }
    found = {name: tensor for name, _, tensor in parts_in(saved, "__0_")}
    assert torch.equal(found["a"], torch.arange(6.0).reshape(2, 3))
    assert not (saved / ".metadata").exists()


def test_a_pickle_in_place_of_tensors_does_not_run(saved: Path, tmp_path: Path) -> None:
    """Whoever writes a checkpoint can also write its hashes."""
    mark = tmp_path / "ran"
    (saved / "__0_0.distcp").write_bytes(pickle.dumps(Hostile(mark), protocol=2) * 50)
    (saved / ".metadata").write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load(saved, {"a": torch.zeros(2, 3)})
    assert not mark.exists()


@pytest.mark.parametrize("file", ["../state/x.distcp", "/etc/passwd", "", ".."])
def test_files_elsewhere_are_refused(file: str, saved: Path) -> None:
    tree = json.loads((saved / INDEX).read_text())
    tree["tensors"]["a"]["parts"][0]["file"] = file
    (saved / INDEX).write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        checkpoint.load(saved, {"a": torch.zeros(2, 3)})


@pytest.mark.parametrize("text", ["", "{", '{"tensors": {"a": 1}}', "\0"])
def test_a_damaged_index_is_named(text: str, saved: Path) -> None:
    (saved / INDEX).write_text(text)
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        read_index(saved)
    (saved / INDEX).unlink()
    with pytest.raises(UserError, match=r"has no index\.json"):
        read_index(saved)
