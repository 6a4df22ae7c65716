"""Where documents lie in packed rows: computed once per forward pass and shared by every layer and loop.

Legend: B rows, T positions per row.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from codeflow.core.errors import UserError

_Made = TypeVar("_Made")


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents of a batch. `starts` (B, T) int64: for each position the row index its document starts at."""

    starts: Tensor
    lengths: tuple[int, ...]  # of all documents, in row-major order
    _made: dict[Hashable, Any] = field(default_factory=dict)

    @staticmethod
    def of(document_starts: Tensor | None) -> Documents | None:
        """Read the layout from `document_starts` (B, T); None (also for rows of one document each) means no packing.

        Raises UserError when a start lies after its position, before the previous one, or is not its own start.
        """
        if document_starts is None:
            return None
        starts = document_starts.to(torch.int64)
        host = starts.cpu()
        here = torch.arange(host.shape[1]).expand_as(host)
        begins = host == here
        carried = torch.where(begins, here, -1).cummax(dim=1).values
        if not torch.equal(carried, host):
            row, at = (carried != host).nonzero()[0].tolist()
            raise UserError(
                f"document_starts[{row}, {at}]={int(host[row, at])} does not name the start of a document; "
                "each position must hold the row index at which its own document begins"
            )
        edges = begins.flatten().nonzero().flatten().tolist()
        lengths = tuple(end - start for start, end in itertools.pairwise([*edges, host.numel()]))
        return None if lengths == (host.shape[1],) * host.shape[0] else Documents(starts, lengths)

    @property
    def longest(self) -> int:
        """Length of the longest document in tokens."""
        return max(self.lengths)

    def positions(self) -> Tensor:
        """Return positions (B, T) that restart at 0 in each document."""
        return torch.arange(self.starts.shape[1], device=self.starts.device) - self.starts

    def once(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """Return what `make` returned when it was first called for `key`: layers and loops share masks and plans."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
