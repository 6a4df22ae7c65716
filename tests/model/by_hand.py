"""The forward pass written a second time: position by position, from the specification, research options included."""

from __future__ import annotations

import torch
from torch import Tensor

from codeflow.model.looped import LoopCoder


def by_hand(model: LoopCoder, ids: Tensor) -> Tensor:
    """Return logits (T, V) of one row of ids (T), in fp64."""
    c, weights = model.config, {name: value.double() for name, value in model.named_parameters()}
    length, group = ids.shape[0], c.num_attention_heads // c.num_key_value_heads

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean() + c.rms_norm_eps).sqrt() * weights[name]

    def rope(x: Tensor, position: int) -> Tensor:
        half = c.head_dim // 2
        turned = torch.empty_like(x)
        for d in range(half):
            angle = torch.tensor(position / c.rope_theta ** (2 * d / c.head_dim), dtype=torch.float64)
            turned[:, d] = x[:, d] * angle.cos() - x[:, d + half] * angle.sin()
            turned[:, d + half] = x[:, d + half] * angle.cos() + x[:, d] * angle.sin()
        return turned

    def attend(q: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        heads = []
        for head in range(c.num_attention_heads):
            scores = torch.stack([q[head] @ k[head // group] for k in keys]) / c.head_dim**0.5
            heads.append(sum(p * v[head // group] for p, v in zip(scores.softmax(0), values, strict=True)))
        return torch.stack(heads)

    def gates(name: str, sources: dict[str, Tensor]) -> Tensor:
        weight, bias = (weights[f"{name}gate_projection.{leaf}"] for leaf in ("weight", "bias"))
        kind = {"query": "q", "query_before_rope": "plain", "hidden": "hidden"}[c.research.gate_input]
        per_head = [sources[kind] if kind == "hidden" else sources[kind][head] for head in range(len(weight))]
        logits = torch.stack([weight[head] @ x + bias[head] for head, x in enumerate(per_head)])
        return logits.sigmoid() if logits.dim() == 2 else logits.sigmoid()[:, None]

    hidden = [weights["embed_tokens.weight"][token] for token in ids.tolist()]
    embedding = list(hidden)
    first: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
    for loop in range(c.loop_num):
        if loop and c.research.shift:
            hidden = [torch.zeros_like(hidden[0]), *hidden[:-1]]
        if loop and c.research.reinject_embedding:
            hidden = [x + e for x, e in zip(hidden, embedding, strict=True)]
        for layer in range(c.num_hidden_layers):
            name = f"layers.{layer}."
            normed = [norm(x, name + "input_layernorm.weight") for x in hidden]
            heads = {
                part: [(weights[f"{name}self_attn.{part}_proj.weight"] @ x).view(-1, c.head_dim) for x in normed]
                for part in "qkv"
            }
            q, k = ([rope(x, t) for t, x in enumerate(heads[part])] for part in "qk")
            v = heads["v"]
            if loop == 0:
                first[layer] = (k, v)
            for t in range(length):
                mixed = attend(q[t], first[layer][0][: t + 1], first[layer][1][: t + 1])
                if loop:
                    low = max(0, t - c.loop_window_size + 1)
                    high = t if c.research.strict_local_mask else t + 1
                    local = attend(q[t], k[low:high], v[low:high]) if high > low else torch.zeros_like(mixed)
                    gate = gates(name, {"q": q[t], "plain": heads["q"][t], "hidden": normed[t]})
                    mixed = gate * mixed + (1 - gate) * local
                hidden[t] = hidden[t] + weights[name + "self_attn.o_proj.weight"] @ mixed.flatten()
                x = norm(hidden[t], name + "post_attention_layernorm.weight")
                gated = torch.nn.functional.silu(weights[name + "mlp.gate_proj.weight"] @ x)
                grown = gated * (weights[name + "mlp.up_proj.weight"] @ x)
                hidden[t] = hidden[t] + weights[name + "mlp.down_proj.weight"] @ grown
    return torch.stack([weights["lm_head.weight"] @ norm(x, "norm.weight") for x in hidden])
