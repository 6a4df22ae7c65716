"""Converting directories shard by shard: what changes, what stays, and how much memory it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from codeflow.core.errors import UserError
from codeflow.model.huggingface import ExportSettings, convert, load, save
from tests.model.shapes import SHAPE, changed, make_ids, make_model

LOOPED = changed(loop_num=2, loop_window_size=4)


@pytest.mark.parametrize("config", [SHAPE, LOOPED, changed(tie_word_embeddings=True)])
def test_other_dtype_and_shards(tmp_path: Path, config) -> None:
    model = make_model(config)
    ids = {"bos_token_id": 1, "eos_token_ids": (2, 4), "pad_token_id": 0}
    save(model, tmp_path / "a", ExportSettings(**ids, shard_bytes=3000))
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    convert(tmp_path / "a", tmp_path / "b", ExportSettings(dtype="bfloat16"))
    direct = tmp_path / "direct"
    save(model, direct, ExportSettings(**ids, dtype="bfloat16"))
    for path in direct.iterdir():
        assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes(), path.name
    assert (tmp_path / "b" / "tokenizer.json").read_text() == "{}"


def test_gates_are_written_in_the_released_layout(tmp_path: Path) -> None:
    model = make_model(LOOPED)
    save(model, tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    for name in [name for name in tensors if "gate_projections" in name]:
        _, _, index, leaf = name.split(".")
        tensors[f"model.layers.{index}.gate_projection.{leaf}"] = tensors.pop(name)
    save_file(tensors, tmp_path / "a" / "model.safetensors")
    convert(tmp_path / "a", tmp_path / "b")
    assert "model.gate_projections.1.bias" in load_file(tmp_path / "b" / "model.safetensors")
    assert torch.equal(load(tmp_path / "b")(make_ids(1, 9)), model(make_ids(1, 9)))


def test_what_an_earlier_export_left_is_not_read(tmp_path: Path) -> None:
    save(make_model(LOOPED), tmp_path / "a", ExportSettings(shard_bytes=3000))
    model = make_model(SHAPE)
    save(model, tmp_path / "b")
    convert(tmp_path / "b", tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").glob("*.safetensors*")] == ["model.safetensors"]
    assert torch.equal(load(tmp_path / "a")(make_ids(1, 9)), model(make_ids(1, 9)))


def test_bad_sources_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    save(make_model(LOOPED), tmp_path / "a")
    with pytest.raises(UserError, match="give another target"):
        convert(tmp_path / "a", tmp_path / "a")
    path = tmp_path / "a" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.gate_projection.bias"] = tensors["model.gate_projections.0.bias"].clone()
    save_file(tensors, path)
    with pytest.raises(UserError, match="are the same tensor"):
        convert(tmp_path / "a", tmp_path / "b")
    del tensors["model.layers.0.gate_projection.bias"], tensors["model.norm.weight"]
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"missing model\.norm\.weight"):
        convert(tmp_path / "a", tmp_path / "b")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        convert(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_numbers_that_are_none_stop_a_conversion(tmp_path: Path) -> None:
    save(make_model(LOOPED), tmp_path / "a")
    path = tmp_path / "a" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
        convert(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b" / "config.json").exists()


PEAK = """
import sys, threading
from pathlib import Path
import torch
from codeflow.kernels.fingerprint import fingerprint
from codeflow.model.huggingface import ExportSettings, convert

def own_bytes():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) * 1024

convert(Path(sys.argv[4]), Path(sys.argv[2]))  # a small one loads what any work needs
for dtype in (torch.bfloat16, torch.float32):
    fingerprint(torch.zeros(1 << 13, dtype=dtype))  # and this the compiled functions for larger tensors
before, peak, done = own_bytes(), [0], threading.Event()

def watch():
    while not done.wait(0.001):
        peak[0] = max(peak[0], own_bytes())

thread = threading.Thread(target=watch)
thread.start()
convert(Path(sys.argv[1]), Path(sys.argv[2]), ExportSettings(dtype="float32", shard_bytes=int(sys.argv[3])))
done.set()
thread.join()
print(peak[0] - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_conversion_holds_one_shard(tmp_path: Path) -> None:
    """12 MiB shards of a model of 76 MiB; mapped pages of the source are not the process's own."""
    shard_bytes = 12 << 20
    wide = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 24, "vocab_size": 1024}
    save(make_model(SHAPE), tmp_path / "small")
    save(make_model(changed(**wide)), tmp_path / "a", ExportSettings(dtype="bfloat16"))
    command = [
        sys.executable,
        "-c",
        PEAK,
        str(tmp_path / "a"),
        str(tmp_path / "b"),
        str(shard_bytes),
        str(tmp_path / "small"),
    ]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    index = json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] > 5 * shard_bytes
    assert peak < 1.75 * shard_bytes, f"{peak / shard_bytes:.2f} shards"
