"""Preallocated keys and values of sequences being decoded, each of its own length.

Two kinds: the global one (first loop, every token), in blocks of a pool, so that rows take what they need and samples
of one prompt share its blocks; and, for each further loop, a ring per row that holds its last `loop_window_size`
tokens, so a later loop's memory does not grow with the context.

Legend: L layers, N blocks of T tokens, G key/value heads, D head dim, W ring size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codeflow.model.config import ModelConfig

BLOCK_TOKENS = 32
_LINE_BYTES = 64  # of the processor's cache; torch aligns its tensors to it, numpy does not


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that was read: the blocks of its keys and values, rings (2, loops - 1, L, G, W, D), what follows it."""

    n_tokens: int
    blocks: tuple[int, ...]
    rings: Tensor
    logits: Tensor  # (V,)


class KeyValueCache:
    """The pool, the rings, and which row owns what. Blocks are counted: one goes back when its last owner leaves.

    `pool` (2, L, N, G, T, D) holds keys and values of the first loop, `rings` (2, loops - 1, L, rows, G, W, D) those of
    the others; the token at position p lies in slot p % W. `table` (rows, blocks of the longest row) and `lengths`
    (rows,) stay on the host.
    """

    def __init__(self, config: ModelConfig, n_rows: int, row_tokens: int, pool_tokens: int, like: Tensor) -> None:
        """Reserve memory for `n_rows` rows of at most `row_tokens`, together `pool_tokens`, stored as `like` is."""
        layers, heads, size = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
        self.n_blocks = max(blocks_of(pool_tokens), blocks_of(row_tokens))
        self.window = min(config.loop_window_size, row_tokens)
        self.pool = _zeros((2, layers, self.n_blocks, heads, BLOCK_TOKENS, size), like)
        self.rings = _zeros((2, config.loop_num - 1, layers, n_rows, heads, self.window, size), like)
        self.table = np.zeros((n_rows, blocks_of(row_tokens)), np.int32)
        self.lengths = np.zeros(n_rows, np.int32)
        self._owners = np.zeros(self.n_blocks, np.int32)
        self._free_blocks = list(range(self.n_blocks - 1, -1, -1))
        self._free_rows = list(range(n_rows - 1, -1, -1))
        self._held: dict[int, tuple[int, ...]] = {}

    @property
    def n_free_rows(self) -> int:
        """Rows that may be opened."""
        return len(self._free_rows)

    @property
    def n_free_blocks(self) -> int:
        """Blocks that nobody owns."""
        return len(self._free_blocks)

    @property
    def global_bytes(self) -> int:
        """Bytes reserved for the first loop."""
        return self.pool.nbytes

    @property
    def local_bytes(self) -> int:
        """Bytes reserved for all later loops; independent of the context once it exceeds the window."""
        return self.rings.nbytes

    def take(self, n_tokens: int) -> tuple[int, ...]:
        """Own blocks for `n_tokens`; the caller has seen that there are enough."""
        blocks = tuple(self._free_blocks.pop() for _ in range(blocks_of(n_tokens)))
        self._own(blocks)
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one ownership of each block."""
        for block in blocks:
            self._owners[block] -= 1
            if not self._owners[block]:
                self._free_blocks.append(block)

    def _own(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            self._owners[block] += 1

    def open(self, prompts: Sequence[Prompt], n_tokens: Sequence[int]) -> list[int]:
        """Open a row behind each prompt with room for n_tokens[i] in all; whole blocks of the prompt are shared."""
        rows, sources, targets = [], [], []
        for prompt, capacity in zip(prompts, n_tokens, strict=True):
            row, n_shared = self._free_rows.pop(), prompt.n_tokens // BLOCK_TOKENS
            shared = prompt.blocks[:n_shared]
            self._own(shared)
            own = self.take(capacity - n_shared * BLOCK_TOKENS)
            if prompt.n_tokens % BLOCK_TOKENS and own:
                sources.append(prompt.blocks[n_shared])
                targets.append(own[0])
            self._held[row] = (*shared, *own)
            self.table[row, : len(shared) + len(own)] = self._held[row]
            self.lengths[row] = prompt.n_tokens
            rows.append(row)
        if targets:
            self.pool[:, :, targets] = self.pool[:, :, sources]
        if self.rings.shape[1]:
            self.rings[:, :, :, rows] = torch.stack([prompt.rings for prompt in prompts], dim=3)
        return rows

    def close(self, row: int) -> None:
        """Free a row and what it alone owns."""
        self.release(self._held.pop(row))
        self._free_rows.append(row)

    def put(self, layer: int, places: tuple[Tensor, Tensor], keys: Tensor, values: Tensor) -> None:
        """Store first-loop keys and values (tokens, G, D) at `places`: the block and the slot in it of each token."""
        block, slot = places
        self.pool[0, layer][block, :, slot] = keys
        self.pool[1, layer][block, :, slot] = values

    def gather(self, layer: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Return copies of first-loop keys and values (B, G, S, D) in the `blocks` (B, S / T) of some rows."""
        keys, values = (self.pool[kind, layer][blocks].transpose(1, 2).flatten(2, 3) for kind in (0, 1))
        return keys, values


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return zeros. On a CPU their memory is taken when it is first written to: most rows end before they are full."""
    n_bytes = torch.Size(shape).numel() * like.dtype.itemsize
    if like.device.type != "cpu" or not n_bytes:
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    raw = np.zeros(n_bytes + _LINE_BYTES, np.uint8)
    begin = -raw.ctypes.data % _LINE_BYTES
    return torch.from_numpy(raw[begin : begin + n_bytes]).view(like.dtype).view(shape)


def blocks_of(n_tokens: int) -> int:
    """Return how many blocks hold `n_tokens`."""
    return -(-n_tokens // BLOCK_TOKENS)
