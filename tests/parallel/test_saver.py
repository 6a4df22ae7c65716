"""Saves in the background: the state of the moment, the bytes of a save at once, errors that do not get lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from codeflow.core.errors import InfrastructureError
from codeflow.parallel import checkpoint
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.faults import RankFault
from codeflow.parallel.mesh import World, world
from codeflow.parallel.saver import Saver


@pytest.fixture
def here() -> Iterator[World]:
    with world(MeshConfig()) as joined:
        yield joined


def state() -> dict[str, torch.Tensor]:
    return {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5)}


def test_the_state_of_the_moment_is_saved(here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on, and changes what is being saved, before the first byte is written."""
    may_write, original = threading.Event(), checkpoint.save

    def waiting(*arguments: Any) -> None:
        assert may_write.wait(60)
        original(*arguments)

    checkpoint.save(tmp_path / "expected", 3, state(), {"n": 1}, here)
    monkeypatch.setattr(checkpoint, "save", waiting)
    saver, tensors = Saver(here), state()
    done: list[int] = []
    saver.save(tmp_path / "late", 3, tensors, {"n": 1}, lambda: done.append(1))
    tensors["a"].fill_(-1)
    assert not (tmp_path / "late").exists()
    may_write.set()
    saver.wait()
    assert done == [1]
    for path in (tmp_path / "expected").iterdir():
        assert (tmp_path / "late" / path.name).read_bytes() == path.read_bytes()
    saver.save(tmp_path / "again", 4, tensors, {})  # the same buffers
    saver.close()
    target = state()
    checkpoint.load(tmp_path / "again", target)
    assert torch.equal(target["a"], tensors["a"])
    assert len(saver.stall_seconds) == 2


def test_what_a_save_met_is_raised_by_the_next(here: World, tmp_path: Path) -> None:
    saver = Saver(here)
    (tmp_path / "file").write_text("in the way")
    saver.save(tmp_path / "file" / "state", 1, state(), {})
    with pytest.raises(Exception, match="file"):
        saver.save(tmp_path / "next", 2, state(), {})
    saver.close()


def test_a_bit_that_flips_on_the_way_to_the_disk_is_found(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the fingerprint and before the file's hash: the hash alone would call it good."""
    saver, copy = Saver(here), Saver._copy

    def flipping(self: Saver, name: str, tensor: torch.Tensor) -> torch.Tensor:
        copied = copy(self, name, tensor)
        copied.view(torch.int32).view(-1)[2] ^= 1 << (20 if name == "a" else 31 - 31)
        return copied

    checkpoint.save(checkpoint.step_folder(tmp_path, 1), 1, state(), {}, here)
    monkeypatch.setattr(Saver, "_copy", flipping)
    saver.save(checkpoint.step_folder(tmp_path, 2), 2, state(), {})
    with pytest.raises(RankFault, match="checkpoint: 'a' of rank 0 at step 2") as caught:
        saver.wait()
    assert [fault.tensor for fault in caught.value.faults] == ["a", "b"]
    saver.close()
    found = checkpoint.newest(checkpoint.step_folders(tmp_path), here)
    assert found is not None
    assert found[1].step == 1


def test_a_bit_that_flips_on_the_way_from_the_disk_is_found(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        checkpoint.save(checkpoint.step_folder(tmp_path, step), step, state(), {}, here)
    original, calls = checkpoint.load_tensors, iter(range(9))

    def flipping(tensors: dict[str, torch.Tensor], **arguments: Any) -> None:
        original(tensors, **arguments)
        if next(calls) == 0:
            tensors["b"].view(torch.int32)[4] ^= 1

    monkeypatch.setattr(checkpoint, "load_tensors", flipping)
    target = {name: torch.zeros_like(tensor) for name, tensor in state().items()}
    found = checkpoint.restore(checkpoint.step_folders(tmp_path), target, here)
    assert found is not None
    assert found[1].step == 1
    assert torch.equal(target["b"], state()["b"])
    assert "'b' is not what was saved" in capsys.readouterr().err
    calls = iter(range(9))
    with pytest.raises(InfrastructureError, match="'b' is not what was saved"):
        checkpoint.restore([checkpoint.step_folder(tmp_path, 2)], target, here)
