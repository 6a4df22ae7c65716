"""Which form of the weights a decoder chooses, and that all forms multiply alike."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from codeflow.core.processor import has_avx512
from codeflow.model import products
from codeflow.model.block import Block
from codeflow.model.products import Weights, choose_form
from tests.model.shapes import changed, make_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", ["in place", "packed", "panels"])
def test_every_form_multiplies(form: products.Form, dtype: torch.dtype) -> None:
    if form == "panels" and not has_avx512():
        pytest.skip("products in panels are for AVX-512, which is not here")
    generator = torch.Generator().manual_seed(0)
    weights = tuple(torch.randn((size, 24), generator=generator).to(dtype) for size in (32, 16))
    x = torch.randn((3, 5, 24), generator=generator).to(dtype)
    ours, exact = Weights(weights, form)(x), linear(x.double(), torch.cat(weights).double())
    assert (ours.dtype, ours.shape) == (dtype, exact.shape)
    assert float((ours - exact).abs().max()) < (1e-4 if dtype == torch.float32 else 0.2)


@pytest.mark.parametrize(
    ("dtype", "n_threads", "avx512", "bf16", "vocabulary", "form"),
    [
        (torch.float32, 1, True, True, 64, "panels"),
        (torch.float32, 2, True, False, 64, "packed"),
        (torch.float32, 1, False, False, 64, "packed"),
        (torch.float32, 1, True, False, 60, "packed"),
        (torch.bfloat16, 1, True, False, 64, "panels"),
        (torch.bfloat16, 4, True, False, 64, "panels"),
        (torch.bfloat16, 5, True, False, 64, "packed"),
        (torch.bfloat16, 1, True, True, 64, "packed"),
        (torch.float64, 1, True, False, 64, "packed"),
    ],
)
def test_the_form_follows_the_machine(dtype, n_threads, avx512, bf16, vocabulary, form, monkeypatch) -> None:
    monkeypatch.setattr(products, "has_avx512", lambda: avx512)
    monkeypatch.setattr(products, "multiplies_bf16", lambda: bf16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    model = make_model(changed(hidden_size=48, intermediate_size=80, vocab_size=vocabulary), dtype)
    blocks = [block for block in model.layers if isinstance(block, Block)]
    assert choose_form(blocks, model.lm_head.weight) == form
    monkeypatch.setattr(products, "_COPIED_BYTES", 1000)
    assert choose_form(blocks, model.lm_head.weight) == "in place"
