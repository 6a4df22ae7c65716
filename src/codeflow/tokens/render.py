"""From a sample's segments to token ids with the mask of what is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from codeflow.core.errors import UserError
from codeflow.tokens.special import PAD_ID

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from codeflow.core.types import Sample
    from codeflow.tokens.tokenizer import Tokenizer


def render(sample: Sample, tokenizer: Tokenizer) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """Return the sample's token ids (n,) and whether each token is trained on (n,).

    Role "text" is encoded literally: what looks like a special token inside stays ordinary text. Role "special" is one
    special token by name. Raises UserError for other roles and for the padding token.
    """
    rows = ({"role": s.role, "text": s.text, "train": s.train} for s in sample.segments)
    return render_segments(rows, tokenizer)


def render_segments(
    segments: Iterable[Mapping[str, Any]], tokenizer: Tokenizer
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """As `render`, from segments in the plain form of a Parquet row."""
    ids: list[NDArray[np.uint32]] = [np.empty(0, np.uint32)]
    train: list[NDArray[np.bool_]] = [np.empty(0, np.bool_)]
    for segment in segments:
        piece = _piece(segment["role"], segment["text"], tokenizer)
        ids.append(piece)
        train.append(np.full(len(piece), segment["train"]))
    return np.concatenate(ids), np.concatenate(train)


def _piece(role: str, text: str, tokenizer: Tokenizer) -> NDArray[np.uint32]:
    if role == "text":
        return tokenizer.encode_array(text)
    if role != "special":
        raise UserError(f"segment role '{role}' cannot be rendered; use 'text' or 'special'")
    token = tokenizer.special_id(text)
    if token == PAD_ID:
        raise UserError(f"a sample holds the padding token '{text}', which marks the unused end of rows; remove it")
    return np.array([token], np.uint32)
