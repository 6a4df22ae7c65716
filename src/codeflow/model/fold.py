"""Dense to loop: make a looped model's layers from a trained dense one and go on training it.

The loop paper folds "representative blocks" without stating the ratio; the release has as many layers looped as dense
(identity). All strategies keep embedding, norms and head; gates start at zero (g = 0.5). A fold raises the loss;
`LoopCoder.second_pass_scale` ramped from 0 (where the identity fold is the dense model exactly) to 1 removes the jump.
Source: LoopCoder §3 (dense-to-loop).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt, model_validator

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.model.config import ModelConfig, ResearchOptions
from codeflow.model.looped import LoopCoder

Strategy = Literal["identity", "average", "every_second", "ends"]


class FoldSettings(Config):
    """How a dense model becomes a looped one.

    identity: all layers. The others halve the depth (rounded up), so that two loops cost what the dense model cost:
    average: means of neighbours; every_second: layers 0, 2, 4, ...; ends: the first and the last quarter.
    """

    strategy: Strategy = "identity"
    loop_num: PositiveInt = 2
    loop_window_size: PositiveInt = 64
    research: ResearchOptions = ResearchOptions()

    @model_validator(mode="after")
    def _loops(self) -> FoldSettings:
        if self.loop_num < 2:
            raise ValueError(f"loop_num={self.loop_num} makes no loop; use 2 or more")
        return self


def sources(strategy: Strategy, n_layers: int) -> list[tuple[int, ...]]:
    """Return for each layer of the looped model the dense layers whose mean it is."""
    if strategy == "identity":
        return [(i,) for i in range(n_layers)]
    if strategy == "average":
        return [tuple(range(i, min(i + 2, n_layers))) for i in range(0, n_layers, 2)]
    if strategy == "every_second":
        return [(i,) for i in range(0, n_layers, 2)]
    kept = (n_layers + 1) // 2
    first = (kept + 1) // 2
    return [(i,) for i in [*range(first), *range(n_layers - (kept - first), n_layers)]]


def folded_config(config: ModelConfig, settings: FoldSettings) -> ModelConfig:
    """Return the looped model's shape. Raises UserError when `config` is looped already."""
    if config.looped:
        raise UserError(f"loop_num={config.loop_num}: the model to fold is looped already; fold a dense one")
    layers = len(sources(settings.strategy, config.num_hidden_layers))
    changes = {
        "num_hidden_layers": layers,
        "loop_num": settings.loop_num,
        "loop_window_size": settings.loop_window_size,
        "research": settings.research.model_dump(),
    }
    return ModelConfig.model_validate(config.model_dump() | changes)


@torch.no_grad()
def fold(dense: LoopCoder, settings: FoldSettings) -> LoopCoder:
    """Return a new looped model in the dense one's dtype and on its device. Raises UserError for a looped one."""
    weight = dense.embed_tokens.weight
    with torch.device(weight.device):
        looped = LoopCoder(folded_config(dense.config, settings)).to(weight.dtype)
    own = dict(looped.named_parameters())
    theirs = dict(dense.named_parameters())
    for name, parameter in own.items():
        if not name.startswith("layers."):
            parameter.copy_(theirs[name])
    for layer, origins in enumerate(sources(settings.strategy, dense.config.num_hidden_layers)):
        prefix = f"layers.{layer}."
        for name in [name for name in own if name.startswith(prefix) and "gate_projection" not in name]:
            leaf = name.removeprefix(prefix)
            wide = [theirs[f"layers.{origin}.{leaf}"].float() for origin in origins]
            own[name].copy_(torch.stack(wide).mean(0) if len(wide) > 1 else theirs[f"layers.{origins[0]}.{leaf}"])
    return looped
