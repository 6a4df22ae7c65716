"""Running a model token by token over a KV cache: prefill, then steps of one or more tokens.

Equal to the whole forward pass to rounding. Prefill is that very pass (left pads are a document of their own); a
step has its own short path, because at one token per row the cost is in the number of operations.

Legend: B rows, T new tokens, C hidden size, H = G * R query heads, G key/value heads, D head dim, S slots, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from codeflow.model.attention import KeyValue
from codeflow.model.block import Block
from codeflow.model.kv_cache import KeyValueCache
from codeflow.model.looped import LoopCoder
from codeflow.model.rope import Rotation, rotation

_FUSED_BYTES = 1 << 30  # copies of the projections are made for models whose blocks are smaller than this


@dataclass(frozen=True)
class _Layer:
    """A block, and its input projections: joined in one matrix each, which halves the calls, or as they are."""

    block: Block
    qkv: tuple[Tensor, ...]
    gate_up: tuple[Tensor, ...]

    @staticmethod
    def of(block: Block, fused: bool) -> _Layer:
        attention, mlp = block.self_attn, block.mlp
        qkv = (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)
        gate_up = (mlp.gate_proj.weight, mlp.up_proj.weight)
        return _Layer(block, (torch.cat(qkv),), (torch.cat(gate_up),)) if fused else _Layer(block, qkv, gate_up)


class Decoder:
    """A model and the caches of one batch of sequences. Not for training: everything runs without gradients."""

    @torch.no_grad()
    def __init__(self, model: LoopCoder, capacity: int) -> None:
        """`capacity` is how many slots a row may fill; the caller keeps rows within max_position_embeddings."""
        self.model = model
        self.config = model.config
        self.capacity = capacity
        self.cache: KeyValueCache | None = None
        blocks = [block for block in model.layers if isinstance(block, Block)]
        fused = sum(weight.nbytes for block in blocks for weight in block.parameters()) < _FUSED_BYTES
        self.layers = [_Layer.of(block, fused) for block in blocks]

    @torch.no_grad()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read prompts of any lengths >= 1; returns the logits (B, V) of what follows each."""
        model, longest = self.model, max(len(prompt) for prompt in prompts)
        device = model.embed_tokens.weight.device
        pads = [longest - len(prompt) for prompt in prompts]
        rows = [[0] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)]
        ids = torch.tensor(rows, device=device)
        cache = KeyValueCache.allocate(self.config, pads, self.capacity, model.embed_tokens.weight)
        starts = None
        if cache.ragged:
            here = torch.arange(longest, device=device).expand(len(prompts), -1)
            starts = torch.where(here >= cache.pads[:, None], cache.pads[:, None], 0)
        hidden = model(ids, document_starts=starts, keep=cache.put_prompt)
        cache.n_slots = longest
        self.cache = cache
        return model.logits(hidden[:, -1])

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only (repeats allowed)."""
        assert self.cache is not None, "prefill first"
        self.cache = self.cache.select(torch.tensor(rows, device=self.cache.pads.device))

    @torch.no_grad()
    def extend(self, ids: Tensor) -> Tensor:
        """Append ids (B, T) to every row; returns the logits (B, T, V) that follow each of them."""
        cache, model, config = self.cache, self.model, self.config
        assert cache is not None, "prefill first"
        begin, n_new = cache.n_slots, ids.shape[1]
        assert begin + n_new <= self.capacity, f"{begin} + {n_new} tokens exceed the capacity {self.capacity}"
        hidden = model.embed_tokens(ids)
        slots = torch.arange(begin, begin + n_new, device=ids.device)
        turn = _full_turn(rotation(slots[None] - cache.pads[:, None], config.head_dim, config.rope_theta, hidden.dtype))
        global_bias = self._bias(cache, slots, 0, begin + n_new, None, hidden.dtype)
        local_bias = None
        if config.looped:
            ring = cache.later[0][0].keys.shape[2]
            ring_begin = max(0, begin + 1 - ring) if n_new == 1 else max(0, begin - ring)
            local_bias = self._bias(cache, slots, ring_begin, begin + n_new, config.loop_window_size, hidden.dtype)
        for loop in range(config.loop_num):
            for index in range(config.num_hidden_layers):
                hidden = self._block(hidden, turn, (loop, index), (global_bias, local_bias))
        cache.n_slots = begin + n_new
        return model.logits(model.norm(hidden))

    def _block(
        self, x: Tensor, turn: Rotation, place: tuple[int, int], biases: tuple[Tensor | None, Tensor | None]
    ) -> Tensor:
        """Run layer place[1] in loop place[0] on x (B, T, C)."""
        layer = self.layers[place[1]]
        block, scale = layer.block, self.model.second_pass_scale if place[0] else 1.0
        attended = block.self_attn.o_proj(self._attention(layer, block.input_layernorm(x), turn, place, biases))
        x = x + (attended if scale == 1.0 else scale * attended)
        gate, up = _joined(block.post_attention_layernorm(x), layer.gate_up).chunk(2, dim=-1)
        grown = block.mlp.down_proj(silu(gate) * up)
        return x + (grown if scale == 1.0 else scale * grown)

    def _attention(
        self,
        weights: _Layer,
        x: Tensor,
        turn: Rotation,
        place: tuple[int, int],
        biases: tuple[Tensor | None, Tensor | None],
    ) -> Tensor:
        """Return the mixed heads (B, T, H * D) of x (B, T, C), and store the new keys and values."""
        cache, (loop, layer), config = self.cache, place, self.config
        assert cache is not None
        begin, n_new = cache.n_slots, x.shape[1]
        n_heads, n_kv_heads = config.num_attention_heads, config.num_key_value_heads
        heads = _joined(x, weights.qkv).unflatten(-1, (-1, config.head_dim))
        turned = _turn(heads[:, :, : n_heads + n_kv_heads], turn)
        q, keys, values = turned[:, :, :n_heads], turned[:, :, n_heads:], heads[:, :, n_heads + n_kv_heads :]
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        first = cache.first[layer]
        if loop == 0:
            first.put(slice(begin, begin + n_new), keys, values)
        used = slice(0, begin + n_new)
        global_part = _attend(q, first.keys[:, :, used], first.values[:, :, used], biases[0])
        if loop == 0:
            return global_part.flatten(2)
        local_kv = self._local(place, keys, values)
        local_part = _attend(q, *local_kv, biases[1])
        gates = weights.block.gate_projection
        assert gates is not None
        wide = torch.promote_types(q.dtype, torch.float32)
        gate = gates(q).to(wide).sigmoid()[..., None]
        return torch.lerp(local_part.to(wide), global_part.to(wide), gate).to(q.dtype).flatten(2)

    def _local(self, place: tuple[int, int], keys: Tensor, values: Tensor) -> KeyValue:
        """Store new keys and values (B, G, T, D) in the ring; return those that the new tokens may see."""
        cache, (loop, layer) = self.cache, place
        assert cache is not None
        begin, n_new = cache.n_slots, keys.shape[2]
        store = cache.later[loop - 1][layer]
        ring = store.keys.shape[2]
        if n_new == 1:  # the slot written is the one that leaves the window; the order of keys does not matter
            at = begin % ring
            store.put(slice(at, at + 1), keys, values)
            used = min(begin + 1, ring)
            return store.keys[:, :, :used], store.values[:, :, :used]
        old_keys, old_values, _ = cache.recent(loop, layer)
        cache.put_recent(loop, layer, begin, keys, values)
        return torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)

    def _bias(
        self, cache: KeyValueCache, slots: Tensor, first: int, end: int, window: int | None, dtype: torch.dtype
    ) -> Tensor | None:
        """Return what is added to scores (B or 1, 1, T, keys), or None when every key is visible.

        Keys are those of slots first..end, in ring order for a single token, else in order.
        """
        if slots.numel() == 1 and not cache.ragged:
            return None
        key = torch.arange(first, end, device=slots.device)
        if slots.numel() == 1 and window is not None:
            key = key.roll(first % (end - first)) if first else key
        visible = key <= slots[:, None]
        if window is not None:
            visible = visible & (key > slots[:, None] - window)
        visible = visible & (key >= cache.pads[:, None, None])
        return torch.zeros(visible.shape, dtype=dtype, device=slots.device).masked_fill_(~visible, -torch.inf)[:, None]


def _joined(x: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """Return the products of x with all weights, side by side in the last dim."""
    if len(weights) == 1:
        return linear(x, weights[0])
    return torch.cat([linear(x, weight) for weight in weights], dim=-1)


def _full_turn(turn: Rotation) -> Rotation:
    """Return cosine and signed sine over the whole head dim, so that a turn takes four operations."""
    cosine, sine = turn
    return torch.cat([cosine, cosine], dim=-1), torch.cat([-sine, sine], dim=-1)


def _turn(x: Tensor, turn: Rotation) -> Tensor:
    """Turn x (B, T, heads, D) by `_full_turn`."""
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * turn[0], torch.cat([second, first], dim=-1), turn[1])


def _attend(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of q (B, T, H, D) to keys and values (B, G, S, D); returns (B, T, H, D).

    The query heads of a group are rows of one product with their keys, which are not repeated.
    """
    n_rows, n_new, n_heads, head_dim = q.shape
    n_kv_heads = keys.shape[1]
    repeats = n_heads // n_kv_heads
    if n_new == 1:
        queries = q.reshape(n_rows, n_kv_heads, repeats, head_dim)
        output = scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
        return output.reshape(n_rows, 1, n_heads, head_dim)
    queries = q.unflatten(2, (n_kv_heads, repeats)).transpose(1, 2).flatten(2, 3)  # (B, G, T * R, D)
    spread = None if bias is None else bias.repeat_interleave(repeats, dim=2)
    output = scaled_dot_product_attention(queries, keys, values, attn_mask=spread)
    return output.unflatten(2, (n_new, repeats)).transpose(1, 2).flatten(2, 3)
