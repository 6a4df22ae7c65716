"""Context parallelism: the attention back ends of a model whose rows are shared by the ranks of a group.

Ranks hold the positions of `kernels.zigzag`; documents describe whole rows and are known to all of them, so that masks
need no communication. There are two ways to see the other ranks' positions:

    ring         global attention is a ring (`kernels.ring`), local attention takes the rows before each chunk from its
                 neighbours (`kernels.halo`) and computes alone
    all-to-all   every rank exchanges its positions of all heads for all positions of its heads (`kernels.exchange`),
                 computes as a single process does, and exchanges what comes out for its positions

Everything else in the model works on single positions and needs no communication.

Not covered: `research.shift`, which moves hidden states by one position.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from codeflow.core.errors import UserError
from codeflow.kernels import dispatch
from codeflow.kernels.dispatch import Backend
from codeflow.kernels.documents import Documents
from codeflow.kernels.exchange import Exchange
from codeflow.kernels.halo import with_halo
from codeflow.kernels.payload import PayloadWatch
from codeflow.kernels.reference import mix
from codeflow.kernels.ring import gathered_kv, ring_attention
from codeflow.kernels.spans import Sight, span_attention
from codeflow.kernels.zigzag import Zigzag
from codeflow.model.looped import LoopCoder
from codeflow.parallel.config import MeshConfig

KeyValue = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ContextAttention:
    """An attention back end (see `kernels.dispatch`) over the ranks of `group`; `payloads` watches what they send."""

    group: dist.ProcessGroup
    payloads: PayloadWatch = field(default_factory=PayloadWatch, kw_only=True)

    def _zigzag(self, x: Tensor) -> Zigzag:
        return Zigzag(x.shape[1] * self.group.size(), self.group.size(), self.group.rank())


@dataclass(frozen=True)
class RingAttention(ContextAttention):
    """Keys and values go around.

    `keep_kv`: every rank gathers the first loop's keys and values of whole rows once, for all loops; their memory grows
    by the size of the group. Otherwise each loop sends them around the ring again.
    """

    keep_kv: bool = False

    def __str__(self) -> str:
        return f"{'gather' if self.keep_kv else 'ring'} over {self.group.size()} ranks"

    def shared_kv(self, k: Tensor, v: Tensor) -> KeyValue:
        """Return the first loop's keys and values (B, S, G, D), or of whole rows (B, T, G, D) when they are kept."""
        return gathered_kv(k, v, self._zigzag(k), self.group, self.payloads) if self.keep_kv else (k, v)

    def causal_attention(self, q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
        """Plain causal attention within documents: q (B, S, H, D), k and v from `shared_kv` -> (B, S, H, D)."""
        zigzag = self._zigzag(q)
        if not self.keep_kv:
            return ring_attention(q, k, v, documents, zigzag, self.group, self.payloads)
        sights = _sights(zigzag, documents, None, False, q)
        parts = zip(q.chunk(2, 1), sights, strict=True)
        return torch.cat([span_attention(part, k, v, sight, 0) for part, sight in parts], 1)

    def gated_attention(
        self,
        q: Tensor,
        global_kv: KeyValue,
        local_kv: KeyValue,
        gate_logits: Tensor,
        documents: Documents | None,
        window: int,
        strict: bool = False,
    ) -> Tensor:
        """Attention of a later loop on this rank's positions; see `kernels.dispatch.gated_attention`."""
        wide = self.causal_attention(q, *global_kv, documents).chunk(2, 1)
        near = self._local(q, local_kv, documents, window, strict)  # by chunks, so that each part is kept once
        return torch.cat([mix(*parts) for parts in zip(wide, near, gate_logits.chunk(2, 1), strict=True)], 1)

    def _local(self, q: Tensor, kv: KeyValue, documents: Documents | None, window: int, strict: bool) -> list[Tensor]:
        zigzag = self._zigzag(q)
        window = min(window, zigzag.length)
        parts = with_halo(torch.cat(kv, 2), window - 1, zigzag, self.group, self.payloads)
        sights = _sights(zigzag, documents, window, strict, q)
        found: list[Tensor] = []
        for part, behind, sight in zip(q.chunk(2, 1), parts, sights, strict=True):
            k, v = behind.chunk(2, 2)
            found.append(span_attention(part, k, v, sight, sight.first + zigzag.chunk_length - behind.shape[1]))
        return found


@dataclass(frozen=True)
class HeadAttention(ContextAttention):
    """Positions of all heads are exchanged for whole rows of some; `alone` is the back end of a single process.

    The first loop's keys and values stay as they were exchanged, for all loops. "" chooses `alone` by device.
    """

    alone: Backend = ""

    def __str__(self) -> str:
        return f"all-to-all over {self.group.size()} ranks"

    def shared_kv(self, k: Tensor, v: Tensor) -> KeyValue:
        """Return the first loop's keys and values of whole rows (B, T, G / n, D) from this rank's (B, S, G, D)."""
        keys, values = self._exchange(k).to_heads(k, v)
        return keys, values

    def causal_attention(self, q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
        """Plain causal attention within documents: q (B, S, H, D), k and v from `shared_kv` -> (B, S, H, D)."""
        exchange = self._exchange(q)
        (queries,) = exchange.to_heads(q)
        return exchange.to_rows(dispatch.causal_attention(queries, k, v, documents, self._alone(q)))

    def gated_attention(
        self,
        q: Tensor,
        global_kv: KeyValue,
        local_kv: KeyValue,
        gate_logits: Tensor,
        documents: Documents | None,
        window: int,
        strict: bool = False,
    ) -> Tensor:
        """Attention of a later loop on this rank's positions; see `kernels.dispatch.gated_attention`."""
        exchange = self._exchange(q)
        queries, keys, values, logits = exchange.to_heads(q, *local_kv, gate_logits)
        mixed = dispatch.gated_attention(
            queries, global_kv, (keys, values), logits, documents, window, self._alone(q), strict
        )
        return exchange.to_rows(mixed)

    def _exchange(self, x: Tensor) -> Exchange:
        return Exchange(self._zigzag(x), self.group, self.payloads)

    def _alone(self, x: Tensor) -> Backend:
        return self.alone or dispatch.default_backend(x.device)


def _sights(zigzag: Zigzag, documents: Documents | None, window: int | None, strict: bool, like: Tensor) -> list[Sight]:
    return [Sight.of(first, zigzag.chunk_length, documents, window, strict, like) for first in zigzag.firsts()]


def share_rows(model: LoopCoder, mesh: DeviceMesh, config: MeshConfig) -> None:
    """Let `model` compute on its part of each row, as `config` says; its matrices are split already.

    Raises UserError for a model that looks beyond its part otherwise, or that has too few heads to exchange.
    """
    group = mesh["context"].get_group()
    if model.config.research.shift:
        raise UserError("research.shift moves hidden states across the ranks of mesh.context; set one of them off")
    if config.context_exchange == "ring":
        model.attention_backend = RingAttention(group, config.context_keys == "gather")
        return
    n_heads, n_parts = model.config.num_key_value_heads, mesh["tensor"].size()
    if n_heads // n_parts % group.size():
        left = f" / mesh.tensor={n_parts}" if n_parts > 1 else ""
        raise UserError(
            f"mesh.context={group.size()} does not divide num_key_value_heads={n_heads}{left}, which "
            "mesh.context_exchange=all_to_all needs; use a divisor of it, or mesh.context_exchange=ring"
        )
    model.attention_backend = HeadAttention(group)
