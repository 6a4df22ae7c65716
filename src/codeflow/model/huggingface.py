"""Hugging Face directories: config.json, generation_config.json and safetensors in the public names.

Covers dense (model_type `llama` or `iquestcoder`) and looped (`iquestloopcoder`) checkpoints, one file or sharded with
an index. Tensors are streamed: `load` holds one tensor beside the model, `save` and `convert` one shard. Tokenizer
files are copied by `convert` only; whoever publishes adds them.

Models with research options are no such checkpoints: they are refused, or marked with a model type of their own that
only CodeFlow reads.

Gates have two layouts: `model.gate_projections.{i}.*` (released; the one written) and
`model.layers.{i}.gate_projection.*` (newer code); both are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from codeflow.core.config import Config, validate
from codeflow.core.errors import UserError
from codeflow.core.storage import make_folder, write_bytes, write_text
from codeflow.model.config import ModelConfig
from codeflow.model.looped import LoopCoder
from codeflow.model.shards import INDEX, WEIGHTS, Shape, StoredTensors, check_finite, read_json, write_shards

__all__ = ["CONFIG", "GENERATION", "INDEX", "WEIGHTS", "ExportSettings", "convert", "load", "read_config", "save"]

CONFIG, GENERATION = "config.json", "generation_config.json"
_RESEARCH_TYPE = "codeflow_research"
_ARCHITECTURES = {
    "iquestloopcoder": "IQuestLoopCoderForCausalLM",
    "iquestcoder": "IQuestCoderForCausalLM",
    "llama": "LlamaForCausalLM",
    _RESEARCH_TYPE: "CodeFlowResearchForCausalLM",  # of no library
}
_REMOTE = Path(__file__).parent / "remote"
_AUTO_MAPS = {  # of the types that transformers does not know; the named modules lie in _REMOTE
    kind: {
        "AutoConfig": f"configuration_{kind}.{name}Config",
        "AutoModel": f"modeling_{kind}.{name}Model",
        "AutoModelForCausalLM": f"modeling_{kind}.{name}ForCausalLM",
    }
    for kind, name in (("iquestloopcoder", "IQuestLoopCoder"), ("iquestcoder", "IQuestCoder"))
}
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


class ExportSettings(Config):
    """What an exported directory says beside the weights. Token ids are the tokenizer's, found there by name."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    dense_type: Literal["llama", "iquestcoder"] = "llama"
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    shard_bytes: PositiveInt = 5_000_000_000
    research: Literal["refuse", "mark"] = "refuse"  # what becomes of a model with research options


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
    """Write `model` to `folder` as a Hugging Face directory (plus our remote code unless it is a `llama`).

    Raises UserError when a weight is NaN or infinite, when the folder cannot be written, and for research options
    unless the settings say that they are marked.
    """
    tensors = {public_name(name): value.detach() for name, value in model.named_parameters()}

    def read(name: str) -> Tensor:
        check_finite(name, tensors[name], "the model to be saved")
        return tensors[name]

    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    _write(model.config, shapes, read, folder, settings or ExportSettings())


def convert(source: Path, target: Path, settings: ExportSettings | None = None) -> ModelConfig:
    """Write the directory `source` anew: other dtype, shards of another size, gates in the released layout.

    Holds one shard in memory, whatever the model's size. Token ids that the settings do not give are the source's;
    its tokenizer files are copied. Returns the shape. Raises UserError as `load` and `save` do, and when both are one.
    """
    source, target, settings = Path(source), Path(target), settings or ExportSettings()
    if source.resolve() == target.resolve():
        raise UserError(f"{target} is the directory to be converted; give another target")
    config = read_config(source)
    stored = StoredTensors(source)
    names = _fitting(config, stored, source)
    make_folder(target)
    settings = _with_token_ids(settings, read_json(source / CONFIG))
    shapes = {public_name(name): stored.shapes[where] for name, where in names.items()}
    stored_names = {public_name(name): where for name, where in names.items()}
    _write(config, shapes, lambda name: stored.read(stored_names[name]), target, settings)
    for name in _TOKENIZER_FILES:
        if (source / name).exists():
            write_bytes(target / name, (source / name).read_bytes())
    return config


def _write(
    config: ModelConfig,
    shapes: Mapping[str, Shape],
    read: Callable[[str], Tensor],
    folder: Path,
    settings: ExportSettings,
) -> None:
    """Write a whole directory; config.json comes last."""
    tree = config_json(config, settings)
    make_folder(folder)
    write_shards(folder, shapes, read, getattr(torch, settings.dtype), settings.shard_bytes)
    if "auto_map" in tree:
        for source in sorted(_REMOTE.glob(f"*_{tree['model_type']}.py")):
            write_bytes(folder / source.name, source.read_bytes())
    write_text(folder / GENERATION, json.dumps(_generation_json(settings), indent=2) + "\n")
    write_text(folder / CONFIG, json.dumps(tree, indent=2) + "\n")


def config_json(config: ModelConfig, settings: ExportSettings) -> dict[str, Any]:
    """Return the content of config.json. Raises UserError for research options that are to be refused."""
    model_type = "iquestloopcoder" if config.looped else settings.dense_type
    tree = config.model_dump(mode="json", exclude={"research"})
    if not config.looped:
        del tree["loop_num"], tree["loop_window_size"]
    if config.research.active:
        if settings.research == "refuse":
            raise UserError(
                f"{config.research}: the released format has no research options, and its readers would compute "
                "another model; publish one trained without them"
            )
        model_type = _RESEARCH_TYPE
        tree["research"] = config.research.model_dump(mode="json")
    tree |= {"architectures": [_ARCHITECTURES[model_type]], "model_type": model_type, "torch_dtype": settings.dtype}
    if model_type in _AUTO_MAPS:
        tree["auto_map"] = _AUTO_MAPS[model_type]
    return tree | {"use_cache": True} | _token_ids(settings)


def _with_token_ids(settings: ExportSettings, tree: Mapping[str, Any]) -> ExportSettings:
    """Fill in the token ids that the settings leave open from a config.json."""
    ends = tree.get("eos_token_id")
    found = {
        "bos_token_id": settings.bos_token_id if settings.bos_token_id is not None else tree.get("bos_token_id"),
        "pad_token_id": settings.pad_token_id if settings.pad_token_id is not None else tree.get("pad_token_id"),
        "eos_token_ids": settings.eos_token_ids or (ends if isinstance(ends, list) else [ends] * (ends is not None)),
    }
    return validate(ExportSettings, settings.model_dump() | found, CONFIG)


def _token_ids(settings: ExportSettings) -> dict[str, Any]:
    ends: Any = list(settings.eos_token_ids) or None
    ids = {"bos_token_id": settings.bos_token_id, "eos_token_id": ends, "pad_token_id": settings.pad_token_id}
    return {name: value for name, value in ids.items() if value is not None}


def _generation_json(settings: ExportSettings) -> dict[str, Any]:
    return {"do_sample": False} | _token_ids(settings)


def read_config(folder: Path) -> ModelConfig:
    """Read the shape from `folder`/config.json. Raises UserError when it is missing, broken or of a foreign kind."""
    tree = read_json(folder / CONFIG)
    model_type = tree.get("model_type")
    if model_type not in _ARCHITECTURES:
        raise UserError(
            f"{folder / CONFIG}: model_type={model_type!r} is not supported; use one of {', '.join(_ARCHITECTURES)}"
        )
    fields = {name: tree[name] for name in ModelConfig.model_fields if name in tree}
    rope = tree.get("rope_parameters") or {}  # how transformers 5 writes theta
    if not isinstance(rope, dict):
        raise UserError(f"{folder / CONFIG}: rope_parameters={rope!r} is no object; export the model again")
    if rope.get("rope_type", "default") != "default":
        raise UserError(f"{folder / CONFIG}: rope_type={rope['rope_type']!r} is not supported; only 'default' is")
    if "rope_theta" not in fields:
        fields["rope_theta"] = rope.get("rope_theta", 10000.0)
    if fields.get("head_dim") is None:
        hidden, heads = tree.get("hidden_size"), tree.get("num_attention_heads")
        if isinstance(hidden, int) and isinstance(heads, int) and hidden > 0 < heads:  # others are refused by name
            fields["head_dim"] = hidden // heads
    if model_type != _RESEARCH_TYPE:
        fields.pop("research", None)
    if model_type in ("iquestloopcoder", _RESEARCH_TYPE):
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
    stored = StoredTensors(folder)
    names = _fitting(config, stored, folder)
    with torch.device("meta"):
        model = LoopCoder(config)
    for name, where in names.items():
        value = stored.read(where)
        _assign(model, name, value.to(device=device, dtype=dtype or value.dtype))
    if config.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    return model


def _fitting(config: ModelConfig, stored: StoredTensors, folder: Path) -> dict[str, str]:
    """Return our parameter name -> stored name. Raises one UserError that lists all that does not fit."""
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in LoopCoder(config).named_parameters()}
    where: dict[str, str] = {}
    problems: list[str] = []
    for name, found in stored.shapes.items():
        constant = name.endswith("rotary_emb.inv_freq")  # that old exports carry
        if constant or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        own = private_name(name)
        if own in where:
            problems.append(f"{name} and {where[own]} are the same tensor")
        elif own not in wanted:
            problems.append(f"unexpected {name}")
        elif wanted[own] != found:
            problems.append(f"misshapen {name} {list(found)} instead of {list(wanted[own])}")
        where[own] = name
    problems += [f"missing {public_name(name)}" for name in wanted if name not in where]
    if problems:
        raise UserError(
            f"{folder}: weights do not fit config.json: {', '.join(problems)}; check that both are of the same model"
        )
    return {name: where[name] for name in wanted}


def _assign(model: LoopCoder, name: str, value: Tensor) -> None:
    owner_name, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner_name), leaf, nn.Parameter(value))
