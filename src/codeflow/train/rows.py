"""Which packed rows are trained on and which are held out: the last rows of every set are never sampled.

A set gives up `validation_rows` rows, but never more than a quarter of what it has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from codeflow.tokens.batch import Batch, batch_from_rows
from codeflow.tokens.loader import Folders, Loader, LoaderPlan, set_names
from codeflow.tokens.mixture import Blend
from codeflow.tokens.token_shard import TokenSet, read_index

_LARGEST_PART = 4  # at most one row in this many is held out


def n_held_out(n_rows: int, validation_rows: int) -> int:
    """Return how many rows a set of `n_rows` gives up."""
    return min(validation_rows, n_rows // _LARGEST_PART)


class TrainingRows(Loader):
    """A loader that never samples the rows held out, and reads these for itself."""

    def __init__(self, plan: LoaderPlan, folders: Folders, validation_rows: int) -> None:
        """Map the sets of `folders`. Raises UserError as Loader does."""
        self._validation_rows = validation_rows
        super().__init__(plan, folders)

    def _n_read(self, rows: TokenSet) -> int:
        return rows.n_rows - n_held_out(rows.n_rows, self._validation_rows)

    def held_out(self, name: str, rank: int, n_ranks: int) -> Batch | None:
        """Return this rank's share of a set's held-out rows, in order; None where the set is too small to have any.

        Shares are equally large: rows without loss weight fill them up.
        """
        rows = self.sets[name]
        n = rows.index.n_rows - rows.n_rows
        if not n:
            return None
        per_rank = -(-n // n_ranks)
        places = np.arange(rank * per_rank, (rank + 1) * per_rank, dtype=np.int64)
        ids, flags = rows.rows(rows.n_rows + np.minimum(places, n - 1))
        batch = batch_from_rows(ids, flags, (name,) * per_rank)
        batch.weights[places >= n] = 0
        return batch


def absent(optional: Collection[str], folders: Folders) -> list[str]:
    """Return the optional sets that the tokens artifacts do not hold."""
    there = set_names(folders)
    return [name for name in optional if name not in there]


def training_rows(
    folder: Path, mixture: Mapping[str, float | Blend], batch_rows: int, validation_rows: int, seed: int
) -> TrainingRows:
    """Open the sets of a tokens artifact that have weight. Raises UserError naming a set that is missing or empty."""
    context_tokens = read_index(folder).context_tokens
    plan = LoaderPlan(weights=dict(mixture), batch_rows=batch_rows, context_tokens=context_tokens, seed=seed)
    return TrainingRows(plan, folder, validation_rows)
