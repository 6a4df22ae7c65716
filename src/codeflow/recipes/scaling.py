"""The recipe `scaling`: local files -> one set of tokens per language -> a grid of tiny models -> a law with intervals.

What `codeflow scaling sweep` runs. The languages are those that every installation has: Python, the C++ headers and the
reStructuredText of installed packages. It shows the road on a laptop; its law is of models of 0.04 to 0.9 million
parameters and must not be carried over to large ones.
"""

from __future__ import annotations

from pathlib import Path

from codeflow.core.config import Config
from codeflow.corpus.collect import CollectConfig
from codeflow.execute.chain import Stage
from codeflow.recipes.language_samples import LanguageSamplesConfig
from codeflow.recipes.sweep import SweepConfig
from codeflow.recipes.verbs import VERBS
from codeflow.scaling.stage import KIND as LAW
from codeflow.scaling.stage import FitConfig
from codeflow.tokens.pack import PackConfig
from codeflow.tokens.tokenizer import TokenizerConfig
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
        return [
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
            ),
            v["pack"].stage(self.pack, samples),
            Stage("sweep", "runs", f"{module}.sweep:run", self.sweep, tokens),
            Stage("law", LAW, "codeflow.scaling.stage:run", self.law, {"runs": "sweep"}),
        ]


def scaling() -> ScalingRecipe:
    """Return the recipe: three languages, four sizes, three token counts, pairs and all together."""
    return ScalingRecipe(
        collect=CollectConfig(cap_bytes=30_000_000, general_cap_bytes=8_000_000),
        tokenizer=TokenizerConfig(vocab_size=1024, sample_bytes=4 * 2**20),
        pack=PackConfig(context_tokens=256),
    )
