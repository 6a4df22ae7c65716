"""Where documents lie in packed rows: computed once per forward pass and shared by every layer and loop.

Legend: B rows, T positions per row, W window, N blocks of W positions in a row.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from codeflow.core.errors import UserError


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents of a batch. `starts` (B, T) int64: for each position the row index its document starts at."""

    starts: Tensor
    runs: tuple[tuple[int, int], ...]  # (n, length): n consecutive documents of one length, in row-major order
    _block_masks: dict[int, Tensor] = field(default_factory=dict)

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
        lengths = [end - start for start, end in zip(edges, [*edges[1:], host.numel()], strict=True)]
        runs = tuple((len(list(group)), length) for length, group in itertools.groupby(lengths))
        return None if runs == ((host.shape[0], host.shape[1]),) else Documents(starts, runs)

    @property
    def sizes(self) -> list[int]:
        """Tokens in each run, for `Tensor.split` over the flattened rows."""
        return [n * length for n, length in self.runs]

    @property
    def longest(self) -> int:
        """Length of the longest document in tokens."""
        return max(length for _, length in self.runs)

    def positions(self) -> Tensor:
        """Return positions (B, T) that restart at 0 in each document."""
        return torch.arange(self.starts.shape[1], device=self.starts.device) - self.starts

    def block_mask(self, window: int) -> Tensor:
        """Return (B, N, W, 2W) bool: may query i of block n see key j of blocks n-1 and n; T padded up to N * W."""
        if window not in self._block_masks:
            self._block_masks[window] = block_mask(self.starts, window)
        return self._block_masks[window]


def block_mask(starts: Tensor, window: int) -> Tensor:
    """Return the (B, N, W, 2W) window-and-document mask of `starts` (B, T); padding queries see padding keys."""
    n_rows, length = starts.shape
    n_blocks = -(-length // window)
    padded = torch.nn.functional.pad(starts, (0, n_blocks * window - length), value=length)
    starts_of_query = padded.view(n_rows, n_blocks, window, 1)
    query = torch.arange(n_blocks * window, device=starts.device).view(n_blocks, window, 1)
    key = query.view(n_blocks, 1, window)[:, :, :1] - window + torch.arange(2 * window, device=starts.device)
    in_window = (key <= query) & (key > query - window) & (key >= 0)  # (N, W, 2W)
    return in_window & (key >= starts_of_query)
