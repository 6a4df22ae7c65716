"""The matrix products of a decoder, on weights in the form in which this machine multiplies fastest.

In place; packed for oneDNN; or in panels for our own product (`kernels.compiled_panels`), which on one thread is
quicker than oneDNN's in fp32, and in bf16 where the processor has no bf16 instructions.

Legend: N tokens, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from codeflow.core.processor import has_avx512, multiplies_bf16
from codeflow.kernels.arrays import as_array, compilable, compiled_panel_functions
from codeflow.model.block import Block

Form = Literal["in place", "packed", "panels"]
Product = Callable[[Tensor], Tensor]
Arrays = tuple[np.ndarray[Any, Any], ...]

_PACK_ROWS = 32  # one number for all weights: the layout, and so the order of a sum, must not depend on the batch
_COPIED_BYTES = 1 << 30  # copies are made of weights that together are smaller than this
_BF16_THREADS = 4  # with more, torch's products without bf16 instructions are quicker than ours, which have one thread


class Weights:
    """The weights (O, I) of one input; called with x (..., I), the products with all of them, side by side.

    `arrays` are what compiled functions read: the weights as they lie, or all in one as panels, or nothing. `dtype` is
    the one of x that need not be converted.
    """

    def __init__(self, weights: tuple[Tensor, ...], form: Form) -> None:
        self.arrays: Arrays = ()
        self.dtype = torch.float32 if form == "panels" else weights[0].dtype
        if form == "panels":
            self.arrays = (compiled_panel_functions().pack(tuple(map(as_array, weights))),)
            self._product = _product_of_panels(self.arrays[0])
        else:
            if form == "in place" and all(map(compilable, weights)):
                self.arrays = tuple(map(as_array, weights))
            self._product = _product_of(weights, form)

    def __call__(self, x: Tensor) -> Tensor:
        return self._product(x)


class BlockWeights(NamedTuple):
    """The weights of a block's products, by what they are products of."""

    qkv: Weights
    output: Weights
    gate_up: Weights
    down: Weights


def choose_form(blocks: Sequence[Block], head: Tensor) -> Form:
    """Return the form in which several rows are multiplied fastest; large models are not copied."""
    parts = [some for block in blocks for some in _parts(block)] + [(head,)]
    every = [weight for some in parts for weight in some]
    if sum(weight.nbytes for weight in every) >= _COPIED_BYTES:
        return "in place"
    dtype, n_threads = head.dtype, torch.get_num_threads()
    quicker = n_threads == 1 if dtype == torch.float32 else n_threads <= _BF16_THREADS and not multiplies_bf16()
    if quicker and has_avx512() and all(map(compilable, every)):
        fits = compiled_panel_functions().fits
        if all(fits([weight.shape for weight in some]) for some in parts):
            return "panels"
    return "packed"


def block_weights(block: Block, form: Form) -> BlockWeights:
    """Return a block's weights in this form."""
    return BlockWeights(*(Weights(some, form) for some in _parts(block)))


def _parts(block: Block) -> list[tuple[Tensor, ...]]:
    """Return the weights of a block by their inputs, in the order of `BlockWeights`."""
    attention, mlp = block.self_attn, block.mlp
    parts = (
        (attention.q_proj, attention.k_proj, attention.v_proj),
        (attention.o_proj,),
        (mlp.gate_proj, mlp.up_proj),
        (mlp.down_proj,),
    )
    return [tuple(part.weight.detach() for part in some) for some in parts]


def _product_of_panels(packed: np.ndarray[Any, Any]) -> Product:
    """Return x (..., I) -> (..., O) in the dtype of x."""
    multiply, width = compiled_panel_functions().product, packed.shape[0] * packed.shape[2]

    def product(x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).float().contiguous()
        out = torch.empty((len(flat), width))
        multiply(flat.numpy(), packed, out.numpy())
        return out.to(x.dtype).unflatten(0, x.shape[:-1])

    return product


def _product_of(weights: tuple[Tensor, ...], form: Form) -> Product:
    """Return x (..., I) -> the products with all weights (O, I), side by side; "packed" where oneDNN can."""
    if form == "in place":
        return lambda x: torch.cat([linear(x, weight) for weight in weights], dim=-1)
    joined = torch.cat(weights)
    if not _packable(joined):
        return lambda x: linear(x, joined)
    packed = torch.ops.mkldnn._reorder_linear_weight(joined, _PACK_ROWS)
    product = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: product(x, packed, None, "none", [], "")


def _packable(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32
