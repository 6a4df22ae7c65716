"""Checkpoints: whole or not there, byte for byte reproducible, damage named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from codeflow.core.errors import UserError
from codeflow.parallel import checkpoint
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.mesh import World, world


@pytest.fixture
def here() -> Iterator[World]:
    with world(MeshConfig()) as joined:
        yield joined


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "masters.a": torch.randn(5, 7, generator=generator),
        "optimizer.b": torch.randn(3, generator=generator).to(torch.bfloat16),
        "count": torch.tensor(3.0),
    }


def test_round_trip_is_bitwise_and_equal_states_give_equal_bytes(here: World, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "one", 3, tensors(), {"tokens": 5}, here)
    checkpoint.save(tmp_path / "deep" / "two", 3, tensors(), {"tokens": 5}, here)
    complete = checkpoint.read(tmp_path / "one")
    assert (complete.step, complete.about) == (3, {"tokens": 5})
    target = tensors(seed=9)
    checkpoint.load(tmp_path / "one", target)
    assert all(torch.equal(target[name], tensor) for name, tensor in tensors().items())
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "deep" / "two").iterdir())
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "deep" / "two" / n).read_bytes() for n in names)


def test_a_save_replaces_the_older_one(here: World, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "state", 1, tensors(1), {}, here)
    checkpoint.save(tmp_path / "state", 2, tensors(2), {}, here)
    target = tensors()
    checkpoint.load(tmp_path / "state", target)
    assert torch.equal(target["masters.a"], tensors(2)["masters.a"])
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("name", ["__0_0.distcp", "index.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damage_is_named_and_the_one_before_is_used(
    damage: str, name: str, here: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        checkpoint.save(checkpoint.step_folder(tmp_path, step), step, tensors(step), {}, here)
    file = checkpoint.step_folder(tmp_path, 2) / name
    data = bytearray(file.read_bytes())
    if damage == "truncate":
        file.write_bytes(data[:-1])
    elif damage == "flip":
        data[len(data) // 3] ^= 16
        file.write_bytes(data)
    else:
        file.unlink()
    with pytest.raises(UserError, match=f"checkpoint file .*{name}"):
        checkpoint.read(file.parent)
    found = checkpoint.newest(checkpoint.step_folders(tmp_path), here)
    assert found is not None
    assert found[1].step == 1
    assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", '{"step": "x"}', "\0" * 40])
def test_a_damaged_marker_is_refused(text: str, here: World, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "state", 1, tensors(), {}, here)
    (tmp_path / "state" / checkpoint.COMPLETE).write_text(text)
    with pytest.raises(UserError, match=r"complete\.json is damaged"):
        checkpoint.read(tmp_path / "state")


@pytest.mark.parametrize("change", [('"step": 1', '"step": 3'), ('"tokens": 5', '"tokens": 7'), ("00", "01")])
def test_a_changed_marker_is_refused(change: tuple[str, str], here: World, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "state", 1, {**tensors(), "zero": torch.zeros(100)}, {"tokens": 5, "x": "00"}, here)
    path = tmp_path / "state" / checkpoint.COMPLETE
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change, 1))
    with pytest.raises(UserError, match=r"complete\.json does not match its SHA-256"):
        checkpoint.read(tmp_path / "state")


def test_an_unfinished_save_is_not_seen_and_is_cleared(here: World, tmp_path: Path) -> None:
    checkpoint.save(checkpoint.step_folder(tmp_path, 1), 1, tensors(), {}, here)
    left = tmp_path / ".step-00000002.tmp"
    left.mkdir()
    (left / "__0_0.distcp").write_bytes(b"half")
    assert [folder.name for folder in checkpoint.step_folders(tmp_path)] == ["step-00000001"]
    checkpoint.prune(tmp_path, 2, here)
    assert not left.exists()


def test_nothing_good_is_none(here: World, tmp_path: Path) -> None:
    assert checkpoint.newest(checkpoint.step_folders(tmp_path / "absent"), here) is None
    assert checkpoint.newest([tmp_path], here) is None


def test_prune_keeps_the_newest(here: World, tmp_path: Path) -> None:
    for step in (1, 9, 10, 200):
        checkpoint.save(checkpoint.step_folder(tmp_path, step), step, tensors(), {}, here)
    checkpoint.prune(tmp_path, 2, here)
    assert [checkpoint.read(folder).step for folder in checkpoint.step_folders(tmp_path)] == [200, 10]
    checkpoint.prune(tmp_path, 0, here)
    assert not tmp_path.exists()


@pytest.mark.parametrize(("keep", "left"), [(2, [50, 40, 30, 15]), (1, [50, 30, 15]), (0, [30, 15])])
def test_prune_keeps_every_so_many_steps(here: World, tmp_path: Path, keep: int, left: list[int]) -> None:
    for step in (10, 15, 20, 30, 40, 50):
        checkpoint.save(checkpoint.step_folder(tmp_path, step), step, tensors(), {}, here)
    checkpoint.prune(tmp_path, keep, here, keep_every_steps=15)
    assert [checkpoint.read(folder).step for folder in checkpoint.step_folders(tmp_path)] == left


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"masters.z": torch.zeros(2)}, "holds no tensor 'masters.z'"),
        ({"masters.a": torch.zeros(5, 8)}, r"'masters.a' has shape \[5, 7\], needed \[5, 8\]"),
    ],
)
def test_a_state_of_another_model_is_refused(
    wanted: dict[str, torch.Tensor], message: str, here: World, tmp_path: Path
) -> None:
    checkpoint.save(tmp_path / "state", 1, tensors(), {}, here)
    with pytest.raises(UserError, match=message):
        checkpoint.load(tmp_path / "state", wanted)
