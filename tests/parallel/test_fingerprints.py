"""Fingerprints over processes: parts of every layout add up to the whole, and copies that differ are named."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from codeflow.kernels.fingerprint import as_pair, fingerprint
from codeflow.parallel.fingerprints import Box, Replicas, box, of_parts, of_whole
from tests.ranks import run_ranks

N_RANKS = 4


def _all_layouts() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    generator = torch.Generator().manual_seed(0)
    for shape in ((8, 6), (5, 7), (1, 3), (9,)):  # even, uneven, with empty parts
        x = torch.randn(shape, generator=generator)
        whole = as_pair(fingerprint(x))
        kinds = [Replicate(), *(Shard(dim) for dim in range(len(shape)))]
        for placements in product(kinds, kinds):
            if any(len(x) % 4 for p in placements if p == Shard(0)) and placements[0] == placements[1] == Shard(0):
                continue  # torch cuts these in an order of its own
            tensor = distribute_tensor(x, mesh, placements)
            assert of_whole({"x": tensor})["x"] == whole, (shape, placements)
            if all(placement == Replicate() for placement in placements):
                assert Replicas({"x": box(tensor)}).disagreements(_changed(tensor)) == [("x", (2,), 4)]
    assert of_whole({"plain": x, "empty": torch.zeros(0, 2)}) == {"plain": as_pair(fingerprint(x)), "empty": (0, 0)}
    row = distribute_tensor(torch.randn(8, 6, generator=generator), mesh, [Replicate(), Shard(1)])
    assert Replicas({"x": box(row)}).disagreements(_changed(row)) == [("x", (0, 2), 2)]  # two copies: nobody knows


def _changed(tensor: torch.Tensor) -> torch.Tensor:
    """Everybody's fingerprints, of which rank 2's is another."""
    pairs = of_parts([tensor])
    if dist.get_rank() == 2:
        pairs[0, 1] += 1
    everyone = [torch.empty_like(pairs) for _ in range(N_RANKS)]
    dist.all_gather(everyone, pairs)
    return torch.stack(everyone)


def test_parts_of_every_layout(tmp_path: Path) -> None:
    run_ranks(N_RANKS, tmp_path, _all_layouts)


def test_boxes_have_numbers_of_their_own() -> None:
    boxes = [Box((a, b), (c, d)) for a, b, c, d in product(range(4), repeat=4)]
    assert len({each.number for each in boxes}) == len(boxes)
    assert all(0 <= each.number < 1 << 63 for each in boxes)
