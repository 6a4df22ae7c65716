"""Which packed rows are trained on and which are held out: the last rows of every set are never sampled.

A set gives up `validation_rows` rows, but never more than a quarter of what it has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from codeflow.core.errors import UserError
from codeflow.tokens.batch import Batch, batch_from_rows
from codeflow.tokens.loader import Loader, LoaderPlan
from codeflow.tokens.token_shard import TokenSet, read_index

_LARGEST_PART = 4  # at most one row in this many is held out


def n_held_out(n_rows: int, validation_rows: int) -> int:
    """Return how many rows a set of `n_rows` gives up."""
    return min(validation_rows, n_rows // _LARGEST_PART)


class TrainingRows(Loader):
    """A loader that never samples the rows held out, and reads these for itself."""

    def __init__(self, plan: LoaderPlan, folder: Path, validation_rows: int) -> None:
        """Map the sets of `folder`. Raises UserError as Loader does."""
        self._validation_rows = validation_rows
        super().__init__(plan, folder)

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


def without_absent(mixture: Mapping[str, float], optional: Collection[str], folder: Path) -> dict[str, float]:
    """Return the mixture without the optional sets that a tokens artifact does not hold."""
    there = read_index(folder).sets
    return {name: weight for name, weight in mixture.items() if name not in optional or name in there}


def training_rows(
    folder: Path, mixture: Mapping[str, float], batch_rows: int, validation_rows: int, seed: int
) -> TrainingRows:
    """Open the sets of a tokens artifact that have weight. Raises UserError naming a set that is missing or empty."""
    index = read_index(folder)
    weighted = {name: weight for name, weight in mixture.items() if weight > 0}
    if not weighted:
        raise UserError("mixture gives no set a weight above 0; set one, as in mixture.code=1.0")
    plan = LoaderPlan(weights=dict(weighted), batch_rows=batch_rows, context_tokens=index.context_tokens, seed=seed)
    return TrainingRows(plan, folder, validation_rows)
