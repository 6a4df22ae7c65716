"""The recipe `scaling`: local files -> tokens by language -> a grid of tiny models -> a law -> a mixture, and its test.

What `codeflow scaling sweep` runs. The languages are those that every installation has: Python, the C++ headers and the
reStructuredText of installed packages. After the law come a mixture plan for twice the grid's largest budget and two
models trained on it, one with uniform shares and one with the plan's: what the law predicts is measured. It shows the
road on a laptop; its law is of models of 0.04 to 0.2 million parameters and must not be carried over to large ones.
"""

from __future__ import annotations

from pathlib import Path

from codeflow.core.config import Config
from codeflow.corpus.collect import CollectConfig
from codeflow.execute.chain import Stage
from codeflow.model.flops import count_parameters
from codeflow.recipes.language_samples import LanguageSamplesConfig
from codeflow.recipes.sweep import SweepConfig, training
from codeflow.recipes.verbs import VERBS
from codeflow.report.page import ReportConfig
from codeflow.scaling.budget import AllocateConfig
from codeflow.scaling.stage import KIND as LAW
from codeflow.scaling.stage import FitConfig
from codeflow.tokens.mixture import PLAN_KIND
from codeflow.tokens.pack import PackConfig
from codeflow.tokens.tokenizer import TokenizerConfig
from codeflow.train.config import TrainConfig
from codeflow.transform.dedup import DedupConfig
from codeflow.transform.pipeline import CleanConfig
from codeflow.transform.split import SplitConfig


class ScalingRecipe(Config):
    """The recipe's tree: one field per stage."""

    collect: CollectConfig
    clean: CleanConfig = CleanConfig()
    dedup: DedupConfig = DedupConfig()
    split: SplitConfig = SplitConfig()
    tokenizer: TokenizerConfig
    language_samples: LanguageSamplesConfig = LanguageSamplesConfig()
    pack: PackConfig
    sweep: SweepConfig = SweepConfig()
    law: FitConfig = FitConfig()
    mixture_plan: AllocateConfig
    uniform: TrainConfig  # the plan's size and budget at equal shares
    report: ReportConfig = ReportConfig(title="CodeFlow: from runs to a mixture")

    def with_sources(self, repositories: tuple[str, ...], own_checkout: str, benchmarks: Path | None) -> ScalingRecipe:
        """Add repositories that the user names; the own checkout and benchmarks have no part in this recipe."""
        collect = self.collect.model_copy(update={"repositories": repositories})
        return self.model_copy(update={"collect": collect})

    def chain(self) -> list[Stage]:
        """Return the stages in order, wired."""
        v = VERBS
        module = "codeflow.recipes"
        tokens = {"tokens": "pack", "tokenizer": "tokenizer"}
        samples = {"language_samples": "language_samples", "tokenizer": "tokenizer"}
        planned = self.uniform.model_copy(update={"phase": "planned"})
        stages = [
            v["collect"].stage(self.collect),
            v["clean"].stage(self.clean, {"documents": "collect"}),
            v["dedup"].stage(self.dedup, {"documents": "clean"}),
            v["split"].stage(self.split, {"documents": "dedup"}),
            v["tokenizer"].stage(self.tokenizer, {"documents": "split"}),
            Stage(
                "language_samples",
                "samples",
                f"{module}.language_samples:run",
                self.language_samples,
                {"documents": "split"},
                pooled=True,
            ),
            v["pack"].stage(self.pack, samples),
            Stage("sweep", "runs", f"{module}.sweep:run", self.sweep, tokens, pooled=True),
            Stage("law", LAW, "codeflow.scaling.stage:run", self.law, {"runs": "sweep"}),
            Stage(
                "mixture_plan",
                PLAN_KIND,
                "codeflow.scaling.plan:run",
                self.mixture_plan,
                {"law": "law", "tokens": "pack"},
            ),
            v["train"].stage(self.uniform, tokens, "train_uniform", 1),
            v["train"].stage(planned, {**tokens, "mixture": "mixture_plan"}, "train_planned", 1),
        ]
        return [*stages, v["report"].stage(self.report, {stage.name: stage.name for stage in stages})]


def scaling() -> ScalingRecipe:
    """Return the recipe: three languages, four sizes, three token counts, pairs and all together."""
    sweep = SweepConfig()
    vocab_size, context_tokens = 1024, 256
    size, n_tokens = sweep.sizes[1], 2 * max(sweep.tokens)
    rows = sweep.batch_rows * context_tokens
    return ScalingRecipe(
        collect=CollectConfig(cap_bytes=30_000_000, general_cap_bytes=8_000_000),
        tokenizer=TokenizerConfig(vocab_size=vocab_size, sample_bytes=4 * 2**20),
        pack=PackConfig(context_tokens=context_tokens, least_fill=0),  # rows this short: definitions stay whole
        sweep=sweep,
        mixture_plan=AllocateConfig(
            n_parameters=count_parameters(size.model(vocab_size, context_tokens)).total,
            n_tokens=n_tokens,
            floors=dict.fromkeys(sweep.languages, 0.25),  # transfer is measured at equal parts: see docs/scaling.md
        ),
        uniform=training(sweep, size.model(vocab_size, context_tokens), n_tokens // rows, "uniform"),
    )
