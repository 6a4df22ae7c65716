"""Decoding with compiled functions, for fp32 and bf16 on the CPU: prompts, and steps of one token per row.

Between torch's matrix products lies one compiled call each; where the products are compiled too, a step is one call.
The residual stream stays in fp32.

Legend: B rows, T tokens of a prompt, N tokens, C hidden size, F intermediate size, H query heads, G key/value heads,
D head dim, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding

from codeflow.kernels.arrays import as_array, compiled_attention_functions, compiled_functions, compiled_step_functions
from codeflow.model.block import Block
from codeflow.model.kv_cache import KeyValueCache
from codeflow.model.looped import LoopCoder
from codeflow.model.products import BlockWeights, Weights
from codeflow.model.rope import rotation

Place = tuple[int, int]  # loop, layer
Attention = Callable[[Place, Tensor, tuple[Tensor, Tensor]], Tensor]  # place, q, (k, v), each (B, T, heads, D)
Rows = np.ndarray[Any, Any]


class _Passes:
    """Passes over the layers with compiled functions between the products.

    Holds a model's small weights and its caches as arrays. The products come with each call: a decoder and its step
    that hold each other would keep the cache until the next collection.
    """

    def __init__(self, model: LoopCoder, cache: KeyValueCache, row_tokens: int) -> None:
        config = self.config = model.config
        self.model, self.cache, self.kernels = model, cache, compiled_functions()
        dtype = model.embed_tokens.weight.dtype
        turn = rotation(torch.arange(row_tokens)[None], config.head_dim, config.rope_theta, dtype)
        self.turns = torch.stack([part[0, :, 0] for part in turn], dim=1).float().numpy()  # (positions, 2, D / 2)
        self.blocks = [block for block in model.layers if isinstance(block, Block)]
        self.norms = [
            (block.input_layernorm.weight.float().numpy(), block.post_attention_layernorm.weight.float().numpy())
            for block in self.blocks
        ]
        self.final_norm = model.norm.weight.float().numpy()

    def read(self, layers: Sequence[BlockWeights], ids: Tensor, attention: Attention) -> Tensor:
        """Return the normed hidden states (B, T, C) behind prompts (B, T); `attention` keeps keys and values."""
        n_rows, n_tokens = ids.shape
        config, like = self.config, self.model.embed_tokens.weight
        queries = (n_rows, n_tokens, config.num_attention_heads, config.head_dim)
        keys = (n_rows, n_tokens, config.num_key_value_heads, config.head_dim)

        def attend(place: Place, qkv: Tensor) -> Tensor:
            q, k, v = (like.new_empty(shape) for shape in (queries, keys, keys))
            flat = (as_array(x.flatten(0, 1)) for x in (q, k, v))
            self.kernels.split_heads(as_array(qkv), self.turns, n_tokens, *flat)
            return attention(place, q, (k, v)).reshape(n_rows * n_tokens, -1)

        n = n_rows * n_tokens
        scratch = tuple(
            torch.empty((n, size), dtype=layers[0].qkv.dtype) for size in (config.hidden_size, config.intermediate_size)
        )
        return self._run(layers, ids.flatten(), attend, scratch).unflatten(0, (n_rows, n_tokens))

    def _run(
        self,
        layers: Sequence[BlockWeights],
        ids: Tensor,
        attend: Callable[[Place, Tensor], Tensor],
        scratch: Sequence[Tensor],
    ) -> Tensor:
        """Return the normed hidden states (N, C) behind ids (N,), which are the first of `scratch`, (N, C) and (N, F).

        `attend` makes (N, H D) of a place and qkv (N, (H + 2 G) D).
        """
        kernels, epsilon, n_loops = self.kernels, self.config.rms_norm_eps, self.config.loop_num
        normed, grown = scratch
        normed_array, grown_array = as_array(normed), as_array(grown)
        x = embedding(ids, self.model.embed_tokens.weight).float().numpy()
        kernels.norm(x, self.norms[0][0], epsilon, normed_array)
        for loop in range(n_loops):
            scale = self.model.second_pass_scale if loop else 1.0
            for index, layer in enumerate(layers):
                branch = as_array(layer.output(attend((loop, index), layer.qkv(normed))))
                kernels.add_norm(x, branch, scale, self.norms[index][1], epsilon, normed_array)
                kernels.swiglu(as_array(layer.gate_up(normed)), grown_array)
                branch = as_array(layer.down(grown))
                last = index + 1 == len(layers)
                done = last and loop + 1 == n_loops
                after = self.final_norm if done else self.norms[0 if last else index + 1][0]
                kernels.add_norm(x, branch, scale, after, epsilon, normed_array)
        return normed


class RowsStep(_Passes):
    """A step with torch's products."""

    def __init__(self, model: LoopCoder, cache: KeyValueCache, row_tokens: int) -> None:
        super().__init__(model, cache, row_tokens)
        self.gates = [
            None if gate is None else (gate.weight.float().numpy(), gate.bias.float().numpy())
            for gate in (block.gate_projection for block in self.blocks)
        ]
        layers = range(len(self.blocks))
        self.first = [(as_array(cache.pool[0, i]), as_array(cache.pool[1, i])) for i in layers]
        self.later = [
            [(as_array(cache.rings[0, loop, i]), as_array(cache.rings[1, loop, i])) for i in layers]
            for loop in range(self.config.loop_num - 1)
        ]
        self._buffers: dict[int, tuple[Tensor, ...]] = {}

    def __call__(self, layers: Sequence[BlockWeights], head: Weights, rows: Rows, ids: Tensor) -> Tensor:
        """Return the logits (B, V) fp32 behind ids (B,)."""
        kernels, cache = compiled_attention_functions(), self.cache
        normed, grown, mixed = self._scratch(len(rows))
        mixed_array = as_array(mixed)
        where = (rows, cache.lengths, cache.table)

        def attend(place: Place, qkv: Tensor) -> Tensor:
            loop, index = place
            common = (as_array(qkv), self.turns, where, self.first[index])
            if loop == 0:
                kernels.attend(*common, self.config.num_attention_heads, mixed_array)
            else:
                kernels.attend_gated(*common, self.later[loop - 1][index], self.gates[index], mixed_array)
            return mixed

        return head(self._run(layers, ids, attend, (normed, grown))).float()

    def _scratch(self, n_rows: int) -> tuple[Tensor, ...]:
        """Return the inputs of the products for `n_rows` rows: (B, C), (B, F), (B, H D)."""
        if n_rows not in self._buffers:
            config, like = self.config, self.model.embed_tokens.weight
            sizes = (config.hidden_size, config.intermediate_size, config.num_attention_heads * config.head_dim)
            self._buffers[n_rows] = tuple(like.new_zeros((n_rows, size)) for size in sizes)
        return self._buffers[n_rows]


class WholeStep(_Passes):
    """A step with compiled products: one call."""

    def __init__(
        self,
        model: LoopCoder,
        cache: KeyValueCache,
        row_tokens: int,
        layers: Sequence[BlockWeights],
        head: Weights,
    ) -> None:
        """The weights are in place for a single row, otherwise in panels."""
        super().__init__(model, cache, row_tokens)
        self.step_kernels = compiled_step_functions()
        self._held = [[one for weights in layer for one in weights.arrays] for layer in layers]
        shape = len(self.blocks), self.config.num_attention_heads, self.config.head_dim
        gates = np.zeros(shape, np.float32), np.zeros(shape[:2], np.float32)
        for i, block in enumerate(self.blocks):
            if block.gate_projection is not None:
                gates[0][i] = block.gate_projection.weight.float()
                gates[1][i] = block.gate_projection.bias.float()
        norms = [*(norm for pair in self.norms for norm in pair), self.final_norm]
        table = as_array(model.embed_tokens.weight.detach())
        self.weights = table, self.step_kernels.locate(self._held), np.stack(norms), head.arrays[0], gates
        self.caches = as_array(cache.pool), as_array(cache.rings)
        self._buffers: dict[int, tuple[Rows, ...]] = {}

    def __call__(self, layers: Sequence[BlockWeights], head: Weights, rows: Rows, ids: Tensor) -> Tensor:
        """Return the logits (B, V) fp32 behind ids (B,); what products take are their arrays."""
        cache, config = self.cache, self.config
        logits = np.empty((len(rows), config.vocab_size), np.float32)
        where = self.turns, (rows, cache.lengths, cache.table)
        numbers = config.rms_norm_eps, float(self.model.second_pass_scale)
        scratch = self._scratch(len(rows))
        self.step_kernels.step(ids.numpy(), where, self.weights, self.caches, numbers, scratch, logits)
        return torch.from_numpy(logits)

    def _scratch(self, n_rows: int) -> tuple[Rows, ...]:
        """Return the residual stream and what a block writes, for `n_rows` rows."""
        if n_rows not in self._buffers:
            config = self.config
            heads, groups, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
            sizes = [config.hidden_size, config.hidden_size, (heads + 2 * groups) * size, heads * size]
            sizes += [config.hidden_size, 2 * config.intermediate_size, config.intermediate_size]
            self._buffers[n_rows] = tuple(np.zeros((n_rows, size), np.float32) for size in sizes)
        return self._buffers[n_rows]
