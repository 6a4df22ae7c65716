"""Choice of greedy tokens; the blocks themselves are compared in tests/model/test_decode.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codeflow.kernels.compiled_step import greedy


@pytest.mark.parametrize("size", [1, 50, 256, 257, 8192])
def test_greedy_takes_the_first_of_the_largest(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (-30 * torch.rand(6, size, generator=generator)).round()  # with ties; all negative or zero
    logits[4:] += 29.5
    chosen, logprobs = np.empty(6, np.int64), np.empty(6, np.float32)
    greedy(logits.numpy(), chosen, logprobs)
    best = logits.amax(-1, keepdim=True)
    assert chosen.tolist() == (logits == best).int().argmax(-1).tolist()
    expected = logits.double().log_softmax(-1).amax(-1)
    assert logprobs == pytest.approx(expected.numpy(), abs=2e-6)
    for bad in (torch.nan, -torch.nan, torch.inf):
        logits[2, size // 2] = bad
        greedy(logits.numpy(), chosen, logprobs)
        assert np.isnan(logprobs).tolist() == [False, False, True, False, False, False]
