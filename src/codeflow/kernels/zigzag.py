"""Who holds which positions of a row that several ranks share: rank r of n has the chunks r and 2n - 1 - r of 2n.

An early and a late chunk together cost every rank the same under a causal mask. Chunks are counted along the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from codeflow.core.errors import UserError


class Piece(NamedTuple):
    """The positions `first` .. `end` - 1 of the chunk `source`, which a later `chunk` needs."""

    source: int
    chunk: int
    first: int
    end: int


@dataclass(frozen=True)
class Zigzag:
    """The parts of a row of `length` positions on `n_ranks` ranks, seen from `rank`."""

    length: int
    n_ranks: int
    rank: int

    def __post_init__(self) -> None:
        """Raise UserError when the row has no 2 * n_ranks equal chunks."""
        if self.length % (2 * self.n_ranks):
            raise UserError(
                f"rows of {self.length} tokens cannot be shared by {self.n_ranks} context-parallel ranks; "
                f"use rows of a multiple of {2 * self.n_ranks} tokens or another mesh.context"
            )

    @property
    def chunk_length(self) -> int:
        """Positions of one chunk; a rank holds two."""
        return self.length // (2 * self.n_ranks)

    def owner(self, chunk: int) -> int:
        """Return the rank that holds a chunk."""
        return min(chunk, 2 * self.n_ranks - 1 - chunk)

    def chunks(self, rank: int | None = None) -> tuple[int, int]:
        """Return the two chunks of a rank (None: this one), in the order in which it holds them."""
        rank = self.rank if rank is None else rank
        return rank, 2 * self.n_ranks - 1 - rank

    def own(self, x: Tensor, dim: int = 1) -> Tensor:
        """Return this rank's positions of x, whose `dim` is the whole row: a copy, the early chunk first."""
        return torch.cat([x.narrow(dim, first, self.chunk_length) for first in self.firsts()], dim)

    def firsts(self, rank: int | None = None) -> tuple[int, int]:
        """Return the first positions of a rank's two chunks."""
        early, late = self.chunks(rank)
        return early * self.chunk_length, late * self.chunk_length

    def pieces(self, width: int) -> Iterator[Piece]:
        """Yield what each chunk needs of those before it to see `width` rows back, the same on every rank."""
        size = self.chunk_length
        for chunk in range(1, 2 * self.n_ranks):
            begin = max(0, chunk * size - width)
            for source in range(begin // size, chunk):
                first, end = max(begin, source * size), (source + 1) * size
                if first < end:
                    yield Piece(source, chunk, first, end)
