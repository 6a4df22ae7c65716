"""Context parallelism: the attention back end of a model whose rows are shared by the ranks of a group.

Ranks hold the positions of `kernels.zigzag`; documents describe whole rows and are known to all of them. Global
attention is a ring (`kernels.ring`), local attention takes the rows before each chunk from its neighbours
(`kernels.halo`) and computes alone. Everything else in the model works on single positions and needs no communication.

Not covered: `research.shift`, which moves hidden states by one position.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from codeflow.core.errors import UserError
from codeflow.kernels.documents import Documents
from codeflow.kernels.halo import with_halo
from codeflow.kernels.payload import PayloadWatch
from codeflow.kernels.reference import mix
from codeflow.kernels.ring import gathered_kv, ring_attention
from codeflow.kernels.spans import Sight, span_attention
from codeflow.kernels.zigzag import Zigzag
from codeflow.model.looped import LoopCoder

KeyValue = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ContextAttention:
    """An attention back end (see `kernels.dispatch`) over the ranks of `group`.

    `keep_kv`: every rank gathers the first loop's keys and values of whole rows once, for all loops; their memory grows
    by the size of the group. Otherwise each loop sends them around the ring again.
    """

    group: dist.ProcessGroup
    keep_kv: bool
    payloads: PayloadWatch = field(default_factory=PayloadWatch)

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
        global_part = self.causal_attention(q, *global_kv, documents)
        return mix(global_part, self._local(q, local_kv, documents, window, strict), gate_logits)

    def _local(self, q: Tensor, kv: KeyValue, documents: Documents | None, window: int, strict: bool) -> Tensor:
        zigzag = self._zigzag(q)
        window = min(window, zigzag.length)
        parts = with_halo(torch.cat(kv, 2), window - 1, zigzag, self.group, self.payloads)
        sights = _sights(zigzag, documents, window, strict, q)
        found: list[Tensor] = []
        for part, behind, sight in zip(q.chunk(2, 1), parts, sights, strict=True):
            k, v = behind.chunk(2, 2)
            found.append(span_attention(part, k, v, sight, sight.first + zigzag.chunk_length - behind.shape[1]))
        return torch.cat(found, 1)

    def _zigzag(self, x: Tensor) -> Zigzag:
        return Zigzag(x.shape[1] * self.group.size(), self.group.size(), self.group.rank())


def _sights(zigzag: Zigzag, documents: Documents | None, window: int | None, strict: bool, like: Tensor) -> list[Sight]:
    return [Sight.of(first, zigzag.chunk_length, documents, window, strict, like) for first in zigzag.firsts()]


def share_rows(model: LoopCoder, group: dist.ProcessGroup, keep_kv: bool) -> None:
    """Let `model` compute on its part of each row. Raises UserError for a model that looks beyond it otherwise."""
    if model.config.research.shift:
        raise UserError("research.shift moves hidden states across the ranks of mesh.context; set one of them off")
    model.attention_backend = ContextAttention(group, keep_kv)
