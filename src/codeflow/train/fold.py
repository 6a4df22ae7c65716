"""Stage `fold`: a trained dense model becomes a looped one, with its loss before and right after (LoopCoder §3).

    run(config, {checkpoint, tokens, tokenizer}, output) -> checkpoint artifact
        model/  state/  as a training phase leaves them; the next phase starts from them with fresh optimizer state

The second pass's residual branches may be ramped from 0, where the identity fold is the dense model exactly
(`TrainConfig.second_pass_ramp_steps`); the exported model has them at 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.model.config import ResearchOptions

if TYPE_CHECKING:
    from codeflow.model.fold import FoldSettings
    from codeflow.model.looped import LoopCoder
    from codeflow.train.losses import TensorBatch


class FoldConfig(Config):
    """Which fold, and on which held-out rows it is measured."""

    phase: str = "fold"
    strategy: str = "identity"  # see model.fold.FoldSettings
    loop_num: int = Field(default=2, ge=2)
    loop_window_size: PositiveInt = 64
    research: ResearchOptions = ResearchOptions()
    mixture: dict[str, float] = Field(default_factory=lambda: {"code": 1.0})  # its sets' held-out rows are measured
    validation_rows: PositiveInt = 16
    n_threads: PositiveInt | None = None  # None: the cores that this process may use
    compare: tuple[str, ...] = ("average", "every_second", "ends")  # other strategies, measured and thrown away


def run(config: FoldConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Fold `inputs["checkpoint"]`. Raises UserError for a looped checkpoint or an unknown strategy."""
    from codeflow.core.config import validate
    from codeflow.model.config import ModelConfig
    from codeflow.model.fold import FoldSettings, fold
    from codeflow.model.looped import LoopCoder
    from codeflow.parallel import checkpoint
    from codeflow.parallel.config import MeshConfig
    from codeflow.parallel.mesh import world
    from codeflow.train.pretrain import STATE, threads

    def settings(strategy: str) -> FoldSettings:
        shared = config.model_dump(include={"loop_num", "loop_window_size", "research"})
        return validate(FoldSettings, {"strategy": strategy, **shared})

    with world(MeshConfig()) as here, threads(config.n_threads):
        found = checkpoint.newest([inputs["checkpoint"] / STATE], here)
        if found is None:
            raise UserError(f"{inputs['checkpoint']} has no training state to fold; give a checkpoint of a train stage")
        state, complete = found
        dense = LoopCoder(validate(ModelConfig, complete.about["model"], origin=str(state)))
        checkpoint.load(state, {f"masters.{name}": p.detach() for name, p in dense.named_parameters()})
        batches = _held_out(config, inputs["tokens"])
        losses: dict[str, Any] = {"dense": _losses(dense, batches)}
        for strategy in dict.fromkeys((config.strategy, *config.compare)):
            losses[strategy] = _losses(fold(dense, settings(strategy)), batches)
        looped = fold(dense, settings(config.strategy))
        looped.second_pass_scale = 0.0
        losses[f"{config.strategy}, second pass at 0"] = _losses(looped, batches)
        looped.second_pass_scale = 1.0
        _write(config, looped, complete.about, inputs, output)
    metrics = {
        "phase": config.phase,
        "steps": 0,
        "tokens": 0,
        "tokens_in_all": int(complete.about["tokens"]),
        "n_parameters": sum(parameter.numel() for parameter in looped.parameters()),
        "losses": losses,
        "sets": {},
    }
    return seal(output, Counts(), metrics)


def _held_out(config: FoldConfig, tokens: Path) -> dict[str, TensorBatch]:
    from codeflow.tokens.mixture import without
    from codeflow.train.losses import TensorBatch
    from codeflow.train.rows import absent, training_rows

    mixture = without(config.mixture, absent(tuple(config.mixture), tokens))
    rows = training_rows(tokens, mixture, 1, config.validation_rows, 0)
    found = {name: rows.held_out(name, 0, 1) for name in sorted(rows.sets)}
    return {name: TensorBatch.of(batch) for name, batch in found.items() if batch is not None}


def _losses(model: LoopCoder, batches: Mapping[str, TensorBatch]) -> dict[str, float]:
    """Return nats per token by set, in fp32."""
    import torch

    from codeflow.train.losses import NextToken

    with torch.no_grad():
        return {
            name: sum(NextToken()(model, part, 1 / batch.weight).item() for part in batch.split(4))
            for name, batch in batches.items()
        }


def _write(
    config: FoldConfig, looped: LoopCoder, about: Mapping[str, Any], inputs: Mapping[str, Path], output: Path
) -> None:
    import torch

    from codeflow.parallel import checkpoint
    from codeflow.parallel.config import MeshConfig
    from codeflow.parallel.mesh import world
    from codeflow.train.export import export_model
    from codeflow.train.pretrain import MODEL, STATE

    weights = {name: parameter.detach() for name, parameter in looped.named_parameters()}
    changed = {
        "phase": config.phase,
        "model": looped.config.model_dump(mode="json"),
        "updates": 0,
        "skipped_in_a_row": 0,
    }
    with world(MeshConfig()) as here:
        masters = {f"masters.{name}": weight for name, weight in weights.items()}
        checkpoint.save(output / STATE, 0, masters, {**about, **changed}, here)
    export_model(looped.config, weights, torch.bfloat16, inputs["tokenizer"], output / MODEL)
