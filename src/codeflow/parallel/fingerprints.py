"""Fingerprints of tensors that lie over processes: of this process's part, and who else holds the same part."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from codeflow.kernels.fingerprint import Pair, as_pair, fingerprint
from codeflow.parallel.faults import dissenters


@dataclass(frozen=True)
class Box:
    """A part of a tensor: where it begins and how large it is."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def number(self) -> int:
        """A 63-bit number that stands for the box in messages."""
        return int.from_bytes(hashlib.sha256(repr((self.offset, self.shape)).encode()).digest()[:8], "big") >> 1


def box(tensor: Tensor) -> Box:
    """Return which part of `tensor` is on this process. A part of a sum that is not made yet has no such place."""
    if not isinstance(tensor, DTensor):
        return Box((0,) * tensor.ndim, tuple(tensor.shape))
    assert not any(placement.is_partial() for placement in tensor.placements), "a partial sum is nobody's part"
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return Box(tuple(offset), tuple(shape))


def local(tensor: Tensor) -> Tensor:
    """Return this process's part as a plain tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def of_part(tensor: Tensor) -> Tensor:
    """Return the fingerprint, int64 (2,), of this process's part at its place in the whole; no communication."""
    return fingerprint(local(tensor), box(tensor).offset)


def of_parts(tensors: Iterable[Tensor]) -> Tensor:
    """Return `of_part` of each, int64 (n, 2) in the host's memory."""
    found = [of_part(tensor).cpu() for tensor in tensors]
    return torch.stack(found) if found else torch.zeros(0, 2, dtype=torch.int64)


def gathered(rows: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Return every process's `rows` (equal shapes), stacked: (ranks, ...)."""
    n_ranks = dist.get_world_size(group)
    if n_ranks == 1:
        return rows[None]
    everyone = [torch.empty_like(rows) for _ in range(n_ranks)]
    dist.all_gather(everyone, rows.contiguous(), group=group)
    return torch.stack(everyone)


class Replicas:
    """Who holds the same part of which tensor, asked once for a set of names; then fingerprints can be compared."""

    def __init__(self, boxes: Mapping[str, Box]) -> None:
        """Exchange this process's `boxes`. Every process calls it, with equal names in equal order."""
        self.names = list(boxes)
        own = torch.tensor([each.number for each in boxes.values()], dtype=torch.int64)
        self._boxes = gathered(own)  # (ranks, n)
        same = self._boxes[:, None] == self._boxes[None]  # (ranks, ranks, n)
        self._leader = same.to(torch.uint8).argmax(1)  # (ranks, n): the first rank that holds the same part

    def disagreements(self, pairs: Tensor) -> list[tuple[str, tuple[int, ...], int]]:
        """Return (name, suspected ranks, number of holders) where replicas differ in `pairs` (ranks, n, 2)."""
        expected = pairs.gather(0, self._leader[..., None].expand_as(pairs))
        wrong = (pairs != expected).any(-1)  # (ranks, n)
        found: list[tuple[str, tuple[int, ...], int]] = []
        for column in wrong.any(0).nonzero().flatten().tolist():
            for leader in self._leader[wrong[:, column], column].unique().tolist():
                holders = (self._leader[:, column] == leader).nonzero().flatten().tolist()
                ranks = dissenters({rank: as_pair(pairs[rank, column]) for rank in holders})
                found.append((self.names[column], ranks, len(holders)))
        return found


def of_whole(tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None = None) -> dict[str, Pair]:
    """Return the fingerprint of each whole tensor from its parts on all processes, equal on all of them.

    A part that several hold counts once, as the first of them has it. Every process calls it.
    """
    return combined(list(tensors), of_parts(tensors.values()), [box(x) for x in tensors.values()], group)


def combined(
    names: Sequence[str], pairs: Tensor, boxes: Sequence[Box], group: dist.ProcessGroup | None = None
) -> dict[str, Pair]:
    """Return the whole fingerprints by name from this process's pairs (n, 2) and their boxes."""
    numbers = torch.tensor([each.number for each in boxes], dtype=torch.int64)
    everyone = gathered(torch.cat([numbers[:, None], pairs], 1), group)  # (ranks, n, 3)
    found: dict[str, Pair] = {}
    for column, name in enumerate(names):
        parts = {int(row[0]): row[1:] for row in reversed(everyone[:, column])}
        found[name] = as_pair(torch.stack(list(parts.values())).sum(0))
    return found
