"""Hugging Face directories: round trips, both gate layouts, and every way in which a directory can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from codeflow.core.errors import UserError
from codeflow.model.config import ModelConfig
from codeflow.model.huggingface import ExportSettings, load, read_config, save
from tests.model.shapes import SHAPE, changed, make_model

LOOPED = changed(loop_num=2, loop_window_size=4)


def _rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("config", [SHAPE, LOOPED, SHAPE.model_copy(update={"tie_word_embeddings": True})])
@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 3000])
def test_round_trip_is_exact(tmp_path: Path, config: ModelConfig, shard_bytes: int) -> None:
    model = make_model(config)
    save(model, tmp_path, ExportSettings(shard_bytes=shard_bytes))
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_bytes == 3000)
    again = load(tmp_path)
    assert again.config == config
    assert set(again.state_dict()) == set(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    ids = torch.arange(20)[None]
    assert torch.equal(model(ids), again(ids))


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(make_model(LOOPED), tmp_path / name, ExportSettings(dtype="bfloat16"))
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_names_are_the_released_ones(tmp_path: Path) -> None:
    save(make_model(LOOPED), tmp_path, ExportSettings(dtype="bfloat16"))
    tensors = load_file(tmp_path / "model.safetensors")
    layer = [
        "input_layernorm.weight",
        "mlp.down_proj.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "post_attention_layernorm.weight",
        "self_attn.k_proj.weight",
        "self_attn.o_proj.weight",
        "self_attn.q_proj.weight",
        "self_attn.v_proj.weight",
    ]
    expected = {f"model.layers.{i}.{name}" for i in range(2) for name in layer}
    expected |= {f"model.gate_projections.{i}.{name}" for i in range(2) for name in ("weight", "bias")}
    expected |= {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    assert set(tensors) == expected
    assert tensors["model.gate_projections.0.weight"].shape == (4, 8)
    assert {value.dtype for value in tensors.values()} == {torch.bfloat16}


def test_newer_gate_layout_is_read(tmp_path: Path) -> None:
    model = make_model(LOOPED)
    save(model, tmp_path)

    def move(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "gate_projections" in name]:
            _, _, index, leaf = name.split(".")
            tensors[f"model.layers.{index}.gate_projection.{leaf}"] = tensors.pop(name)

    _rewrite(tmp_path, move)
    ids = torch.arange(20)[None]
    assert torch.equal(load(tmp_path)(ids), model(ids))


def test_config_says_what_the_model_is(tmp_path: Path) -> None:
    save(make_model(LOOPED), tmp_path / "loop", ExportSettings(eos_token_ids=(2, 4), bos_token_id=1, pad_token_id=0))
    tree = json.loads((tmp_path / "loop" / "config.json").read_text())
    assert (tree["model_type"], tree["architectures"]) == ("iquestloopcoder", ["IQuestLoopCoderForCausalLM"])
    assert (tree["loop_num"], tree["loop_window_size"], tree["eos_token_id"]) == (2, 4, [2, 4])
    carried = {path.name for path in (tmp_path / "loop").glob("*.py")}
    assert carried == {value.split(".")[0] + ".py" for value in tree["auto_map"].values()}
    for name in carried:
        compile((tmp_path / "loop" / name).read_text(), name, "exec")
    generation = json.loads((tmp_path / "loop" / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["bos_token_id"], generation["pad_token_id"]) == ([2, 4], 1, 0)
    for kind, architecture in (("llama", "LlamaForCausalLM"), ("iquestcoder", "IQuestCoderForCausalLM")):
        save(make_model(SHAPE), tmp_path / kind, ExportSettings(dense_type=kind))
        tree = json.loads((tmp_path / kind / "config.json").read_text())
        assert (tree["model_type"], tree["architectures"]) == (kind, [architecture])
        assert "loop_num" not in tree
        carried = {path.stem for path in (tmp_path / kind).glob("*.py")}
        assert carried == {value.split(".")[0] for value in tree.get("auto_map", {}).values()}
        assert len(carried) == (2 if kind == "iquestcoder" else 0)
        assert read_config(tmp_path / kind) == SHAPE


def test_wrong_tensors_are_listed_together(tmp_path: Path) -> None:
    save(make_model(LOOPED), tmp_path)

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.gate_projections.1.bias"]
        tensors["model.extra.weight"] = torch.zeros(1)
        tensors["model.norm.weight"] = torch.zeros(3)

    _rewrite(tmp_path, spoil)
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert "missing model.gate_projections.1.bias" in str(error.value)
    assert "unexpected model.extra.weight" in str(error.value)
    assert "misshapen model.norm.weight [3] instead of [16]" in str(error.value)


@pytest.mark.parametrize("keep", [4, 200, 5000])
def test_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    save(make_model(LOOPED), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors is not a whole safetensors file"):
        load(tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    model = make_model(LOOPED)
    save(model, tmp_path)
    _rewrite(tmp_path, lambda tensors: tensors["model.norm.weight"].fill_(bad))
    with pytest.raises(UserError, match=r"model\.norm\.weight holds NaN or infinite"):
        load(tmp_path)
    with torch.no_grad():
        model.norm.weight[0] = bad
    with pytest.raises(UserError, match="the model to be saved"):
        save(model, tmp_path)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float8_e4m3fn])
def test_weights_of_another_kind_are_named(tmp_path: Path, dtype: torch.dtype) -> None:
    save(make_model(LOOPED), tmp_path)
    _rewrite(tmp_path, lambda tensors: tensors.update({"model.norm.weight": torch.ones(16).to(dtype)}))
    with pytest.raises(UserError, match=r"model\.norm\.weight is stored as (int32|float8_e4m3fn); convert"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads=0"),
        ({"hidden_size": "wide", "head_dim": None}, "hidden_size"),
        ({"head_dim": 7}, "head_dim=7 is odd"),
        ({"loop_window_size": 0}, "loop_window_size=0"),
        ({"loop_num": 0}, "loop_num=0"),
        ({"rope_parameters": 3}, "rope_parameters=3 is no object"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type='yarn' is not supported"),
        ({"vocab_size": None}, "vocab_size"),
        ({"attention_bias": True}, "attention_bias"),
    ],
)
def test_wrong_fields_of_a_config_are_named(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    save(make_model(LOOPED), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": 3}', '{"weight_map": {"lm_head.weight": 3}}', "[]"])
def test_a_broken_index_is_a_user_error(tmp_path: Path, index: str) -> None:
    save(make_model(SHAPE), tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match="index"):
        load(tmp_path)


def test_broken_directories_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        load(tmp_path)
    save(make_model(SHAPE), tmp_path, ExportSettings(shard_bytes=3000))
    (tmp_path / "model-00002-of-00006.safetensors").unlink(missing_ok=True)
    missing = sorted(tmp_path.glob("model-0000[13]*"))[0]
    missing.unlink()
    with pytest.raises(UserError, match=missing.name):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match="model_type='gpt2' is not supported"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_attention_heads": 3, "hidden_size": 24}')
    with pytest.raises(UserError, match="not divisible by num_key_value_heads"):
        load(tmp_path)
