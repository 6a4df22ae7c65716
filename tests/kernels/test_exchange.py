"""Rows exchanged for heads and back: what arrives where, gradients, and payloads that change on their way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from codeflow.kernels.exchange import Exchange
from codeflow.kernels.payload import PayloadWatch
from codeflow.kernels.zigzag import Zigzag
from tests.ranks import run_ranks

LENGTH, N_ROWS = 24, 2
SHAPES = [(12, 3), (6, 5), (12,)]  # heads and what follows, of tensors that travel together


class FlippingWatch(PayloadWatch):
    """Changes one bit of what comes from one rank to another."""

    way: tuple[int, int] = (-1, -1)  # sender, receiver

    def check(self, payload: Tensor, claimed: Tensor, sender: int, group: dist.ProcessGroup) -> None:
        if (sender, group.rank()) == self.way:
            payload.view(torch.int64)[-1, -1] ^= 1 << 17
        super().check(payload, claimed, sender, group)


def whole_rows(number: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn((N_ROWS, LENGTH, *shape), generator=generator, dtype=torch.float64).to(dtype)


def heads_of(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    return x.chunk(group.size(), 2)[group.rank()]


def there_and_back(dtype: torch.dtype) -> None:
    group = dist.group.WORLD
    assert group is not None
    zigzag = Zigzag(LENGTH, group.size(), group.rank())
    exchange = Exchange(zigzag, group)
    whole = [whole_rows(number, shape, dtype) for number, shape in enumerate(SHAPES)]
    rows = [zigzag.own(x).requires_grad_() for x in whole]
    heads = exchange.to_heads(*rows)
    for mine, x in zip(heads, whole, strict=True):
        assert torch.equal(mine, heads_of(x, group))
        assert mine.is_contiguous()
    upstream = [whole_rows(10 + number, shape, dtype) for number, shape in enumerate(SHAPES)]
    gradients = torch.autograd.grad(heads, rows, [heads_of(x, group) for x in upstream], retain_graph=True)
    for gradient, x in zip(gradients, upstream, strict=True):
        assert torch.equal(gradient, zigzag.own(x))

    back = exchange.to_rows(heads[1])
    assert torch.equal(back, rows[1])
    (gradient,) = torch.autograd.grad(back, heads[1], zigzag.own(upstream[1]))
    assert torch.equal(gradient, heads_of(upstream[1], group))
    scattered = heads[1].transpose(0, 1).contiguous().transpose(0, 1)  # another order in memory
    assert torch.equal(exchange.to_rows(scattered), rows[1])


def flipped_payloads() -> None:
    group = dist.group.WORLD
    assert group is not None
    n, rank = group.size(), group.rank()
    zigzag = Zigzag(LENGTH, n, rank)
    watch = FlippingWatch()
    exchange = Exchange(zigzag, group, watch)
    own = zigzag.own(whole_rows(0, SHAPES[0])).requires_grad_()

    def turn() -> None:
        (heads,) = exchange.to_heads(own)
        exchange.to_rows(heads * 2).sum().backward()

    turn()
    assert watch.n_checked == 0
    watch.begin(True)
    turn()
    assert (watch.n_checked, watch.bad) == (4 * (n - 1), [])  # two exchanges, and their backward
    for sender in range(n):
        receiver = (sender + 1) % n
        watch.way = (sender, receiver)
        watch.begin(True)
        turn()
        found = {(bad.sender, bad.receiver) for bad in watch.bad}
        assert found == ({(sender, receiver)} if rank == receiver and n > 1 else set())
        assert len(watch.bad) == (4 if found else 0)


def all_cases() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        there_and_back(dtype)
    flipped_payloads()


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_rows_become_heads_and_heads_become_rows(n_ranks: int, tmp_path: Path) -> None:
    run_ranks(n_ranks, tmp_path, all_cases)


def test_one_message_has_one_dtype() -> None:
    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        group = dist.group.WORLD
        assert group is not None
        exchange = Exchange(Zigzag(LENGTH, 1, 0), group)
        with pytest.raises(AssertionError, match="one dtype"):
            exchange.to_heads(whole_rows(0, (2, 3)), whole_rows(1, (2, 3), torch.float32))
    finally:
        dist.destroy_process_group()
