"""Attention of one new token per row against plain torch, for heads of whole vectors and others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from codeflow.kernels.arrays import as_array
from codeflow.kernels.compiled_attention import attend, attend_gated
from codeflow.model.rope import rotate, rotation

GROUPS, BLOCK_TOKENS, WINDOW = 2, 8, 5
LENGTHS = (0, 3, 7, 8, 21, 40)  # tokens before the new one, by cache row
TABLE = np.random.default_rng(0).permutation(len(LENGTHS) * 6).astype(np.int32).reshape(len(LENGTHS), 6)


def _random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def _softmax_attention(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of q (H, D) to keys and values (S, G, D) in fp64."""
    repeats = q.shape[0] // keys.shape[1]
    keys, values = (x.double().repeat_interleave(repeats, 1) for x in (keys, values))
    weights = (torch.einsum("hd,shd->hs", q.double(), keys) * q.shape[1] ** -0.5).softmax(-1)
    return torch.einsum("hs,shd->hd", weights, values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("size", [6, 16, 48, 64, 80, 128])
def test_equals_plain_attention(size: int, repeats: int, dtype: torch.dtype) -> None:
    heads, n_rows = GROUPS * repeats, len(LENGTHS)
    pool = _random(2, TABLE.size, GROUPS, BLOCK_TOKENS, size, dtype=dtype)
    ring = _random(2, n_rows, GROUPS, WINDOW, size, dtype=dtype)
    gate = _random(heads, size, dtype=torch.float32), _random(heads, dtype=torch.float32)
    qkv = _random(n_rows, (heads + 2 * GROUPS) * size, dtype=torch.float32)
    cosine, sine = rotation(torch.arange(64)[None], size, 1e4, torch.float32)
    turns = torch.stack([cosine[0, :, 0], sine[0, :, 0]], 1).numpy()
    rows = np.array([4, 1, 5, 0, 2, 3], np.int32)
    where = rows, np.array(LENGTHS, np.int32), TABLE
    first, near = [tuple(as_array(part) for part in x) for x in (pool, ring)]

    out = np.empty((n_rows, heads * size), np.float32)
    attend(qkv.numpy(), turns, where, first, heads, out)
    gated = np.empty_like(out)
    attend_gated(qkv.numpy(), turns, where, first, near, tuple(x.numpy() for x in gate), gated)

    for b, row in enumerate(rows):
        at = LENGTHS[row]
        q, k, v = qkv[b].view(-1, size).split([heads, GROUPS, GROUPS])
        turn = cosine[:, at : at + 1], sine[:, at : at + 1]
        q, k = (rotate(x[None, None], turn)[0, 0] for x in (q, k))
        keys, values = (x[TABLE[row].tolist()].transpose(1, 2).flatten(0, 1)[: at + 1] for x in pool)
        assert torch.allclose(keys[at].float(), k.to(dtype).float(), rtol=1e-2 if dtype == torch.bfloat16 else 1e-5)
        assert torch.equal(values[at], v.to(dtype))
        wide = _softmax_attention(q, keys, values)
        assert torch.allclose(torch.from_numpy(out[b]).view(heads, size).double(), wide, atol=2e-5)
        last = [x[row].transpose(0, 1)[: min(at + 1, WINDOW)] for x in ring]
        assert torch.equal(last[1][at % WINDOW], v.to(dtype))
        share = torch.sigmoid((q * gate[0]).sum(-1) + gate[1]).double()[:, None]
        mixed = share * wide + (1 - share) * _softmax_attention(q, *last)
        assert torch.allclose(torch.from_numpy(gated[b]).view(heads, size).double(), mixed, atol=2e-5)
