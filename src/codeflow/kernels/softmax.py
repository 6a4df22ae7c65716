"""Softmax over the keys that each query of a product sees, and its gradient, in place where that is possible.

On a CPU with few threads in compiled functions that touch visible keys only, once; elsewhere, and for small products,
in torch operations with a bias of -infinity. Softmax is computed in fp32 inside (fp64 for fp64); weights have the dtype
of the scores.

Legend: n products, m of them with ranges of their own, P positions, rows = P * R query heads, K keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from codeflow.kernels.arrays import as_array, compiled_functions, compiling_pays

_SHORT_KEYS = 256  # rows up to this are quicker in torch's fp32 softmax than in its bf16 one


@dataclass(frozen=True)
class KeyRanges:
    """What each position sees: keys first <= j < end, (m, P) int64; product i has the ranges of i % m.

    All see the keys before `shared`.
    """

    first: Tensor
    end: Tensor
    shared: int = 0
    _biases: dict[Any, Tensor] = field(default_factory=dict)

    @cached_property
    def _arrays(self) -> tuple[Any, Any]:
        return self.first.numpy(), self.end.numpy()

    def softmax(self, scores: Tensor) -> Tensor:
        """Return the weights of scores (n, rows, K), which are overwritten."""
        if compiling_pays(scores):
            compiled_functions().softmax(as_array(scores), *self._arrays)
            return scores
        n_ranges, n_positions = self.first.shape
        view = scores.view(-1, n_ranges, n_positions, scores.shape[1] // n_positions, scores.shape[2])
        view[..., self.shared :] += self._bias(scores)
        if scores.dtype in (torch.float32, torch.float64) or scores.shape[-1] > _SHORT_KEYS:
            return scores.softmax(-1)
        return scores.softmax(-1, dtype=torch.float32).to(scores.dtype)

    def backward(self, weights: Tensor, d_weights: Tensor, terms: Tensor | None) -> Tensor:
        """Return the gradient of the scores; d_weights is overwritten. `terms` (n, rows): sum(weights * d_weights)."""
        if compiling_pays(weights):
            sums = torch.empty(weights.shape[:2])
            arrays = as_array(weights), as_array(d_weights)
            compiled_functions().softmax_backward(*arrays, *self._arrays, sums.numpy())
            if terms is not None:
                terms.copy_(sums)
            return d_weights
        if terms is not None:
            torch.sum(weights * d_weights, -1, dtype=terms.dtype, out=terms)
        return torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)

    def _bias(self, scores: Tensor) -> Tensor:
        """Return what hides keys from `shared` on: (m, P, 1, K - shared)."""
        if scores.dtype not in self._biases:
            key = torch.arange(self.shared, scores.shape[2], device=scores.device)
            seen = (self.first[..., None] <= key) & (key < self.end[..., None])
            bias = torch.zeros(seen.shape, dtype=scores.dtype, device=scores.device)
            self._biases[scores.dtype] = bias.masked_fill_(~seen, -torch.inf)[:, :, None]
        return self._biases[scores.dtype]
