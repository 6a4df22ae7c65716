"""Weights on disk carry fingerprints: equal bytes every time, and a tensor that changed is named when it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from codeflow.core.errors import UserError
from codeflow.model.shards import FINGERPRINTS, WEIGHTS, StoredTensors, write_shards

TENSORS = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.linspace(-1, 1, 50)}


def write(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    folder.mkdir()
    write_shards(folder, {name: tuple(x.shape) for name, x in TENSORS.items()}, TENSORS.__getitem__, dtype, 1 << 30)
    return folder / WEIGHTS


def test_equal_weights_are_equal_bytes(tmp_path: Path) -> None:
    files = {write(tmp_path / str(i)).read_bytes() for i in range(12)}
    assert len(files) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", TENSORS)
def test_every_flipped_bit_is_named(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = write(tmp_path / "weights", dtype)
    data = bytearray(path.read_bytes())
    n_header = 8 + int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8:n_header])[name]["data_offsets"]
    for bit in range(8 * begin, 8 * end, 13):
        damaged = bytearray(data)
        damaged[n_header + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{name} is not what was written"):
            StoredTensors(path.parent).read(name)


def test_files_of_others_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / WEIGHTS, metadata={"format": "pt"})
    assert torch.equal(StoredTensors(tmp_path).read("b"), TENSORS["b"])


@pytest.mark.parametrize("marks", ["{", "[]", '{"a": 1}'])
def test_damaged_fingerprints_are_refused(marks: str, tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / WEIGHTS, metadata={FINGERPRINTS: marks})
    with pytest.raises(UserError, match=r"fingerprints in its header are damaged|a is not what was written"):
        StoredTensors(tmp_path).read("a")


def test_libraries_read_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "weights")
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format"] == "pt"
        assert torch.equal(file.get_tensor("a"), TENSORS["a"].to(torch.bfloat16))
