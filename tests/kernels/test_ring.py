"""Rows shared by ranks: ring, gathered keys and halo give what one process computes, gradients included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from codeflow.core.errors import UserError
from codeflow.kernels import reference, spans
from codeflow.kernels.halo import with_halo
from codeflow.kernels.ring import gathered_kv, ring_attention
from codeflow.kernels.spans import Sight, span_attention
from codeflow.kernels.zigzag import Zigzag
from tests.kernels.cases import cast, make_inputs, packed, relative
from tests.ranks import run_ranks

LENGTH = 48
PACKINGS: dict[str, list[list[int]] | None] = {
    "whole rows": None,
    "documents across rank borders": [[7, 30, 11], [48]],
    "many short documents": [[5] * 9 + [3], [1, 1, 46]],
}


def part_of(x: Tensor, zigzag: Zigzag) -> Tensor:
    return zigzag.own(x.detach()).requires_grad_()


def compare(found: list[Tensor], whole: list[Tensor], zigzag: Zigzag, case: str, tolerance: float = 1e-12) -> None:
    for ours, exact in zip(found, whole, strict=True):
        assert relative(ours, zigzag.own(exact)) < tolerance, case


def attention_cases() -> None:
    group = dist.group.WORLD
    assert group is not None
    zigzag = Zigzag(LENGTH, group.size(), group.rank())
    whole = make_inputs(2, LENGTH)[:3]
    upstream = torch.randn(whole[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for case, lengths in PACKINGS.items():
        documents = packed(lengths)
        exact = reference.causal_attention(*whole, documents)
        expected = [exact, *torch.autograd.grad(exact, whole, upstream)]
        inputs = [part_of(x, zigzag) for x in whole]
        output = ring_attention(*inputs, documents, zigzag, group)
        found = [output, *torch.autograd.grad(output, inputs, zigzag.own(upstream))]
        compare(found, expected, zigzag, f"ring, {case}")

        kv = gathered_kv(inputs[1], inputs[2], zigzag, group)
        parts = [
            span_attention(q, *kv, Sight.of(first, zigzag.chunk_length, documents, None, False, q), 0)
            for q, first in zip(inputs[0].chunk(2, 1), zigzag.firsts(), strict=True)
        ]
        output = torch.cat(parts, 1)
        found = [output, *torch.autograd.grad(output, inputs, zigzag.own(upstream))]
        compare(found, expected, zigzag, f"gathered, {case}")

        half = cast([x.detach() for x in inputs], torch.bfloat16)
        output = ring_attention(*half, documents, zigzag, group)
        found = [output, *torch.autograd.grad(output, half, zigzag.own(upstream).bfloat16())]
        compare(found, expected, zigzag, f"ring in bf16, {case}", 0.02)


def halo_cases() -> None:
    group = dist.group.WORLD
    assert group is not None
    zigzag = Zigzag(LENGTH, group.size(), group.rank())
    generator = torch.Generator().manual_seed(2)
    whole = torch.randn((2, LENGTH, 3), generator=generator, dtype=torch.float64)
    for width in (0, 1, zigzag.chunk_length, zigzag.chunk_length + 2, LENGTH - 1):
        x = part_of(whole, zigzag)
        found = with_halo(x, width, zigzag, group)
        everywhere = [torch.zeros_like(whole) for _ in range(2 * group.size())]
        for chunk in range(2 * group.size()):  # each chunk's upstream gradient, known to all
            everywhere[chunk] = torch.randn(whole.shape, generator=torch.Generator().manual_seed(chunk)).double()
        total, expected = torch.zeros(()).double(), torch.zeros_like(whole)
        for chunk in range(2 * group.size()):
            first, end = max(0, chunk * zigzag.chunk_length - width), (chunk + 1) * zigzag.chunk_length
            expected[:, first:end] += everywhere[chunk][:, first:end]
            if chunk in zigzag.chunks():
                ours = found[zigzag.chunks().index(chunk)]
                assert torch.equal(ours, whole[:, first:end]), (width, chunk)
                total = total + (ours * everywhere[chunk][:, first:end]).sum()
        (gradient,) = torch.autograd.grad(total, x)
        assert relative(gradient, zigzag.own(expected)) < 1e-12, width


def all_cases() -> None:
    attention_cases()
    halo_cases()


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4])
def test_ranks_compute_what_one_process_does(n_ranks: int, tmp_path: Path) -> None:
    run_ranks(n_ranks, tmp_path, all_cases)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("window", [None, 1, 5, 40])
@pytest.mark.parametrize("lengths", PACKINGS.values(), ids=PACKINGS)
def test_a_span_met_in_pieces(
    lengths: list[list[int]] | None, window: int | None, strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles of 8 queries, so that documents, window and diagonal cut through them in every way."""
    monkeypatch.setattr(spans, "_TILE", 8)
    spans._sight_of_whole_rows.cache_clear()
    documents, first = packed(lengths), 20
    q, k, v = make_inputs(2, LENGTH)[:3]
    exact = reference.attention(q, k, v, reference.mask(LENGTH, documents, window, q.device, strict))[:, first:]
    chunk = q[:, first:].detach().requires_grad_()
    sight = Sight.of(first, LENGTH - first, documents, window, strict, q)
    ours = span_attention(chunk, k, v, sight, 0)
    spans._sight_of_whole_rows.cache_clear()
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    d_q, *d_kv = torch.autograd.grad(exact, (q, k, v), upstream)
    found = [ours, *torch.autograd.grad(ours, (chunk, k, v), upstream)]
    for x, y in zip(found, [exact, d_q[:, first:], *d_kv], strict=True):
        assert (x - y).norm() < 1e-12 * (1 + y.norm())  # a window of one key has no gradient through its weight


def test_every_position_has_one_owner() -> None:
    row = torch.arange(24)[None]
    parts = [Zigzag(24, 3, rank).own(row) for rank in range(3)]
    assert torch.equal(torch.cat(parts, 1).sort().values, row)
    assert parts[1].tolist() == [[4, 5, 6, 7, 16, 17, 18, 19]]


def test_rows_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(UserError, match="multiple of 6"):
        Zigzag(32, 3, 0)
