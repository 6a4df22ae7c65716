"""Hugging Face directories: config.json, generation_config.json and safetensors in the public names.

Covers dense (model_type `llama` or `iquestcoder`) and looped (`iquestloopcoder`) checkpoints, one file or sharded with
an index. Tensors are streamed: reading holds one tensor beside the model, writing one shard. Tokenizer files are not
covered; whoever publishes adds them.

Gates have two layouts: `model.gate_projections.{i}.*` (released; the one written) and
`model.layers.{i}.gate_projection.*` (newer code); both are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from codeflow.core.config import Config, validate
from codeflow.core.errors import UserError
from codeflow.core.storage import atomic_path, make_folder, write_bytes, write_text
from codeflow.model.config import ModelConfig
from codeflow.model.looped import LoopCoder

WEIGHTS, INDEX, CONFIG, GENERATION = (
    "model.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
)
_ARCHITECTURES = {
    "iquestloopcoder": "IQuestLoopCoderForCausalLM",
    "iquestcoder": "IQuestCoderForCausalLM",
    "llama": "LlamaForCausalLM",
}
_REMOTE = Path(__file__).parent / "remote"
_AUTO_MAP = {
    "AutoConfig": "configuration_iquestloopcoder.IQuestLoopCoderConfig",
    "AutoModel": "modeling_iquestloopcoder.IQuestLoopCoderModel",
    "AutoModelForCausalLM": "modeling_iquestloopcoder.IQuestLoopCoderForCausalLM",
}


class ExportSettings(Config):
    """What an exported directory says beside the weights. Token ids are the tokenizer's, found there by name."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    dense_type: Literal["llama", "iquestcoder"] = "llama"
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    shard_bytes: int = 5_000_000_000


def public_name(name: str) -> str:
    """Return the public name of a parameter of LoopCoder."""
    gate = re.fullmatch(r"layers\.(\d+)\.gate_projection\.(weight|bias)", name)
    if gate:
        return f"model.gate_projections.{gate[1]}.{gate[2]}"
    return name if name.startswith("lm_head.") else f"model.{name}"


def private_name(name: str) -> str:
    """Return LoopCoder's name of a public one, in either gate layout."""
    name = name.removeprefix("model.")
    return re.sub(r"^gate_projections\.(\d+)\.", r"layers.\1.gate_projection.", name)


def save(model: LoopCoder, folder: Path, settings: ExportSettings | None = None) -> None:
    """Write `model` to `folder` as a Hugging Face directory (plus our remote code if it is looped).

    Raises UserError when a weight is NaN or infinite, or the folder cannot be written.
    """
    settings = settings or ExportSettings()
    make_folder(folder)
    dtype = getattr(torch, settings.dtype)
    tensors = {public_name(name): value.detach() for name, value in model.named_parameters()}
    shards = _plan_shards(tensors, dtype.itemsize, settings.shard_bytes)
    for file, names in shards.items():
        part = {name: tensors[name].to("cpu", dtype).contiguous() for name in names}
        for name, value in part.items():
            _check_finite(name, value, "the model to be saved")
        with atomic_path(folder / file) as temporary:
            save_file(part, temporary, metadata={"format": "pt"})
            temporary.chmod(0o644)  # the library writes files that only their owner may read
    if len(shards) > 1:
        total = sum(value.numel() for value in tensors.values()) * dtype.itemsize
        where = {name: file for file, names in shards.items() for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")
    if model.config.looped:
        for source in sorted(_REMOTE.glob("*_iquestloopcoder.py")):
            write_bytes(folder / source.name, source.read_bytes())
    write_text(folder / GENERATION, json.dumps(_generation_json(settings), indent=2) + "\n")
    write_text(folder / CONFIG, json.dumps(config_json(model.config, settings), indent=2) + "\n")


def config_json(config: ModelConfig, settings: ExportSettings) -> dict[str, Any]:
    """Return the content of config.json."""
    model_type = "iquestloopcoder" if config.looped else settings.dense_type
    tree = config.model_dump(mode="json")
    if not config.looped:
        del tree["loop_num"], tree["loop_window_size"]
    tree |= {"architectures": [_ARCHITECTURES[model_type]], "model_type": model_type, "torch_dtype": settings.dtype}
    if config.looped:
        tree["auto_map"] = _AUTO_MAP
    return tree | {"use_cache": True} | _token_ids(settings)


def _token_ids(settings: ExportSettings) -> dict[str, Any]:
    ends: Any = list(settings.eos_token_ids) or None
    ids = {"bos_token_id": settings.bos_token_id, "eos_token_id": ends, "pad_token_id": settings.pad_token_id}
    return {name: value for name, value in ids.items() if value is not None}


def _generation_json(settings: ExportSettings) -> dict[str, Any]:
    return {"do_sample": False} | _token_ids(settings)


def _plan_shards(tensors: Mapping[str, Tensor], item_bytes: int, shard_bytes: int) -> dict[str, list[str]]:
    """Return file name -> tensor names, in the model's order; a tensor larger than a shard has one of its own."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, value in tensors.items():
        size = value.numel() * item_bytes
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": names for i, names in enumerate(groups, start=1)}


def read_config(folder: Path) -> ModelConfig:
    """Read the shape from `folder`/config.json. Raises UserError when it is missing, broken or of a foreign kind."""
    tree = _read_json(folder / CONFIG)
    model_type = tree.get("model_type")
    if model_type not in _ARCHITECTURES:
        raise UserError(
            f"{folder / CONFIG}: model_type={model_type!r} is not supported; use one of {', '.join(_ARCHITECTURES)}"
        )
    fields = {name: tree[name] for name in ModelConfig.model_fields if name in tree}
    rope = tree.get("rope_parameters") or {}  # how transformers 5 writes theta
    if rope.get("rope_type", "default") != "default":
        raise UserError(f"{folder / CONFIG}: rope_type={rope['rope_type']!r} is not supported; only 'default' is")
    if "rope_theta" not in fields:
        fields["rope_theta"] = rope.get("rope_theta", 10000.0)
    if fields.get("head_dim") is None and {"hidden_size", "num_attention_heads"} <= tree.keys():
        fields["head_dim"] = tree["hidden_size"] // tree["num_attention_heads"]
    if model_type == "iquestloopcoder":
        fields.setdefault("loop_num", 2)
    else:
        fields["loop_num"] = 1
    return validate(ModelConfig, fields, str(folder / CONFIG))


def load(folder: Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> LoopCoder:
    """Read a Hugging Face directory, tensor by tensor, into a new model in `dtype` (None: as stored).

    Raises UserError: no such folder or file, truncated safetensors, missing, unexpected or misshapen tensors (listed),
    NaN or infinite weights.
    """
    folder = Path(folder)
    config = read_config(folder)
    files = _weight_files(folder)
    with torch.device("meta"):
        model = LoopCoder(config)
    _check_names(model, files, folder)
    for path in files:
        for name, value in _tensors(path):
            _check_finite(name, value, str(path))
            _assign(model, private_name(name), value.to(device=device, dtype=dtype or value.dtype))
    if config.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    return model


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a Hugging Face model directory") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); export the model again") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} does not hold a JSON object; export the model again")
    return tree


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX).exists():
        names = _read_json(folder / INDEX).get("weight_map", {}).values()
        paths = [folder / name for name in sorted(set(names))]
    else:
        paths = [folder / WEIGHTS]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise UserError(f"{folder}: no {', '.join(missing)}; the directory is incomplete, export or copy it again")
    return paths


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}); export or copy it again") from None


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    with _open(path) as file:
        for name in sorted(file.keys()):
            if not name.endswith("rotary_emb.inv_freq"):  # a constant that old exports carry
                yield name, file.get_tensor(name)


def _check_names(model: LoopCoder, files: list[Path], folder: Path) -> None:
    """Raise one UserError that lists every missing, unexpected and misshapen tensor."""
    wanted = {name: tuple(value.shape) for name, value in model.named_parameters()}
    problems: list[str] = []
    for path in files:
        with _open(path) as file:
            for name in sorted(file.keys()):
                found = tuple(file.get_slice(name).get_shape())
                tied = name == "lm_head.weight" and model.config.tie_word_embeddings
                if name.endswith("rotary_emb.inv_freq") or tied:
                    continue
                expected = wanted.pop(private_name(name), None)
                if expected is None:
                    problems.append(f"unexpected {name}")
                elif expected != found:
                    problems.append(f"misshapen {name} {list(found)} instead of {list(expected)}")
    problems += [f"missing {public_name(name)}" for name in wanted]
    if problems:
        raise UserError(
            f"{folder}: weights do not fit config.json: {', '.join(problems)}; check that both are of the same model"
        )


def _check_finite(name: str, value: Tensor, origin: str) -> None:
    if not bool(torch.isfinite(value).all()):
        raise UserError(f"{origin}: {name} holds NaN or infinite weights; take an earlier checkpoint")


def _assign(model: LoopCoder, name: str, value: Tensor) -> None:
    owner_name, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner_name), leaf, nn.Parameter(value))
