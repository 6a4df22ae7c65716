"""Preallocated keys and values of a batch being decoded.

Two kinds per layer: the global one (first loop, every token) and, for each further loop, a local ring that holds the
last `loop_window_size` tokens, so a later loop's memory does not grow with the context.

Rows are aligned at their right end: slot s of every row is filled in the same step, and a shorter prompt has
`pads[row]` unused slots at its left.

Legend: B rows, T new tokens, G key/value heads, S capacity in slots, D head dim, W ring size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codeflow.model.attention import KeyValue
from codeflow.model.config import ModelConfig


@dataclass
class Store:
    """Keys and values of one layer in one loop: (B, G, slots, D) each."""

    keys: Tensor
    values: Tensor

    @property
    def n_bytes(self) -> int:
        """Bytes held, used or not."""
        return self.keys.nbytes + self.values.nbytes

    def put(self, slots: slice | Tensor, keys: Tensor, values: Tensor) -> None:
        """Write (B, G, T, D) into `slots`."""
        self.keys[:, :, slots] = keys
        self.values[:, :, slots] = values

    def select(self, rows: Tensor) -> Store:
        """Return the store of these rows."""
        return Store(self.keys[rows], self.values[rows])


@dataclass
class KeyValueCache:
    """`first[layer]` is global, `later[loop - 1][layer]` are rings; `n_slots` slots are filled, `pads` (B,) unused."""

    first: list[Store]
    later: list[list[Store]]
    pads: Tensor
    ragged: bool  # False: no row has pads, so no mask is needed
    n_slots: int = 0

    @staticmethod
    def allocate(config: ModelConfig, pads: Sequence[int], capacity: int, like: Tensor) -> KeyValueCache:
        """Reserve `capacity` slots for len(pads) rows, in the dtype and on the device of `like`."""

        def store(slots: int) -> Store:
            shape = (len(pads), config.num_key_value_heads, slots, config.head_dim)
            return Store(*(torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(2)))

        layers = range(config.num_hidden_layers)
        ring = min(config.loop_window_size, capacity)
        return KeyValueCache(
            first=[store(capacity) for _ in layers],
            later=[[store(ring) for _ in layers] for _ in range(config.loop_num - 1)],
            pads=torch.tensor(pads, device=like.device),
            ragged=any(pads),
        )

    def put_prompt(self, loop: int, layer: int, kv: KeyValue) -> None:
        """Store what a prefill of T tokens made: keys and values (B, T, G, D) of `loop` (0 = first)."""
        keys, values = (x.transpose(1, 2) for x in kv)
        length = keys.shape[2]
        if loop == 0:
            self.first[layer].put(slice(0, length), keys, values)
        else:
            self.put_recent(loop, layer, 0, keys, values)

    def put_recent(self, loop: int, layer: int, begin: int, keys: Tensor, values: Tensor) -> None:
        """Store the last W of (B, G, T, D), the tokens of slots begin, begin + 1, ..., in the ring."""
        store = self.later[loop - 1][layer]
        ring, length = store.keys.shape[2], keys.shape[2]
        kept = min(ring, length)
        slots = torch.arange(begin + length - kept, begin + length, device=keys.device) % ring
        store.put(slots, keys[:, :, length - kept :], values[:, :, length - kept :])

    def recent(self, loop: int, layer: int) -> tuple[Tensor, Tensor, int]:
        """Return the ring's keys and values in order of their slots, (B, G, up to W, D), and the first one's slot."""
        store = self.later[loop - 1][layer]
        ring = store.keys.shape[2]
        begin = max(0, self.n_slots - ring)
        order = torch.arange(begin, self.n_slots, device=store.keys.device) % ring
        return store.keys[:, :, order], store.values[:, :, order], begin

    def select(self, rows: Tensor) -> KeyValueCache:
        """Return the cache of `rows` (indices, repeats allowed): drops finished rows, copies a shared prompt."""
        return KeyValueCache(
            first=[store.select(rows) for store in self.first],
            later=[[store.select(rows) for store in loop] for loop in self.later],
            pads=self.pads[rows],
            ragged=self.ragged,
            n_slots=self.n_slots,
        )

    @property
    def global_bytes(self) -> int:
        """Bytes reserved for the first loop."""
        return sum(store.n_bytes for store in self.first)

    @property
    def local_bytes(self) -> int:
        """Bytes reserved for all later loops; independent of the context once it exceeds the window."""
        return sum(store.n_bytes for loop in self.later for store in loop)
