"""LoopCoder: a decoder whose layers run `loop_num` times over the same positions (1 = a dense Llama-shaped model).

Covers training and prefill of whole (packed) rows; decoding with caches is in `generate`.
Source: LoopCoder §2, and the semantics of the public release where the two disagree.

Legend: B rows, T positions, C hidden size, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from codeflow.core.errors import UserError
from codeflow.kernels.dispatch import Backend, default_backend
from codeflow.kernels.documents import Documents
from codeflow.model.attention import KeyValue
from codeflow.model.block import Block, RMSNorm, Tap
from codeflow.model.checkpointing import selectively
from codeflow.model.config import Checkpointing, ModelConfig
from codeflow.model.projection import Projection
from codeflow.model.rope import rotation


class LoopTap(Protocol):
    """What stands between the later loops and what they share with the first one; see `train.loop_gradients`."""

    def weight(self, loop: int, name: str, weight: Tensor) -> Tensor:
        """Return what `loop` (1 = second) computes with in place of the layers' shared `weight` of that name."""
        ...

    def border(self, loop: int, gradient: Tensor) -> None:
        """Be told the gradient (B, T, C) of the hidden states that enter `loop`."""
        ...


class LoopCoder(nn.Module):
    """Dense or looped decoder.

    `second_pass_scale` (a runtime attribute, not a parameter) multiplies the residual branches of loops >= 2; a
    dense-to-loop fold ramps it from 0, where the model equals its first loop, to 1, the released model.
    `attention_backend` names the kernels in use, or is an object that computes with other ranks. `loop_tap` watches
    what each later loop sends back in training.
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.second_pass_scale = 1.0
        self.attention_backend: Backend = ""  # "" = chosen by device
        self.loop_tap: LoopTap | None = None
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = Projection(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        if not self.embed_tokens.weight.is_meta:
            self.initialise(seed)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Fill all parameters: a function of (seed, parameter name), whatever the order or the number of loops.

        Matrices are normal(0, initializer_range); those that write to the residual stream (o_proj, down_proj) are
        divided by sqrt(2 * layers * loops), the number of times that something is added; norms are 1, gates 0.
        """
        config = self.config
        n_additions = 2 * config.num_hidden_layers * config.loop_num
        for name, parameter in self.named_parameters():
            if "gate_projection" in name:
                parameter.zero_()
            elif parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                spread = config.initializer_range / (n_additions**0.5 if residual else 1.0)
                digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
                values = torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, spread, generator=generator)
                parameter.copy_(values)

    @property
    def backend(self) -> Backend:
        """The attention back end in use."""
        return self.attention_backend or default_backend(self.embed_tokens.weight.device)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        document_starts: Tensor | None = None,
        checkpointing: Checkpointing = "none",
        keep: Callable[[int, int, KeyValue], None] | None = None,
    ) -> Tensor:
        """Return the hidden states (B, T, C) after the final norm; feed them to `logits` or to `lm_head.weight`.

        ids (B, T). `document_starts` (B, T) holds for each position the row index at which its document starts: no
        attention crosses it. `positions` default to counting from there. Where ranks share rows, ids and positions are
        this rank's part of the rows, and `document_starts` is whole. `checkpointing` says what the
        backward pass computes again: nothing, whole blocks, or what is cheap. `keep` is called with (loop, layer, keys
        and values) as they are made.
        Raises UserError for rows longer than max_position_embeddings, wrong document_starts, and `keep` with research
        options on, which decoding does not know.
        """
        config = self.config
        if keep:
            config.check_decodable()
        if ids.shape[1] > config.max_position_embeddings:
            raise UserError(
                f"a row of {ids.shape[1]} tokens exceeds max_position_embeddings={config.max_position_embeddings}; "
                "use shorter rows or a model with a longer context"
            )
        documents = Documents.of(document_starts)
        if positions is None:
            here = torch.arange(ids.shape[1], device=ids.device)[None]
            positions = here if documents is None else documents.positions()
        hidden = self.embed_tokens(ids)
        turn = rotation(positions, config.head_dim, config.rope_theta, hidden.dtype)

        def run(block: nn.Module, x: Tensor, kv: KeyValue | None, scale: float, *tap: Tap) -> tuple[Tensor, KeyValue]:
            if checkpointing == "full" and torch.is_grad_enabled():
                return checkpoint(block, x, turn, documents, self.backend, kv, scale, *tap, use_reentrant=False)
            with selectively(checkpointing == "selective"):
                return block(x, turn, documents, self.backend, kv, scale, *tap)

        first: list[KeyValue] = []
        embedding = hidden
        for loop in range(config.loop_num):
            if loop:
                if self.loop_tap and hidden.requires_grad:
                    hidden.register_hook(partial(self.loop_tap.border, loop))
                hidden = self._enter_loop(hidden, embedding, documents)
            for layer, block in enumerate(self.layers):
                global_kv, scale = (first[layer], self.second_pass_scale) if loop else (None, 1.0)
                hidden, kv = run(block, hidden, global_kv, scale, *self._taps(loop, layer))
                if loop == 0:
                    first.append(kv)
                if keep:
                    keep(loop, layer, kv)
        return self.norm(hidden)

    def _taps(self, loop: int, layer: int) -> tuple[Tap, ...]:
        tap = self.loop_tap
        if not loop or tap is None or not torch.is_grad_enabled():
            return ()
        return (lambda name, weight: tap.weight(loop, f"layers.{layer}.{name}", weight),)

    def _enter_loop(self, hidden: Tensor, embedding: Tensor, documents: Documents | None) -> Tensor:
        """Return what a later loop starts from: the last loop's hidden states (B, T, C), but for research options."""
        research = self.config.research
        if research.shift:
            here = torch.arange(hidden.shape[1], device=hidden.device)
            begins = here == (0 if documents is None else documents.starts)  # (T) or (B, T)
            hidden = hidden.roll(1, dims=1).masked_fill(begins[..., None], 0.0)
        if research.reinject_embedding:
            scale = self.second_pass_scale
            hidden = hidden + (embedding if scale == 1.0 else scale * embedding)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return fp32 (fp64 for fp64 models) logits (B, T, V) of normed hidden states (B, T, C)."""
        return self.lm_head(hidden).to(torch.promote_types(hidden.dtype, torch.float32))
