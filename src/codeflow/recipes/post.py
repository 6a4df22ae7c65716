"""The tiny recipe from the annealed dense model to published checkpoints (Code-Flow §1, §3, §5, §7).

Covered: dense-to-loop fold; two mid-training stages with growing context, for the looped model and, as its control, for
the dense one on the same rows; two post-training paths (instruct, thinking), each supervised fine-tuning and then GRPO;
a Hugging Face directory of every checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping

from codeflow.core.config import Config
from codeflow.execute.chain import Stage
from codeflow.recipes.publish import PublishConfig
from codeflow.recipes.verbs import VERBS
from codeflow.rl.config import GrpoConfig
from codeflow.solve.config import RolloutConfig
from codeflow.synth.reasoning import ReasoningConfig
from codeflow.synth.solutions import SolutionsConfig
from codeflow.synth.tasks import TasksConfig
from codeflow.tokens.mixture import MID_TRAINING_32K, MID_TRAINING_128K, Blend, flatten, with_fresh
from codeflow.tokens.pack import PackConfig
from codeflow.train.config import OptimizerConfig, ScheduleConfig, TrainConfig
from codeflow.train.fold import FoldConfig
from codeflow.transform.fim import FimConfig
from codeflow.transform.repo_context import RepoContextConfig

CONTEXTS = {"stage1": 1024, "stage2": 2048}  # stand in for 32k and 128k
# Sources of the recipe that may be empty here: agent trajectories do not exist yet, a young project has no history.
OPTIONAL_SETS = ("trajectories", "evolution")
# Stage 2 takes about a tenth from rows of stage 1's context that stage 1 has not read (Code-Flow §3): reasoning and
# file level, of which there are enough; `stage1/` tells stage 1's sets from stage 2's own.
FRESH_SHARE = 0.1
FRESH = {"stage1/reasoning": 175.0, "stage1/anneal": 17.5, "stage1/fim": 17.5}
MID_VALIDATION_ROWS = 3  # the same in both stages: what is held out decides the order of the rest


class MidStage(Config):
    """One mid-training stage: the looped model and its dense control see the same rows in the same order."""

    repository: RepoContextConfig
    pack: PackConfig
    dense: TrainConfig
    loop: TrainConfig
    fresh_of: str | None = None  # the stage of whose tokens unread rows are taken too


class PostPath(Config):
    """One post-training path."""

    sft: TrainConfig
    grpo: GrpoConfig


class PostTraining(Config):
    """From the annealed checkpoint to published ones."""

    fold: FoldConfig
    tasks: TasksConfig
    solutions: SolutionsConfig
    reasoning: ReasoningConfig
    stage1: MidStage
    stage2: MidStage
    pack: PackConfig
    instruct: PostPath
    thinking: PostPath
    more_sft: TrainConfig  # what the time of GRPO would give as further SFT on the instruct path
    publish: PublishConfig

    def data(self) -> list[Stage]:
        """Return the stages that make tasks, samples and rows; nothing here waits for a model."""
        v = VERBS
        stages = [
            v["tasks"].stage(self.tasks),
            v["solutions"].stage(self.solutions),
            v["reasoning"].stage(self.reasoning),
        ]
        for name, stage in (("stage1", self.stage1), ("stage2", self.stage2)):
            repository = f"repository_{name}"
            read = {"documents": "split", "tokenizer": "tokenizer"}
            sources = {"samples": "samples", "reasoning": "reasoning", "repository": repository}
            stages.append(v["repository_samples"].stage(stage.repository, read, repository))
            stages.append(v["pack"].stage(stage.pack, {**sources, "tokenizer": "tokenizer"}, f"pack_{name}"))
        return [*stages, v["pack"].stage(self.pack, {"samples": "solutions", "tokenizer": "tokenizer"}, "pack_sft")]

    def training(self) -> list[Stage]:
        """Return the stages from the fold to both paths' ends, each on one core.

        Small batches gain little from a second thread; a second stage beside them gains all of it.
        """
        folded = {"checkpoint": "train_anneal", "tokens": "pack", "tokenizer": "tokenizer"}
        stages = [VERBS["fold"].stage(self.fold, folded, cores=1)]
        parents = {"loop": "fold", "dense": "train_anneal"}
        for name, stage in (("stage1", self.stage1), ("stage2", self.stage2)):
            more = {f"tokens_{stage.fresh_of}": f"pack_{stage.fresh_of}"} if stage.fresh_of else {}
            for kind, config in (("loop", stage.loop), ("dense", stage.dense)):
                stages.append(train_stage(config, f"pack_{name}", parents[kind], f"{kind}_{name}", more))
                parents[kind] = f"{kind}_{name}"
        for name, path in (("instruct", self.instruct), ("thinking", self.thinking)):
            stages.append(train_stage(path.sft, "pack_sft", parents["loop"], f"sft_{name}"))
            stages.append(grpo_stage(path.grpo, f"sft_{name}", f"rl_{name}"))
        return [*stages, train_stage(self.more_sft, "pack_sft", "sft_instruct", "sft_instruct_more")]

    @staticmethod
    def scored() -> dict[str, str]:
        """Return what is scored besides the pre-trained checkpoints: name in the scores -> stage."""
        names = ("dense_stage1", "dense_stage2", "loop_stage1", "loop_stage2")
        chat = ("sft_thinking", "rl_thinking", "sft_instruct", "sft_instruct_more", "rl_instruct")
        return {name: name for name in (*names, *chat)}

    def published(self) -> Stage:
        """Return the stage that publishes every checkpoint of the chain."""
        dense = {"dense-pretrained": "train_code", "dense-annealed": "train_anneal"}
        mid = {f"{kind}-{stage}": f"{kind}_{stage}" for kind in ("dense", "loop") for stage in CONTEXTS}
        ends = {"loop-instruct": "rl_instruct", "loop-thinking": "rl_thinking"}
        read = {"documents": "split", "tokenizer": "tokenizer", "scores": "evaluate"}
        return VERBS["publish"].stage(self.publish, {**read, **dense, **mid, **ends})


def train_stage(
    config: TrainConfig, tokens: str, parent: str, name: str, more: Mapping[str, str] | None = None
) -> Stage:
    """Return a phase on one core that goes on from the stage `parent`; `more` are further inputs."""
    inputs = {"tokens": tokens, "tokenizer": "tokenizer", "parent": parent, **(more or {})}
    return VERBS["train"].stage(config, inputs, name, cores=1)


def grpo_stage(config: GrpoConfig, checkpoint: str, name: str) -> Stage:
    """Return reinforcement learning on one core that goes on from the stage `checkpoint`."""
    return VERBS["grpo"].stage(
        config, {"checkpoint": checkpoint, "tasks": "tasks", "tokenizer": "tokenizer"}, name, cores=1
    )


def mid_mixture(shares: dict[str, float]) -> dict[str, float]:
    """Return set weights from the recipe's table (Code-Flow §3): file level is half completion, replay is stage 1."""
    return flatten(
        {
            "reasoning": shares["reasoning"],
            "trajectories": shares["agent"],
            "evolution": shares["commits"],
            "repository": shares["repository"],  # half completion inside the set
            "file": Blend(weight=shares["file"], of={"anneal": 0.5, "fim": 0.5}),
            "replay": Blend(weight=shares["replay"], of={"general": 0.3, "code": 0.7}),
        }
    )


class Lengths(Config):
    """How long the phases after pre-training are, in steps, and how much is made for them."""

    mid_steps: int
    sft_steps: int
    grpo_steps: int
    more_sft_steps: int  # so many that they take the time of GRPO
    thinking_sft_steps: int
    thinking_grpo_steps: int
    n_sft: int
    n_rl: int
    n_heldout: int
    n_reasoning: int


def post_training(lengths: Lengths) -> PostTraining:
    """Return the second half with the given lengths."""
    mid = lengths.mid_steps
    return PostTraining(
        fold=FoldConfig(mixture={"general": 0.5, "code": 0.5}, n_threads=1),
        # One example, not two, makes the rows a fifth shorter, and so the same time a quarter more tasks.
        tasks=TasksConfig(n_sft=lengths.n_sft, n_rl=lengths.n_rl, n_heldout=lengths.n_heldout, n_visible=1),
        solutions=SolutionsConfig(),
        reasoning=ReasoningConfig(n_programs=lengths.n_reasoning),
        stage1=_mid_stage("stage1", MID_TRAINING_32K, mid),
        stage2=_mid_stage("stage2", MID_TRAINING_128K, mid),
        pack=PackConfig(context_tokens=512, least_fill=0),
        instruct=_path("instruct", lengths.sft_steps, lengths.grpo_steps),
        thinking=_path("thinking", lengths.thinking_sft_steps, lengths.thinking_grpo_steps),
        # Another order than the start's, of all rows; with its seed the phase would go on behind the start's rows.
        more_sft=_sft("sft_instruct_more", {"instruct": 1.0}, lengths.more_sft_steps).model_copy(update={"seed": 1}),
        publish=PublishConfig(),
    )


def _mid_stage(name: str, shares: dict[str, float], steps: int) -> MidStage:
    context = CONTEXTS[name]
    mixture: dict[str, float | Blend] = dict(mid_mixture(shares))
    fresh = FRESH if name == "stage2" else {}
    fim = FimConfig(
        levels={"function": 0.4, "statement": 0.3, "random_line": 0.3},
        min_middle_characters=16,
        max_middle_characters=600,
        max_characters=3 * context // 2,
    )
    common = TrainConfig(
        phase=name,
        steps=steps,
        batch_rows=4096 // context,
        mixture=with_fresh(mixture, FRESH_SHARE, fresh) if fresh else mixture,
        once=tuple(fresh),
        optional_sets=OPTIONAL_SETS,
        inherit_optimizer=False,
        optimizer=OptimizerConfig(muon_learning_rate=0.008, adamw_learning_rate=1.2e-3),
        schedule=ScheduleConfig(warmup_fraction=0.1, decay_fraction=0.5, end_factor=0.2),
        validation_rows=MID_VALIDATION_ROWS,
        n_threads=1,
    )
    ramp = steps // 2 if name == "stage1" else 0
    return MidStage(
        repository=RepoContextConfig(
            max_sample_tokens=context, snippet_characters=800, context_characters=3 * context, fim=fim
        ),
        pack=PackConfig(context_tokens=context, least_fill=0),  # rows this short: definitions stay whole
        dense=common.model_copy(update={"phase": f"dense_{name}"}),
        loop=common.model_copy(update={"phase": f"loop_{name}", "second_pass_ramp_steps": ramp}),
        fresh_of="stage1" if fresh else None,
    )


def _sft(phase: str, mixture: dict[str, float | Blend], steps: int) -> TrainConfig:
    """Return supervised fine-tuning: cosine, with an extended phase at a low rate (Code-Flow §5)."""
    return TrainConfig(
        phase=phase,
        steps=steps,
        batch_rows=4,
        mixture=mixture,
        inherit_optimizer=False,
        optimizer=OptimizerConfig(muon_learning_rate=0.01, adamw_learning_rate=8e-3),
        schedule=ScheduleConfig(warmup_fraction=0.05, decay_fraction=0.75, end_factor=0.1, shape="cosine"),
        n_threads=1,
    )


def _path(name: str, sft_steps: int, grpo_steps: int) -> PostPath:
    thinking = name == "thinking"
    rollout = RolloutConfig(thinking=thinking, max_new_tokens=80)
    if thinking:  # answers are three times as long: fewer at once
        rollout = rollout.model_copy(update={"max_new_tokens": 224, "generate_batch": 64})
    # Few rows at a time, for the memory of what runs beside.
    grpo = GrpoConfig(phase=f"rl_{name}", steps=grpo_steps, rollout=rollout, micro_rows=4, n_threads=1)
    return PostPath(sft=_sft(f"sft_{name}", {name: 1.0}, sft_steps), grpo=grpo)
