"""Packed rows on disk: `<set>-00000.ids.bin` (uint32) and `.flags.bin` (uint8), read by memory map; `index.json`.

A row has `context_tokens` places. Flags: bit 0 marks the first token of a document in its row, bit 1 a token that
carries loss as a target. Padding stands only at the end of a row: padding ids without loss, as a document of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codeflow.core.config import Config, validate
from codeflow.core.errors import UserError, suggest

if TYPE_CHECKING:
    from numpy.typing import NDArray

INDEX = "index.json"
IDS_SUFFIX, FLAGS_SUFFIX = ".ids.bin", ".flags.bin"


class ShardIndex(Config):
    """One pair of files."""

    name: str
    n_rows: int


class SetIndex(Config):
    """One set of an artifact. Tokens exclude padding; documents are counted before cutting, pieces after."""

    n_rows: int
    n_tokens: int
    n_documents: int
    n_cut_documents: int  # longer than the context, so in several pieces
    n_pieces: int
    n_loss_tokens: int
    fill: float  # n_tokens / (n_rows * context_tokens)
    token_multiset_hash: str  # of the encoded samples, and equally of the rows
    shards: tuple[ShardIndex, ...]


class TokenIndex(Config):
    """`index.json` of a tokens artifact."""

    context_tokens: int
    vocab_size: int
    tokenizer_fingerprint: str
    sets: dict[str, SetIndex]


@dataclass(frozen=True, slots=True)
class TokenShard:
    """One memory-mapped pair of files."""

    path: Path  # of the ids
    ids: NDArray[np.uint32]  # (rows, T)
    flags: NDArray[np.uint8]  # (rows, T)


def read_index(folder: Path) -> TokenIndex:
    """Return the index of a tokens artifact. Raises UserError when there is none or it is damaged."""
    path = folder / INDEX
    if not path.exists():
        raise UserError(f"no {INDEX} in {folder}: it is no finished tokens artifact; run the pack stage first")
    try:
        tree = json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path} is damaged; delete {folder} to have it made again") from None
    return validate(TokenIndex, tree, origin=str(path))


def open_shard(folder: Path, shard: ShardIndex, context_tokens: int) -> TokenShard:
    """Map one shard's files. Raises UserError naming a file that is missing or has the wrong size."""
    ids = _map(folder / f"{shard.name}{IDS_SUFFIX}", (shard.n_rows, context_tokens), np.uint32)
    flags = _map(folder / f"{shard.name}{FLAGS_SUFFIX}", (shard.n_rows, context_tokens), np.uint8)
    return TokenShard(folder / f"{shard.name}{IDS_SUFFIX}", ids, flags)


def _map(path: Path, shape: tuple[int, int], kind: type[np.generic]) -> NDArray:
    if not path.exists():
        raise UserError(f"token file {path} is missing; delete {path.parent} to have it made again")
    expected = shape[0] * shape[1] * np.dtype(kind).itemsize
    if path.stat().st_size != expected:
        raise UserError(
            f"token file {path} has {path.stat().st_size} of {expected} bytes; delete {path.parent} to make it again"
        )
    if not expected:
        return np.empty(shape, kind)
    return np.memmap(path, kind, "r", shape=shape)


class TokenSet:
    """All rows of one set of an artifact, numbered through its shards."""

    def __init__(self, folder: Path, name: str) -> None:
        """Map the set's files. Raises UserError for an unknown set or damaged files."""
        index = read_index(folder)
        if name not in index.sets:
            raise UserError(f"no set '{name}' in {folder}{suggest(name, index.sets)}")
        self.name, self.index, self.context_tokens = name, index.sets[name], index.context_tokens
        self.tokenizer_fingerprint = index.tokenizer_fingerprint
        self.n_rows = self.index.n_rows
        self.shards = tuple(open_shard(folder, shard, self.context_tokens) for shard in self.index.shards)
        self._ends = np.cumsum([shard.n_rows for shard in self.index.shards])

    def rows(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """Return ids and flags (len(numbers), T) of the rows of these numbers."""
        if len(self.shards) == 1:
            return self.shards[0].ids[numbers], self.shards[0].flags[numbers]
        ids = np.empty((len(numbers), self.context_tokens), np.uint32)
        flags = np.empty((len(numbers), self.context_tokens), np.uint8)
        of_shard = np.searchsorted(self._ends, numbers, side="right")
        for n in np.unique(of_shard):
            mine = of_shard == n
            local = numbers[mine] - (self._ends[n] - self.index.shards[n].n_rows)
            ids[mine], flags[mine] = self.shards[n].ids[local], self.shards[n].flags[local]
        return ids, flags
