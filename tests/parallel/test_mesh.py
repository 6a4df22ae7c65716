"""The mesh's sizes, and a world of one."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from codeflow.core.errors import UserError
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.mesh import world


@pytest.mark.parametrize(
    ("config", "n_ranks", "sizes"),
    [
        (MeshConfig(), 1, (1, 1, 1, 1)),
        (MeshConfig(), 4, (1, 4, 1, 1)),
        (MeshConfig(data=2), 4, (2, 2, 1, 1)),
        (MeshConfig(data=2, shard=1), 2, (2, 1, 1, 1)),
        (MeshConfig(context=2), 4, (1, 2, 2, 1)),
        (MeshConfig(context=2, tensor=2), 4, (1, 1, 2, 2)),
    ],
)
def test_sizes(config: MeshConfig, n_ranks: int, sizes: tuple[int, ...]) -> None:
    assert config.sizes(n_ranks) == sizes


@pytest.mark.parametrize(
    ("config", "n_ranks"),
    [(MeshConfig(data=3), 4), (MeshConfig(data=2), 1), (MeshConfig(shard=2), 4), (MeshConfig(context=3), 4)],
)
def test_sizes_that_do_not_multiply_up_are_refused(config: MeshConfig, n_ranks: int) -> None:
    with pytest.raises(UserError, match=f"{n_ranks} are running; start so many"):
        config.sizes(n_ranks)


def test_keys_are_kept_by_the_ring_alone() -> None:
    with pytest.raises(ValueError, match=r"context_keys=gather belongs to context_exchange=ring; .* leave .* out"):
        MeshConfig(context=2, context_exchange="all_to_all", context_keys="gather")


def test_a_world_of_one_is_left_as_it_was_found() -> None:
    for _ in range(2):
        with world(MeshConfig()) as here:
            assert (here.rank, here.n_ranks, here.is_first) == (0, 1, True)
            assert here.sum(1.5, 2) == [1.5, 2.0]
            here.barrier()
            with world(MeshConfig()) as inner:
                assert inner.n_ranks == 1
            assert dist.is_initialized()
        assert not dist.is_initialized()
