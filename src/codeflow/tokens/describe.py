"""A packed row as text that a person can read: its documents, tokens and what is trained on."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from codeflow.core.errors import UserError
from codeflow.tokens.batch import DOCUMENT_START, LOSS
from codeflow.tokens.special import PAD_ID
from codeflow.tokens.token_shard import TokenSet
from codeflow.tokens.tokenizer import Tokenizer


def describe_row(folder: Path, set_name: str, row: int, tokenizer: Tokenizer) -> str:
    """Return row `row` of a set, decoded: a rule before each document, tokens without loss in ⟦ ⟧.

    Raises UserError for an unknown set, a row outside it, or a tokenizer that the artifact was not packed with.
    """
    tokens = TokenSet(folder, set_name)
    if not 0 <= row < tokens.n_rows:
        raise UserError(f"no row {row} in set '{set_name}', which has {tokens.n_rows}; rows count from 0")
    if tokens.tokenizer_fingerprint != tokenizer.fingerprint:
        raise UserError(f"{folder} was packed with another tokenizer; give the one it was made from")
    (ids,), (flags,) = tokens.rows(np.array([row]))
    starts = [*np.flatnonzero(flags & DOCUMENT_START).tolist(), len(ids)]
    n_loss = int(np.count_nonzero(flags & LOSS))
    lines = [f"row {row} of '{set_name}': {len(ids)} tokens, {n_loss} with loss; ⟦...⟧ carries none"]
    for number, (start, end) in enumerate(pairwise(starts), 1):
        if ids[start] == PAD_ID:
            lines.append(f"── padding, {end - start} tokens ──")
            continue
        lines.append(f"── document {number}, tokens {start} to {end - 1} ──")
        lines.append(_marked(ids[start:end].tolist(), (flags[start:end] & LOSS).astype(bool).tolist(), tokenizer))
    return "\n".join(lines)


def _marked(ids: list[int], with_loss: list[bool], tokenizer: Tokenizer) -> str:
    """Join runs of equal mask, so that characters made of several tokens stay whole.

    A document's first token is never a target; it is shown as the token after it.
    """
    with_loss = with_loss[1:2] + with_loss[1:] if len(ids) > 1 else with_loss
    pieces: list[str] = []
    first = 0
    for place in range(1, len(ids) + 1):
        if place == len(ids) or with_loss[place] != with_loss[first]:
            text = tokenizer.decode(ids[first:place])
            pieces.append(text if with_loss[first] else f"⟦{text}⟧")
            first = place
    return "".join(pieces)
