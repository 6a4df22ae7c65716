"""What a training step receives: packed rows with next-token targets that never cross a document border.

Legend: B rows of the batch, T = context_tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DOCUMENT_START, LOSS = 1, 2  # bits of a token's flags: first token of a document in its row; carries loss as a target


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's rows of one step. The target at t is the token at t + 1 of the same document, else its weight is 0."""

    ids: NDArray[np.int64]  # (B, T)
    targets: NDArray[np.int64]  # (B, T); equal to the own id where there is no next token in the document
    weights: NDArray[np.float32]  # (B, T); 0 = no loss
    positions: NDArray[np.int32]  # (B, T); restart at document starts
    document_starts: NDArray[np.int32]  # (B, T); the index in the row at which this position's document starts
    sets: tuple[str, ...] = ()  # (B,) the set that each row came from
    advantages: NDArray[np.float32] | None = None  # (B, T) of the target at t; reinforcement learning only
    old_logprobs: NDArray[np.float32] | None = None  # (B, T) of the target at t, before the step's first update

    @property
    def n_tokens(self) -> int:
        """Number of positions, padding included."""
        return int(self.ids.size)


def batch_from_rows(ids: NDArray[Any], flags: NDArray[np.uint8], sets: tuple[str, ...] = ()) -> Batch:
    """Derive targets, weights and positions from packed rows: ids (B, T) and flags (B, T), as `pack` wrote them."""
    n_rows, context_tokens = ids.shape
    ids64 = ids.astype(np.int64)
    starts_here = (flags & DOCUMENT_START).astype(bool)
    places = np.arange(context_tokens, dtype=np.int32)
    document_starts = np.maximum.accumulate(np.where(starts_here, places, 0).astype(np.int32), axis=1)
    targets = ids64.copy()
    weights = np.zeros((n_rows, context_tokens), dtype=np.float32)
    same = ~starts_here[:, 1:]
    targets[:, :-1] = np.where(same, ids64[:, 1:], ids64[:, :-1])
    weights[:, :-1] = same & ((flags[:, 1:] & LOSS) != 0)
    return Batch(ids64, targets, weights, places - document_starts, document_starts, sets)
