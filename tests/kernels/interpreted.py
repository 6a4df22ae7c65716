"""The Triton kernels in Triton's interpreter; `test_triton.py` runs this file with TRITON_INTERPRET=1.

Tiles are 16 x 16 there, so that rows of 36 positions have whole, masked and partial ones.
"""

from __future__ import annotations

import itertools
import sys

import pytest
import torch
from torch import Tensor

from codeflow.core.errors import UserError
from codeflow.kernels import cpu, flash, reference, triton_fused
from codeflow.kernels.documents import Documents
from codeflow.kernels.memory import saved_bytes
from tests.kernels.cases import N_HEADS, NAMES, cast, gated, gradients, make_inputs, packed, relative

LENGTH = 36
PACKINGS = {"one document": None, "packed": [[3, 1, 32]], "short": [[20, 2, 1, 1, 12]]}


def test_this_is_the_interpreter() -> None:
    assert triton_fused.INTERPRETED


def _check(found: list[Tensor], exact: list[Tensor], tolerance: float) -> None:
    for name, ours, best in zip(NAMES, found, exact, strict=False):
        if float(best.norm()) > 1e-6:
            assert relative(ours, best) < tolerance, name
        else:
            assert float(ours.norm()) < 1e-4, name


@pytest.mark.parametrize(
    ("packing", "window", "elementwise", "strict", "head_dim", "dtype"),
    [
        ("packed", 5, False, False, 16, torch.float32),
        ("packed", 20, True, True, 16, torch.bfloat16),
        ("short", 1, False, True, 12, torch.float32),
        ("one document", 100, True, False, 16, torch.float32),
        ("one document", 17, False, True, 32, torch.float16),
    ],
)
def test_fused_equals_reference(
    packing: str, window: int, elementwise: bool, strict: bool, head_dim: int, dtype: torch.dtype
) -> None:
    documents = packed(PACKINGS[packing])
    inputs = cast(make_inputs(1, LENGTH, head_dim=head_dim, elementwise=elementwise), dtype)
    exact_inputs = cast(inputs, torch.float64)
    exact = gradients(gated(exact_inputs, documents, window, "reference", strict), exact_inputs)
    tolerance = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    _check(gradients(gated(inputs, documents, window, "triton", strict), inputs), exact, tolerance)


@pytest.mark.parametrize("packing", ["packed", "one document"])
def test_plain_equals_reference(packing: str) -> None:
    documents = packed(PACKINGS[packing])
    inputs = cast(make_inputs(1, LENGTH, head_dim=16)[:3], torch.float32)
    exact_inputs = cast(inputs, torch.float64)
    exact = gradients(reference.causal_attention(*exact_inputs, documents), exact_inputs)
    _check(gradients(triton_fused.causal_attention(*inputs, documents), inputs), exact, 1e-6)


def test_window_and_gate_for_a_given_global_output() -> None:
    documents = packed(PACKINGS["packed"])
    q, k1, _, k2, v2, logits = make_inputs(1, LENGTH, head_dim=16)
    given = torch.randn(q.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    exact_inputs = cast([given, q, k2, v2, logits], torch.float64)

    def definition(given: Tensor, q: Tensor, k2: Tensor, v2: Tensor, logits: Tensor) -> Tensor:
        return reference.mix(given, reference.window_attention(q, k2, v2, documents, 5), logits)

    def ours(given: Tensor, q: Tensor, k2: Tensor, v2: Tensor, logits: Tensor) -> Tensor:
        return triton_fused.window_and_gate(given, q, (k2, v2), logits, documents, 5)

    exact = gradients(definition(*exact_inputs), exact_inputs)
    inputs = cast(exact_inputs, torch.float32)
    _check(gradients(ours(*inputs), inputs), exact, 1e-6)


@pytest.mark.parametrize("logit", [-8.0, -4.0, 0.0, 4.0, 8.0])
def test_no_gate_loses_digits_in_bf16(logit: float) -> None:
    """At most twice the error of the composed path, which stores both outputs, against fp64."""
    documents: Documents | None = packed([[6, 10]])
    inputs = make_inputs(1, 16, head_dim=16)
    inputs[5] = logit + 0.25 * inputs[5].detach()
    half = cast(inputs, torch.bfloat16)
    exact_inputs = cast(half, torch.float64)
    exact = gradients(gated(exact_inputs, documents, 3, "reference"), exact_inputs)
    ours = gradients(gated(half, documents, 3, "triton"), half)
    q, k1, v1, k2, v2, logits = half
    parts = cpu.causal_attention(q, k1, v1, documents), cpu.window_attention(q, k2, v2, documents, 3)
    stored = gradients(reference.mix(*parts, logits), half)
    for name, found, peer, best in zip(NAMES, ours, stored, exact, strict=True):
        assert relative(found, best) <= 2 * relative(peer, best), name
    weight = [torch.einsum("bth,bthd->hd", g[6].double(), exact_inputs[0].detach()) for g in (ours, stored, exact)]
    assert relative(weight[0], weight[2]) <= 2 * relative(weight[1], weight[2])


@pytest.mark.parametrize(("dtype", "n_outputs"), [(torch.float32, 0), (torch.bfloat16, 1)])
def test_bytes_kept(dtype: torch.dtype, n_outputs: int) -> None:
    """Two numbers per row and head, and the global output in 16 bits only."""
    inputs = cast(make_inputs(1, 16, head_dim=16), dtype)
    lse = 2 * 16 * N_HEADS * 4
    kept = saved_bytes(lambda: gated(inputs, None, 3, "triton"), inputs)
    assert kept == lse + n_outputs * inputs[0].numel() * inputs[0].element_size()


class FlashAttentionStandIn:
    """A module with FlashAttention's variable-length function, written with the reference."""

    def __init__(self, with_lse: bool) -> None:
        self.with_lse = with_lse

    def flash_attn_varlen_func(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        softmax_scale: float | None = None,
        causal: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        assert softmax_scale is None
        assert causal
        assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
        edges = cu_seqlens_q.tolist()
        assert edges[0] == 0
        assert edges[-1] == len(q) == len(k)
        lengths = [end - start for start, end in itertools.pairwise(edges)]
        assert max(lengths) == max_seqlen_q == max_seqlen_k
        parts = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
        output = torch.cat([reference.causal_attention(*(x[None] for x in part), None)[0] for part in parts])
        return (output, output.new_zeros(q.shape[1], len(q))) if self.with_lse else output


@pytest.mark.parametrize(
    ("module", "with_lse", "packing"),
    [
        ("flash_attn.cute", True, "packed"),
        ("flash_attn_interface", True, "one document"),
        ("flash_attn", False, "short"),
    ],
)
def test_flash_with_window_and_gate_behind_it(
    module: str, with_lse: bool, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in takes FlashAttention's place, under the name of each version; the kernel behind it is ours."""
    flash._variable_length.cache_clear()
    for name in ("flash_attn", "flash_attn.cute", "flash_attn_interface"):
        monkeypatch.setitem(sys.modules, name, FlashAttentionStandIn(with_lse) if name == module else None)
    documents = packed(PACKINGS[packing])
    inputs = cast(make_inputs(1, LENGTH, head_dim=16), torch.float16)
    exact_inputs = cast(inputs, torch.float64)
    exact = gradients(gated(exact_inputs, documents, 5, "reference"), exact_inputs)
    _check(gradients(gated(inputs, documents, 5, "flash"), inputs), exact, 3e-3)
    flash._variable_length.cache_clear()


def test_what_it_cannot_take_is_said() -> None:
    with pytest.raises(UserError, match="float64 and 8"):
        gated(make_inputs(1, 4), None, 2, "triton")
