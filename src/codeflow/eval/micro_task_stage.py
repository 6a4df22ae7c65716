"""Stage `micro_tasks`: one checkpoint's scores on micro-tasks in the chat format, and nothing else.

    run(config, {checkpoint, tasks, tokenizer}, output) -> scores artifact
        scores-00000.parquet, generations-00000.parquet   as those of `evaluate`

`evaluate` asks the same of many checkpoints in one artifact; this stage is of one, on one core by default, so that
checkpoints are scored beside each other, as soon as each is there, and a new one makes no other be scored again.
Equal seeds sample with equal random numbers, so differences between checkpoints can be taken task by task.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from codeflow.core.config import Config
from codeflow.core.errors import InfrastructureError
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.types import Score
from codeflow.eval.micro_task_scores import NAME, MicroTaskScoresConfig, load_tasks, part


class MicroTasksConfig(Config):
    """What is asked, and how exactly."""

    asked: MicroTaskScoresConfig = MicroTaskScoresConfig()
    seed: NonNegativeInt = 0
    bootstrap_resamples: PositiveInt = 2000
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the weights, as in training
    n_threads: PositiveInt | None = 1  # None: the cores that this process may use


def run(config: MicroTasksConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Score `inputs["checkpoint"]`; its scores carry its folder's name.

    Raises UserError when the split has no tasks, InfrastructureError when no answer could be judged.
    """
    import torch

    from codeflow.core.records import write_records
    from codeflow.eval.records import Generated, Scorer
    from codeflow.model.huggingface import load
    from codeflow.solve.rollout import Source
    from codeflow.tokens.tokenizer import Tokenizer
    from codeflow.train.pretrain import MODEL, threads

    name = inputs["checkpoint"].name
    tasks = load_tasks(inputs["tasks"], config.asked)
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    settings = {
        "seed": config.seed,
        **config.asked.shown(name),
        "tasks": len(config.asked.tasks_of(name, tasks)),
        "dtype": config.dtype,
    }
    texts = {key: str(value) for key, value in settings.items()}
    scorer = Scorer(NAME, name, texts, config.bootstrap_resamples, config.seed)
    with threads(config.n_threads):
        model = load(inputs["checkpoint"] / MODEL, getattr(torch, config.dtype)).eval()
        made = part(Source(model, tokenizer, name, config.seed), tasks, config.asked, scorer)
    n_faults = sum(row.fault == "infrastructure" for row in made.generations)
    if n_faults == len(made.generations):
        raise InfrastructureError(f"no answer of {name} could be judged; `codeflow doctor` says what the sandbox lacks")
    write_records(output / "scores-00000.parquet", made.scores, Score)
    write_records(output / "generations-00000.parquet", made.generations, Generated)
    n = len(made.generations)
    dropped = {"infrastructure fault": n_faults} if n_faults else {}
    return seal(output, Counts(read=n, kept=n - n_faults, dropped=dropped, notes=dict(made.counts)))
