"""The looped code model for transformers 4.55 and later (remote code of an exported checkpoint).

Semantics: the first loop is plain causal attention and keeps each layer's keys and values (global); a later loop
mixes, by one gate per token and head, attention to those with attention to its own last `loop_window_size` tokens.
Forward, generate, cache (the later loops keep a window only), left padding, beam reorder, gradient checkpointing.

Legend: B rows, T new tokens, S slots (past and new), C hidden size, H query heads, G key/value heads, D head dim.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_iquestloopcoder import IQuestLoopCoderConfig


class LoopCache(DynamicCache):
    """Layer i holds the first loop's keys and values; layer loop * L + i the last `window` ones of a later loop."""

    def trim(self, index: int, window: int) -> None:
        """Forget what has left the window."""
        layer = self.layers[index]
        layer.keys, layer.values = layer.keys[:, :, -window:], layer.values[:, :, -window:]


class RMSNorm(nn.Module):
    """x / rms(x) * weight, in fp32."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        return self.weight * normed.to(x.dtype)


class GateProjection(nn.Module):
    """One logit per token and head from the query after rotation."""

    def __init__(self, config: IQuestLoopCoderConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.num_attention_heads, config.head_dim))
        self.bias = nn.Parameter(torch.zeros(config.num_attention_heads))

    def forward(self, q: Tensor) -> Tensor:
        """Map q (B, H, T, D) to gates (B, H, T, 1) in fp32."""
        logits = torch.einsum("bhtd,hd->bht", q, self.weight) + self.bias[:, None]
        return logits.float().sigmoid()[..., None]


class Attention(nn.Module):
    """Projections of one layer, shared by all loops."""

    def __init__(self, config: IQuestLoopCoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        size, q_size = config.hidden_size, config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(size, q_size, bias=False)
        self.k_proj = nn.Linear(size, kv_size, bias=False)
        self.v_proj = nn.Linear(size, kv_size, bias=False)
        self.o_proj = nn.Linear(q_size, size, bias=False)

    def project(self, x: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q (B, H, T, D), k and v (B, G, T, D), q and k rotated."""
        split = (-1, self.head_dim)
        q, k, v = (p(x).unflatten(-1, split).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        return _rotate(q, cosine, sine), _rotate(k, cosine, sine), v


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: IQuestLoopCoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(GradientCheckpointingLayer):
    """One layer of one loop. `place` = (loop, layer); the caller passes what the loop may see."""

    def __init__(self, config: IQuestLoopCoderConfig) -> None:
        super().__init__()
        self.window = config.loop_window_size
        self.n_layers = config.num_hidden_layers
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        shared: tuple[Tensor, Tensor, Tensor, Tensor],
        cache: LoopCache | None,
        place: tuple[int, int],
        gate: GateProjection | None,
        global_k: Tensor | None,
        global_v: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the new x (B, T, C) and the keys and values that this loop attended to.

        `shared` is what all layers share: cosine, sine, the mask of the first loop's keys, that of a later loop's.
        The first loop's keys and values are arguments of their own: reentrant checkpointing, the default of
        transformers 4, sends gradients to tensors, not into tuples.
        """
        cosine, sine, global_mask, local_mask = shared
        q, k, v = self.self_attn.project(self.input_layernorm(x), cosine, sine)
        loop, layer = place
        index = loop * self.n_layers + layer
        if cache is not None:
            k, v = cache.update(k, v, index)
            if loop:
                cache.trim(index, self.window)
        if gate is None or global_k is None or global_v is None:
            mixed = _attend(q, k, v, global_mask)
        else:
            weight = gate(q)
            global_part = _attend(q, global_k, global_v, global_mask)
            local_part = _attend(q, k, v, local_mask)
            mixed = (weight * global_part.float() + (1 - weight) * local_part.float()).to(x.dtype)
        x = x + self.self_attn.o_proj(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.post_attention_layernorm(x)), k, v


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """Attention of q (B, H, T, D) to the last visible.shape[-1] of k and v (B, G, S, D)."""
    repeats = q.shape[1] // k.shape[1]
    k, v = (x[:, :, -visible.shape[-1] :].repeat_interleave(repeats, dim=1) for x in (k, v))
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)


class IQuestLoopCoderPreTrainedModel(PreTrainedModel):
    """What transformers wants to know of the family."""

    config_class = IQuestLoopCoderConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DecoderLayer"]
    _supports_sdpa = True
    _is_stateful = False

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, self.config.initializer_range)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, GateProjection):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


class IQuestLoopCoderModel(IQuestLoopCoderPreTrainedModel):
    """Embedding, the loops, the final norm."""

    def __init__(self, config: IQuestLoopCoderConfig) -> None:
        super().__init__(config)
        layers = range(config.num_hidden_layers)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in layers)
        self.gate_projections = nn.ModuleList(GateProjection(config) for _ in layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed_tokens = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: LoopCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **_: object,
    ) -> BaseModelOutputWithPast:
        """Return hidden states (B, T, C) after the final norm; attention_mask is (B, S), 0 for padding."""
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = self._cache(past_key_values, self.config.use_cache if use_cache is None else use_cache)
        past = cache.get_seq_length() if cache is not None else 0
        if position_ids is None:
            position_ids = self._positions(attention_mask, hidden, past)
        shared = (*self._turn(position_ids, hidden.dtype), *self._masks(attention_mask, hidden, past))
        first: list[tuple[Tensor, Tensor]] = []
        for loop in range(self.config.loop_num):
            for layer, (block, gate) in enumerate(zip(self.layers, self.gate_projections, strict=True)):
                seen = (gate, *first[layer]) if loop else (None, None, None)
                hidden, k, v = block(hidden, shared, cache, (loop, layer), *seen)
                if not loop:
                    first.append((k, v))
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=cache)

    def _cache(self, given: DynamicCache | None, wanted: bool) -> LoopCache | None:
        if self.gradient_checkpointing and self.training:
            return None
        if isinstance(given, LoopCache):
            return given
        if given is not None and given.get_seq_length() > 0:
            raise ValueError("past_key_values is not a LoopCache; pass back the one that the model returned")
        return LoopCache() if wanted or given is not None else None

    def _masks(self, attention_mask: Tensor | None, hidden: Tensor, past: int) -> tuple[Tensor, Tensor]:
        """Return who sees whom: (B, 1, T, S) for the first loop's keys, (B, 1, T, local keys) for a later loop's."""
        n_rows, n_new = hidden.shape[:2]
        end, window = past + n_new, self.config.loop_window_size
        query = torch.arange(past, end, device=hidden.device)[:, None]
        key = torch.arange(end, device=hidden.device)[None]
        visible = (key <= query).expand(n_rows, 1, n_new, end)
        if attention_mask is not None:
            real = attention_mask[:, -end:].bool()
            visible = visible & (real[:, None, None, :] | (key == query))  # a pad sees itself: no empty softmax
        n_local = min(past, window) + n_new
        local = visible & (key > query - window)
        return visible, local[..., -n_local:]

    def _positions(self, attention_mask: Tensor | None, hidden: Tensor, past: int) -> Tensor:
        n_new = hidden.shape[1]
        if attention_mask is None:
            return torch.arange(past, past + n_new, device=hidden.device)[None]
        return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)[:, -n_new:]

    def _turn(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        exponents = torch.arange(0, self.config.head_dim, 2, device=positions.device).float() / self.config.head_dim
        angles = positions[..., None].float() / self.config.rope_theta**exponents
        return angles.cos()[:, None].to(dtype), angles.sin()[:, None].to(dtype)


class IQuestLoopCoderForCausalLM(IQuestLoopCoderPreTrainedModel, GenerationMixin):
    """The model with its language head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: IQuestLoopCoderConfig) -> None:
        super().__init__(config)
        self.model = IQuestLoopCoderModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **arguments: object,
    ) -> CausalLMOutputWithPast:
        """Return fp32 logits (B, T or logits_to_keep, V) and, with labels, the loss."""
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, **arguments)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, kept]).float()
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=output.past_key_values)
