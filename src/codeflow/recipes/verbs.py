"""The stages that exist: verb, artifact kind, the function that makes it, its configuration and inputs.

Recipes and the command line share this table. Functions and configurations are named by reference, so that reading
the table imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from codeflow.core.config import Config
from codeflow.execute.chain import Stage


@dataclass(frozen=True)
class Verb:
    """One kind of stage."""

    name: str
    kind: str
    run: str
    config: str
    summary: str
    inputs: tuple[str, ...] = ()
    optional_inputs: tuple[str, ...] = ()  # `*` stands for any characters
    world: str = ""
    example: str = ""  # overrides that the example in the verb's help shows
    processes: bool = False  # may run on many, under torchrun
    pooled: bool = False  # works on shards, in the pool that it is given

    def stage(
        self,
        config: Config,
        inputs: Mapping[str, str] | None = None,
        name: str | None = None,
        cores: int | None = None,
    ) -> Stage:
        """Return a stage of this kind; inputs map this verb's input names to stage names (default: the same).

        `cores` says on how many the configuration computes, so that others may run beside it; None: on all.
        """
        wired = dict(inputs) if inputs is not None else {key: key for key in self.inputs}
        return Stage(name or self.name, self.kind, self.run, config, wired, self.world, cores, self.pooled)


_TABLE = (
    Verb(
        "collect",
        "documents",
        "codeflow.corpus.collect:run",
        "codeflow.corpus.collect:CollectConfig",
        "Collect files of the standard library, installed packages and git repositories as documents.",
        world="codeflow.corpus.collect:world",
        pooled=True,
    ),
    Verb(
        "history",
        "commits",
        "codeflow.corpus.git_history:run",
        "codeflow.corpus.git_history:HistoryConfig",
        "Read the histories of git repositories as commits with both sides' contents.",
        world="codeflow.corpus.git_history:world",
        pooled=True,
    ),
    Verb(
        "web",
        "documents",
        "codeflow.corpus.web:run",
        "codeflow.corpus.web_config:WebConfig",
        "Read WARC and WET files of web crawls as documents: pages as text, and code blocks by language.",
        world="codeflow.corpus.web:world",
        example="files='[\"crawl/*.warc.gz\"]'",
        pooled=True,
    ),
    Verb(
        "files",
        "documents",
        "codeflow.corpus.files:run",
        "codeflow.corpus.files:FilesConfig",
        "Read folders of files, notebooks, Parquet and JSON lines tables, here or at any fsspec URL, as documents.",
        world="codeflow.corpus.files:world",
        example='files=\'["~/src/project", "s3://bucket/stack/*.parquet"]\'',
        pooled=True,
    ),
    Verb(
        "prompts",
        "prompts",
        "codeflow.eval.prompts:run",
        "codeflow.eval.prompts:PromptsConfig",
        "Gather the prompts and solutions of benchmarks, to be kept out of the corpus.",
        world="codeflow.eval.prompts:world",
    ),
    Verb(
        "clean",
        "documents",
        "codeflow.transform.pipeline:run",
        "codeflow.transform.pipeline:CleanConfig",
        "Clean documents, replace secrets, parse, filter with counted reasons, measure quality.",
        ("documents",),
        pooled=True,
    ),
    Verb(
        "clean_web",
        "documents",
        "codeflow.transform.pipeline:run",
        "codeflow.transform.clean_web:CleanWebConfig",
        "Clean pages and code blocks of the web: `clean`, natural language, repetition, boilerplate, symbols.",
        ("documents",),
        example="natural_language.languages='[\"en\"]'",
        pooled=True,
    ),
    Verb(
        "dedup",
        "documents",
        "codeflow.transform.dedup:run",
        "codeflow.transform.dedup:DedupConfig",
        "Drop exact and near duplicates (MinHash-LSH, verified).",
        ("documents",),
        pooled=True,
    ),
    Verb(
        "semantic_dedup",
        "documents",
        "codeflow.transform.semantic_dedup:run",
        "codeflow.transform.semantic_dedup:SemanticDedupConfig",
        "Drop documents that mean the same in other words (embeddings, compared within k-means clusters).",
        ("documents",),
        example="threshold=0.9",
        pooled=True,
    ),
    Verb(
        "decontaminate",
        "documents",
        "codeflow.transform.decontaminate:run",
        "codeflow.transform.decontaminate:DecontaminateConfig",
        "Drop documents that hold benchmark prompts or solutions.",
        ("documents", "prompts"),
        pooled=True,
    ),
    Verb(
        "split",
        "documents",
        "codeflow.transform.split:run",
        "codeflow.transform.split:SplitConfig",
        "Set documents aside for held-out measurements.",
        ("documents",),
        pooled=True,
    ),
    Verb(
        "tokenizer",
        "tokenizer",
        "codeflow.tokens.tokenizer:run",
        "codeflow.tokens.tokenizer:TokenizerConfig",
        "Train a byte-level BPE tokenizer with the recipe's special tokens.",
        ("documents",),
    ),
    Verb(
        "evolution",
        "triplets",
        "codeflow.transform.evolution:run",
        "codeflow.transform.evolution:EvolutionConfig",
        "Choose repository-evolution triplets (before, patch, after) from histories.",
        ("commits", "documents"),
        pooled=True,
    ),
    Verb(
        "evolution_samples",
        "samples",
        "codeflow.transform.evolution_samples:run",
        "codeflow.transform.evolution_samples:EvolutionSamplesConfig",
        "Render triplets with relevant files: transitions, flows of commits, snapshots as control.",
        ("triplets", "commits", "tokenizer"),
        ("documents",),
        pooled=True,
    ),
    Verb(
        "samples",
        "samples",
        "codeflow.transform.samples:run",
        "codeflow.transform.samples:SamplesConfig",
        "Make training samples: plain text, fill-in-the-middle, evolution, annealing.",
        ("documents", "triplets"),
        pooled=True,
    ),
    Verb(
        "levels",
        "samples",
        "codeflow.train.curriculum:run",
        "codeflow.train.curriculum:LevelsConfig",
        "Split sets of samples into easy, medium and hard ones, for a curriculum.",
        ("samples",),
    ),
    Verb(
        "replay",
        "samples",
        "codeflow.train.replay:run",
        "codeflow.train.replay:ReplayConfig",
        "Take the best documents of every language as samples to be mixed into later phases.",
        ("documents",),
    ),
    Verb(
        "pack",
        "tokens",
        "codeflow.tokens.pack:run",
        "codeflow.tokens.pack:PackConfig",
        "Tokenize samples and pack them into rows with document boundaries.",
        ("samples", "tokenizer"),
        ("*",),
        pooled=True,
    ),
    Verb(
        "train",
        "checkpoint",
        "codeflow.train.pretrain:run",
        "codeflow.train.config:TrainConfig",
        "Train one phase: general, code, annealing.",
        ("tokens", "tokenizer"),
        ("parent", "mixture", "tokens_*"),
        processes=True,
    ),
    Verb(
        "mathematics",
        "documents",
        "codeflow.transform.mathematics:run",
        "codeflow.transform.mathematics:MathematicsConfig",
        "Keep the prose with formulas, its formulas as TeX in one notation.",
        ("documents",),
    ),
    Verb(
        "annotate",
        "labels",
        "codeflow.transform.quality_annotate:run",
        "codeflow.transform.quality_annotate:AnnotateConfig",
        "Have a teacher model grade documents twice on a rubric; keep agreement and disagreements.",
        ("documents",),
    ),
    Verb(
        "history_labels",
        "labels",
        "codeflow.transform.quality_history:run",
        "codeflow.transform.quality_history:HistoryLabelsConfig",
        "Label file versions by what became of them: survived, gained tests, fixed soon, reverted.",
        ("commits",),
    ),
    Verb(
        "classifier",
        "classifier",
        "codeflow.train.classifier:run",
        "codeflow.train.classifier_config:ClassifierConfig",
        "Train quality proxies on labels and compare them with fastText, by repository, with intervals.",
        ("labels", "tokenizer"),
        ("*",),
    ),
    Verb(
        "score",
        "documents",
        "codeflow.transform.quality_scores:run",
        "codeflow.transform.quality_scores:ScoreConfig",
        "Tag documents with the score of a trained quality proxy.",
        ("documents", "classifier"),
        pooled=True,
    ),
    Verb(
        "fold",
        "checkpoint",
        "codeflow.train.fold:run",
        "codeflow.train.fold:FoldConfig",
        "Make a looped model of a trained dense one and measure the jump of its loss.",
        ("checkpoint", "tokens", "tokenizer"),
    ),
    Verb(
        "tasks",
        "tasks",
        "codeflow.synth.tasks:run",
        "codeflow.synth.tasks:TasksConfig",
        "Make programming micro-tasks with hidden tests, split by composition, each proved by its gold answer.",
    ),
    Verb(
        "solutions",
        "samples",
        "codeflow.synth.solutions:run",
        "codeflow.synth.solutions:SolutionsConfig",
        "Make chat samples of verified solutions, with executed traces for the thinking path.",
        ("tasks",),
    ),
    Verb(
        "reasoning",
        "samples",
        "codeflow.synth.reasoning:run",
        "codeflow.synth.reasoning:ReasoningConfig",
        "Make program-output questions whose traces come from running the programs step by step.",
    ),
    Verb(
        "repository_samples",
        "samples",
        "codeflow.transform.repo_context:run",
        "codeflow.transform.repo_context:RepoContextConfig",
        "Make repository-level samples: a file with context from its own repository.",
        ("documents",),
        ("tokenizer",),
        pooled=True,
    ),
    Verb(
        "pairing",
        "samples",
        "codeflow.transform.pairing:run",
        "codeflow.transform.pairing:PairingConfig",
        "Make parallel samples of aligned translations: direct, prompted, or shuffled as control.",
        ("pairs",),
        pooled=True,
    ),
    Verb(
        "grpo",
        "checkpoint",
        "codeflow.rl.grpo_stage:run",
        "codeflow.rl.config:GrpoConfig",
        "Reinforcement learning with verifiable rewards: GRPO on micro-tasks judged in the sandbox.",
        ("checkpoint", "tasks", "tokenizer"),
    ),
    Verb(
        "evaluate",
        "scores",
        "codeflow.eval.evaluate:run",
        "codeflow.eval.evaluate:EvaluateConfig",
        "Score checkpoints: held-out bits per byte, completion, programs run in the sandbox.",
        ("documents", "tokenizer"),
        ("*",),
        world="codeflow.eval.evaluate:world",
    ),
    Verb(
        "micro_tasks",
        "scores",
        "codeflow.eval.micro_task_stage:run",
        "codeflow.eval.micro_task_stage:MicroTasksConfig",
        "Score one checkpoint on held-out micro-tasks in the chat format.",
        ("checkpoint", "tasks", "tokenizer"),
    ),
    Verb(
        "comparison",
        "comparison",
        "codeflow.recipes.comparison:run",
        "codeflow.recipes.comparison:ComparisonConfig",
        "Compare checkpoints with the ones they were trained from, task by task, as a table.",
        (),
        ("*",),
    ),
    Verb(
        "publish",
        "release",
        "codeflow.recipes.publish:run",
        "codeflow.recipes.publish:PublishConfig",
        "Publish checkpoints as Hugging Face directories with model cards.",
        ("documents", "tokenizer"),
        ("*",),
    ),
    Verb(
        "report",
        "report",
        "codeflow.report.page:run",
        "codeflow.report.page:ReportConfig",
        "Write one self-contained HTML page about a run.",
        (),
        ("*",),
    ),
)

VERBS: Mapping[str, Verb] = {verb.name: verb for verb in _TABLE}
