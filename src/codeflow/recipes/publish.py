"""Stage `publish`: every checkpoint of a run as a Hugging Face directory in fp32, with its model card.

    <name>/ model.safetensors (or shards with an index), config.json, generation_config.json,
            tokenizer.json, tokenizer_config.json (with the chat template), special_tokens_map.json,
            README.md, and for looped models our modeling file

The weights are those of the checkpoint's `model/`, which is what evaluation reads, so that the scores on the card
belong to them; training state stays behind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts, Manifest, check_files, seal
from codeflow.core.progress import Bar
from codeflow.core.storage import write_bytes, write_text
from codeflow.core.types import Score
from codeflow.tokens.special import BOS, END_OF_TEXT, IM_END, PAD, SPECIAL_IDS, SPECIAL_TOKENS

if TYPE_CHECKING:
    from codeflow.recipes.model_card import Card

README, SPECIAL_MAP = "README.md", "special_tokens_map.json"
_KINDS = ("checkpoint", "documents", "tokenizer", "scores")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class PublishConfig(Config):
    """How checkpoints are published. Every input of kind `checkpoint` becomes a directory of the input's name."""

    title: str = "codeflow"  # before the checkpoint's name, on its card
    licence: str = "other"  # of the weights, by the hub's name; the licences of the data are on the card
    dense_type: Literal["llama", "iquestcoder"] = "llama"
    shard_bytes: PositiveInt = 5_000_000_000


@dataclass(frozen=True)
class _Release:
    """What all directories of a release share."""

    config: PublishConfig
    documents: Path
    tokenizer: Path
    scores: tuple[Path, ...]
    licences: Mapping[str, list[int]]
    languages: Mapping[str, list[int]]


def run(config: PublishConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Write one directory per checkpoint.

    Inputs by kind: any number of checkpoints, the `documents` that they were trained on, their `tokenizer`, and scores
    artifacts (none, one or more). Raises UserError when one is missing or of another kind, when a checkpoint has
    another tokenizer, or when its weights are damaged.
    """
    checkpoints, release = _read(config, inputs)
    published: dict[str, Any] = {}
    with Bar("publish", len(checkpoints), "checkpoints") as bar:
        for name, folder in checkpoints.items():
            published[name] = _publish(name, folder, release, output / name)
            bar.advance(remark=name)
    unscored = [name for name, facts in published.items() if not facts["scores"]]
    remarks = [f"not evaluated: {', '.join(unscored)}"] if unscored else []
    n = len(checkpoints)
    return seal(output, Counts(read=n, kept=n), {"checkpoints": published, "remarks": remarks})


def _read(config: PublishConfig, inputs: Mapping[str, Path]) -> tuple[dict[str, Path], _Release]:
    from codeflow.report.gather import documents_by, read_artifact
    from codeflow.tokens.tokenizer import TOKENIZER_FILE

    found: dict[str, dict[str, Path]] = {kind: {} for kind in _KINDS}
    for name, folder in inputs.items():
        kind = check_files(folder).kind
        if kind not in found:
            raise UserError(f"publish has no use for input '{name}' of kind '{kind}'; kinds: {', '.join(_KINDS)}")
        found[kind][name] = folder
    for kind in ("documents", "tokenizer"):
        if len(found[kind]) != 1:
            raise UserError(f"publish needs exactly one input of kind '{kind}', not {len(found[kind])}")
    if not found["checkpoint"]:
        raise UserError("publish has no checkpoint among its inputs; give one, such as --input anneal=DIR")
    (documents,), (tokenizer,) = found["documents"].values(), found["tokenizer"].values()
    for name, folder in found["checkpoint"].items():
        if not _NAME.fullmatch(name):
            raise UserError(f"'{name}' cannot name a directory; use letters, digits, '.', '_' and '-'")
        own = folder / "model" / TOKENIZER_FILE
        if own.exists() and own.read_bytes() != (tokenizer / TOKENIZER_FILE).read_bytes():
            raise UserError(f"checkpoint '{name}' was trained with another tokenizer than {tokenizer}; give its own")
    table = documents_by(read_artifact("documents", documents))
    scores = tuple(found["scores"].values())
    return found["checkpoint"], _Release(config, documents, tokenizer, scores, table["licence"], table["language"])


def _publish(name: str, checkpoint: Path, release: _Release, folder: Path) -> dict[str, Any]:
    """Write one directory, the card last: where a card is, the rest is whole. Returns facts for the manifest."""
    from codeflow.core.records import to_row
    from codeflow.model.huggingface import CONFIG, config_json, read_config
    from codeflow.recipes.model_card import render

    shape = read_config(checkpoint / "model")
    settings = _export_settings(release.config)
    card = _card(name, checkpoint, release, config_json(shape, settings), _n_parameters(checkpoint))
    if not (folder / README).exists():
        _write_model(checkpoint / "model", folder, release)
        assert json.loads((folder / CONFIG).read_text()) == card.shape
        _write_tokenizer(release.tokenizer, folder, shape.max_position_embeddings)
        write_text(folder / README, render(card))
    return {
        "model_type": card.model_type,
        "n_parameters": card.n_parameters,
        "tokens": card.tokens,
        "scores": len(card.scores),
        "lineage": {item.name: item.fingerprint for item in card.lineage},
        "phases": [to_row(phase) for phase in card.phases],
    }


def _export_settings(config: PublishConfig) -> Any:
    from codeflow.model.huggingface import ExportSettings

    return ExportSettings(
        dtype="float32",
        dense_type=config.dense_type,
        bos_token_id=SPECIAL_IDS[BOS],
        eos_token_ids=(SPECIAL_IDS[END_OF_TEXT], SPECIAL_IDS[IM_END]),
        pad_token_id=SPECIAL_IDS[PAD],
        shard_bytes=config.shard_bytes,
    )


def _write_model(source: Path, folder: Path, release: _Release) -> None:
    import torch

    from codeflow.model.huggingface import load, save
    from codeflow.tokens.tokenizer import Tokenizer

    model = load(source, torch.float32)
    model.config.check_vocabulary(Tokenizer.load(release.tokenizer).vocab_size)
    save(model, folder, _export_settings(release.config))


def _write_tokenizer(source: Path, folder: Path, context_tokens: int) -> None:
    from codeflow.tokens.chat import CHAT_TEMPLATE
    from codeflow.tokens.tokenizer import CONFIG_FILE, TOKENIZER_FILE

    write_bytes(folder / TOKENIZER_FILE, (source / TOKENIZER_FILE).read_bytes())
    tree = json.loads((source / CONFIG_FILE).read_text(encoding="utf-8"))
    # Without names of inputs, transformers 4 makes `token_type_ids`, and then its `generate` refuses them.
    tree |= {"model_input_names": ["input_ids", "attention_mask"]}
    tree |= {"chat_template": CHAT_TEMPLATE, "model_max_length": context_tokens}
    write_text(folder / CONFIG_FILE, json.dumps(tree, indent=2, sort_keys=True) + "\n")
    named = {"bos_token": BOS, "eos_token": END_OF_TEXT, "pad_token": PAD}
    others = [token for token in SPECIAL_TOKENS if token not in named.values()]
    write_text(folder / SPECIAL_MAP, json.dumps({**named, "additional_special_tokens": others}, indent=2) + "\n")


def _n_parameters(checkpoint: Path) -> int:
    import torch

    from codeflow.model.huggingface import read_config
    from codeflow.model.looped import LoopCoder

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in LoopCoder(read_config(checkpoint / "model")).parameters())


def _card(name: str, checkpoint: Path, release: _Release, shape: Mapping[str, Any], n_parameters: int) -> Card:
    from codeflow.recipes.model_card import Ancestor, Card, licence_shares, lineage, phases

    ancestors = lineage(checkpoint)
    documents = check_files(release.documents)
    total = max(sum(n_bytes for _, n_bytes in release.languages.values()), 1)
    return Card(
        title=f"{release.config.title} {name}",
        licence=release.config.licence,
        model_type=shape["model_type"],
        shape=shape,
        n_parameters=n_parameters,
        phases=phases(ancestors),
        lineage=ancestors,
        licences=licence_shares(release.licences),
        languages={language: n_bytes / total for language, (_, n_bytes) in release.languages.items()},
        documents=Ancestor(release.documents.name, "documents", documents.fingerprint, (), documents),
        scores=_scores(checkpoint, release),
    )


def _scores(checkpoint: Path, release: _Release) -> list[Score]:
    """Return the scores over whole benchmarks of this very checkpoint, found by its fingerprint."""
    from codeflow.core.records import read_shards

    fingerprint = check_files(checkpoint).fingerprint
    found: list[Score] = []
    for folder in release.scores:
        manifest = check_files(folder)
        names = {name for name, record in manifest.inputs.items() if record.fingerprint == fingerprint}
        found += [s for s in read_shards(folder, "scores", Score) if s.checkpoint in names and not s.subset]
    return found
