"""The `model/` folder of a checkpoint artifact: weights in the public form beside their tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from codeflow.core.storage import remove_tree, write_bytes
from codeflow.model import huggingface
from codeflow.model.config import ModelConfig
from codeflow.model.looped import LoopCoder
from codeflow.tokens.special import BOS, END_OF_TEXT, IM_END, PAD, SPECIAL_IDS
from codeflow.tokens.tokenizer import TOKENIZER_FILE


def export_model(
    config: ModelConfig, weights: Mapping[str, torch.Tensor], dtype: torch.dtype, tokenizer: Path, folder: Path
) -> None:
    """Write whole `weights` (by parameter name) as `dtype`, and the tokenizer of an artifact, to `folder`."""
    remove_tree(folder)
    with torch.device("meta"):
        model = LoopCoder(config)
    model.load_state_dict(dict(weights), strict=False, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    settings = huggingface.ExportSettings(
        dtype="bfloat16" if dtype == torch.bfloat16 else "float32",
        bos_token_id=SPECIAL_IDS[BOS],
        eos_token_ids=(SPECIAL_IDS[END_OF_TEXT], SPECIAL_IDS[IM_END]),
        pad_token_id=SPECIAL_IDS[PAD],
        research="mark",
    )
    huggingface.save(model, folder, settings)
    write_bytes(folder / TOKENIZER_FILE, (tokenizer / TOKENIZER_FILE).read_bytes())
