"""Running a model over a KV cache: prompts are read whole, then rows of any lengths go on by one or more tokens.

Equal to the whole forward pass to rounding. Two forms: torch operations, for any device, dtype and number of tokens;
and, on the CPU in fp32 and bf16, where the number of calls decides, compiled functions for prompts and for one token
per row (`compiled_step`). The latter keep their residual stream in fp32.

Products are made with packed weights (`products`): faster, and a row's step does not depend on the rows beside it. A
decoder of a single row makes them on the weights where they lie.

Legend: B rows, T new tokens, C hidden size, H = G * R query heads, G key/value heads, D head dim, S slots, V words,
W ring size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding, scaled_dot_product_attention, silu

from codeflow.kernels.arrays import as_array, compilable, compiled_functions, few_threads
from codeflow.kernels.dispatch import causal_attention, gated_attention
from codeflow.model.attention import KeyValue
from codeflow.model.block import Block
from codeflow.model.compiled_step import Place, RowsStep, WholeStep
from codeflow.model.kv_cache import BLOCK_TOKENS, KeyValueCache, Prompt, blocks_of
from codeflow.model.looped import LoopCoder
from codeflow.model.products import Weights, block_weights, choose_form
from codeflow.model.rope import rotate, rotation

_ROW_THREADS = 2  # with more, torch's products are quicker for one row than a compiled pass, which has one thread


class Decoder:
    """A model with its caches. Not for training: everything runs without gradients, on the weights as they were."""

    @torch.no_grad()
    def __init__(
        self,
        model: LoopCoder,
        row_tokens: int,
        n_rows: int = 8,
        pool_tokens: int | None = None,
        compiled: bool | None = None,
    ) -> None:
        """Reserve caches for `n_rows` rows of at most `row_tokens` tokens, together `pool_tokens` (None: full rows).

        The caller keeps rows within max_position_embeddings. `compiled` False keeps a CPU to torch operations.
        Raises UserError for a model with research options.
        """
        model.config.check_decodable()
        self.model, self.config = model, model.config
        weight = model.embed_tokens.weight
        self.compiled = compilable(weight) and compiled is not False
        self.blocks = [block for block in model.layers if isinstance(block, Block)]
        head = model.lm_head.weight.detach()
        alone = self.compiled and n_rows == 1 and torch.get_num_threads() <= _ROW_THREADS
        form = "in place" if alone else choose_form(self.blocks, head)
        self.layers, self.head = [block_weights(block, form) for block in self.blocks], Weights((head,), form)
        # A prompt's last block is there twice, its own and that of the row behind it, until the prompt is released.
        pool = n_rows * (blocks_of(row_tokens) + 1) * BLOCK_TOKENS if pool_tokens is None else pool_tokens
        self.cache = KeyValueCache(model.config, n_rows, row_tokens, pool, weight)
        self._rows: list[int] = []
        self._step = None
        if self.compiled and (alone or form == "panels"):
            self._step = WholeStep(model, self.cache, row_tokens, self.layers, self.head)
        elif self.compiled:
            self._step = RowsStep(model, self.cache, row_tokens)

    @torch.no_grad()
    def read(self, prompts: Sequence[Sequence[int]]) -> list[Prompt]:
        """Read prompts of any lengths >= 1 in one pass; each is released with `cache.release(prompt.blocks)`."""
        device, cache = self.model.embed_tokens.weight.device, self.cache
        lengths = [len(prompt) for prompt in prompts]
        # Shorter prompts are filled up at their right end, where causal attention does not look.
        ids = torch.tensor([[*prompt, *[0] * (max(lengths) - len(prompt))] for prompt in prompts], device=device)
        blocks = [cache.take(length) for length in lengths]
        reading = _Reading(self, lengths, blocks)
        if self._step is not None and few_threads():
            hidden = self._step.read(self.layers, ids, reading)
        else:
            hidden = self._run(ids, torch.arange(ids.shape[1], device=device)[None], reading)
        last = hidden[torch.arange(len(prompts), device=device), torch.tensor(lengths, device=device) - 1]
        logits = self._logits(last)
        return [
            Prompt(length, own, reading.rings[:, :, :, i], logits[i])
            for i, (length, own) in enumerate(zip(lengths, blocks, strict=True))
        ]

    @torch.no_grad()
    def step(self, rows: Sequence[int], ids: Tensor) -> Tensor:
        """Append ids (B, T) to cache rows; returns the logits (B, T, V) that follow each of them."""
        where = np.array(rows, np.int32)
        n_new = ids.shape[1]
        if self._step is not None and n_new == 1:
            logits = self._step(self.layers, self.head, where, ids[:, 0])[:, None]
        else:
            extending = _Extending(self, where, n_new)
            logits = self._logits(self._run(ids, extending.positions, extending))
        self.cache.lengths[where] += n_new
        return logits

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Start one row per prompt (closing those before); returns the logits (B, V) of what follows each."""
        for row in self._rows:
            self.cache.close(row)
        found = self.read(prompts)
        self._rows = self.cache.open(found, [self.cache.table.shape[1] * BLOCK_TOKENS] * len(found))
        for prompt in found:
            self.cache.release(prompt.blocks)
        return torch.stack([prompt.logits for prompt in found])

    def extend(self, ids: Tensor) -> Tensor:
        """Append ids (B, T) to the rows that `prefill` started; returns the logits (B, T, V)."""
        return self.step(self._rows, ids)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden).to(torch.promote_types(hidden.dtype, torch.float32))

    def _run(self, ids: Tensor, positions: Tensor, attention: _Reading | _Extending) -> Tensor:
        """Return the normed hidden states (B, T, C) of ids (B, T) at `positions`."""
        config = self.config
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        x = embedding(ids, self.model.embed_tokens.weight)
        turn = rotation(positions, config.head_dim, config.rope_theta, x.dtype)
        for loop in range(config.loop_num):
            scale = self.model.second_pass_scale if loop else 1.0
            for index, (block, layer) in enumerate(zip(self.blocks, self.layers, strict=True)):
                qkv = layer.qkv(block.input_layernorm(x)).unflatten(-1, (-1, config.head_dim))
                q, k, v = qkv.split([heads, groups, groups], dim=-2)
                mixed = attention((loop, index), rotate(q, turn), (rotate(k, turn), v))
                x = x + _scaled(layer.output(mixed.flatten(-2)), scale)
                gate, up = layer.gate_up(block.post_attention_layernorm(x)).chunk(2, dim=-1)
                x = x + _scaled(layer.down(silu(gate) * up), scale)
        return self.model.norm(x)

    def gate(self, layer: int, q: Tensor) -> Tensor:
        """Return the gate logits (B, T, H) of a later loop."""
        gates = self.blocks[layer].gate_projection
        assert gates is not None, "a later loop needs gates"
        return gates(q)


class _Reading:
    """Attention of prompts (B, T) to themselves; keeps their keys and values."""

    def __init__(self, decoder: Decoder, lengths: Sequence[int], blocks: Sequence[tuple[int, ...]]) -> None:
        self.decoder, cache = decoder, decoder.cache
        device = cache.pool.device
        count = torch.tensor(lengths, device=device)[:, None]
        longest, window = max(lengths), cache.window
        table = torch.tensor([[*own, *[0] * (blocks_of(longest) - len(own))] for own in blocks], device=device)
        self.lengths, self.table = count, table
        # Of the positions that share a ring slot the last one stays; slots never filled are never read.
        self.recent = (_ring_positions(count, window)).clamp(min=0)
        shape = cache.rings.shape
        self.rings = cache.rings.new_empty((*shape[:3], len(lengths), *shape[4:]))
        self.first: list[KeyValue] = []

    def __call__(self, place: Place, q: Tensor, kv: KeyValue) -> Tensor:
        loop, layer = place
        model = self.decoder.model
        if loop == 0:
            self.first.append(kv)
            self._keep(layer, kv)
            return causal_attention(q, *kv, None, model.backend)
        rows = torch.arange(q.shape[0], device=q.device)[:, None]
        for kind, x in enumerate(kv):
            self.rings[kind, loop - 1, layer] = x[rows, self.recent].transpose(1, 2)
        window = self.decoder.config.loop_window_size
        return gated_attention(q, self.first[layer], kv, self.decoder.gate(layer, q), None, window, model.backend)

    def _keep(self, layer: int, kv: KeyValue) -> None:
        """Store the keys and values of the first loop in the prompts' blocks; not those of what fills them up."""
        cache, n_tokens = self.decoder.cache, kv[0].shape[1]
        if self.decoder.compiled:
            flat = (as_array(x.flatten(0, 1)) for x in kv)
            pools = (as_array(pool[layer]) for pool in cache.pool)
            compiled_functions().fill(*flat, self.table.numpy(), n_tokens, self.lengths[:, 0].numpy(), *pools)
            return
        here = torch.arange(n_tokens, device=self.table.device)
        kept = here < self.lengths  # (B, T)
        slots = (here % BLOCK_TOKENS).expand_as(kept)
        keys, values = (x[kept] for x in kv)
        cache.put(layer, (self.table[:, here // BLOCK_TOKENS][kept], slots[kept]), keys, values)


class _Extending:
    """Attention of T new tokens per row to the cache and each other; keeps their keys and values."""

    def __init__(self, decoder: Decoder, rows: np.ndarray[Any, Any], n_new: int) -> None:
        self.decoder, cache = decoder, decoder.cache
        device, dtype = cache.pool.device, cache.pool.dtype
        before = torch.from_numpy(cache.lengths[rows].astype(np.int64)).to(device)[:, None]
        self.rows = torch.from_numpy(rows.astype(np.int64)).to(device)
        self.positions = before + torch.arange(n_new, device=device)  # (B, T)
        n_blocks = blocks_of(int(cache.lengths[rows].max()) + n_new)
        self.blocks = torch.from_numpy(cache.table[rows, :n_blocks].astype(np.int64)).to(device)
        block = self.blocks.gather(1, self.positions // BLOCK_TOKENS)
        self.places = block.flatten(), (self.positions % BLOCK_TOKENS).flatten()
        here = torch.arange(n_blocks * BLOCK_TOKENS, device=device)
        self.global_bias = _bias(here <= self.positions[..., None], dtype)
        ring = torch.cat([_ring_positions(before, cache.window), self.positions], dim=1)[:, None]  # (B, 1, W + T)
        queries = self.positions[..., None]
        near = (ring >= 0) & (ring <= queries) & (ring > queries - decoder.config.loop_window_size)
        self.local_bias = _bias(near, dtype)
        n_kept = min(n_new, cache.window)
        self.recent = self.positions[:, n_new - n_kept :] % cache.window

    def __call__(self, place: Place, q: Tensor, kv: KeyValue) -> Tensor:
        loop, layer = place
        cache = self.decoder.cache
        if loop == 0:
            keys, values = (x.flatten(0, 1) for x in kv)
            cache.put(layer, self.places, keys, values)
        wide = _attend(q, *cache.gather(layer, self.blocks), self.global_bias)
        if loop == 0:
            return wide
        both = []
        for kind, x in enumerate(kv):
            ring = cache.rings[kind, loop - 1, layer]
            both.append(torch.cat([ring[self.rows], x.transpose(1, 2)], dim=2))
            ring[self.rows[:, None], :, self.recent] = x[:, x.shape[1] - self.recent.shape[1] :]
        near = _attend(q, both[0], both[1], self.local_bias)
        gate = self.decoder.gate(layer, q).to(torch.promote_types(q.dtype, torch.float32)).sigmoid()[..., None]
        return torch.lerp(near.to(gate.dtype), wide.to(gate.dtype), gate).to(q.dtype)


def _scaled(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1.0 else scale * x


def _ring_positions(lengths: Tensor, window: int) -> Tensor:
    """Return the position (B, W) that each ring slot of rows of `lengths` (B, 1) holds; negative: none yet."""
    last = lengths - 1
    return last - (last - torch.arange(window, device=lengths.device)) % window


def _bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to scores (B, 1, T, S) so that only `visible` (B, T, S) keys count."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)[:, None]


def _attend(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Attention of q (B, T, H, D) to keys and values (B, G, S, D) with `bias` (B, 1, T, S); returns (B, T, H, D).

    The query heads of a group are rows of one product with their keys, which are not repeated.
    """
    n_new, repeats = q.shape[1], q.shape[2] // keys.shape[1]
    queries = q.unflatten(2, (keys.shape[1], repeats)).transpose(1, 2).flatten(2, 3)  # (B, G, T * R, D)
    output = scaled_dot_product_attention(queries, keys, values, attn_mask=bias.repeat_interleave(repeats, dim=2))
    return output.unflatten(2, (n_new, repeats)).transpose(1, 2).flatten(2, 3)
