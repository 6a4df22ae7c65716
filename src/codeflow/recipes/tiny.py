"""The whole chain on a laptop's CPU in minutes: documentation, example and end-to-end test in one.

Covered: files and histories -> clean, deduplicated, decontaminated documents -> samples (plain text,
fill-in-the-middle, evolution triplets) -> tokens -> a small dense model trained in three phases (general, code,
annealing) -> scores -> report.

The real recipe's numbers are in `docs/recipe.md`; here every size is cut to what two cores do in minutes, while
order, formats and rules stay the same.
"""

from __future__ import annotations

from pathlib import Path

from codeflow.core.config import Config
from codeflow.corpus.collect import CollectConfig
from codeflow.corpus.git_history import HistoryConfig
from codeflow.eval.evaluate import EvaluateConfig
from codeflow.eval.prompts import PromptsConfig
from codeflow.execute.chain import Stage
from codeflow.model.config import ModelConfig
from codeflow.recipes.verbs import VERBS
from codeflow.report.page import ReportConfig
from codeflow.tokens.pack import PackConfig
from codeflow.tokens.tokenizer import TokenizerConfig
from codeflow.train.config import TrainConfig
from codeflow.transform.decontaminate import DecontaminateConfig
from codeflow.transform.dedup import DedupConfig
from codeflow.transform.evolution import EvolutionConfig
from codeflow.transform.pipeline import CleanConfig
from codeflow.transform.samples import SamplesConfig
from codeflow.transform.split import SplitConfig


class TrainPhases(Config):
    """The three phases of pre-training (Code-Flow §1); each continues from the one before."""

    general: TrainConfig
    code: TrainConfig
    anneal: TrainConfig


class TinyRecipe(Config):
    """The tiny recipe's tree: one field per stage."""

    name: str
    collect: CollectConfig
    history: HistoryConfig
    prompts: PromptsConfig
    clean: CleanConfig
    dedup: DedupConfig
    decontaminate: DecontaminateConfig
    split: SplitConfig
    tokenizer: TokenizerConfig
    evolution: EvolutionConfig
    samples: SamplesConfig
    pack: PackConfig
    train: TrainPhases
    evaluate: EvaluateConfig
    report: ReportConfig

    def with_sources(self, repositories: tuple[str, ...], own_checkout: str, benchmarks: Path | None) -> TinyRecipe:
        """Add repositories that the user names, the project's own history, and a folder of benchmark files."""
        collect = self.collect.model_copy(update={"repositories": repositories})
        history = self.history.model_copy(update={"repositories": repositories, "own_checkout": own_checkout})
        prompts = (
            self.prompts.model_copy(update={"benchmarks": str(benchmarks.resolve())}) if benchmarks else self.prompts
        )
        return self.model_copy(update={"collect": collect, "history": history, "prompts": prompts})

    def chain(self) -> list[Stage]:
        """Return the stages in order, wired."""
        v = VERBS
        phases = ("general", "code", "anneal")
        trained = {phase: f"train_{phase}" for phase in phases}
        stages = [
            v["collect"].stage(self.collect),
            v["history"].stage(self.history),
            v["prompts"].stage(self.prompts),
            v["clean"].stage(self.clean, {"documents": "collect"}),
            v["dedup"].stage(self.dedup, {"documents": "clean"}),
            v["decontaminate"].stage(self.decontaminate, {"documents": "dedup", "prompts": "prompts"}),
            v["split"].stage(self.split, {"documents": "decontaminate"}),
            v["tokenizer"].stage(self.tokenizer, {"documents": "split"}),
            v["evolution"].stage(self.evolution, {"commits": "history", "documents": "split"}),
            v["samples"].stage(self.samples, {"documents": "split", "triplets": "evolution"}),
            v["pack"].stage(self.pack),
        ]
        parent: dict[str, str] = {}
        for phase in phases:
            inputs = {"tokens": "pack", "tokenizer": "tokenizer", **parent}
            stages.append(v["train"].stage(getattr(self.train, phase), inputs, trained[phase]))
            parent = {"parent": trained[phase]}
        stages.append(v["evaluate"].stage(self.evaluate, {"documents": "split", "tokenizer": "tokenizer", **trained}))
        everything = {stage.name: stage.name for stage in stages}
        return [*stages, v["report"].stage(self.report, everything)]


def tiny() -> TinyRecipe:
    """Return the recipe of `make run`: at most 6 minutes and 6 GiB on two cores."""
    return _recipe("tiny", cap_bytes=40_000_000, steps=(40, 100, 30))


def smoke() -> TinyRecipe:
    """Return the same chain with less of everything: under 3 minutes, for continuous integration."""
    return _recipe("smoke", cap_bytes=6_000_000, steps=(10, 15, 8))
