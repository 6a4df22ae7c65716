"""The stage `sweep`: a grid of tiny models, every run a row of the table that a scaling law is fitted to.

    run(config, {tokens, tokenizer}, output) -> runs.csv

The grid: every size and every number of tokens for each language alone, and (fewer cells, if so configured) for each
pair in equal parts and for all languages together. A run is a job of `run_shards`: finished ones are skipped after a
kill, and they run on this machine or on a Ray cluster, one core each. Each trains with the ordinary `train` stage,
whose checkpoint is deleted once its losses are read. A row says where it comes from: fingerprints of tokens and
tokenizer, the hash of the run's training configuration, code version, seed.

Every number of tokens has its own whole schedule (warm-up and decay): the losses of one long run's middle would be too
high and bend the law (Hoffmann et al. 2022).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from codeflow import __version__
from codeflow.core.config import Config, canonical_json
from codeflow.core.errors import UserError, suggest
from codeflow.core.manifest import Counts, Manifest, begin, input_record, seal, work_key
from codeflow.core.storage import remove_tree, write_text
from codeflow.execute.local import THIS_MACHINE, LocalPool
from codeflow.execute.pool import Pool
from codeflow.execute.shards import run_shards
from codeflow.model.config import ModelConfig
from codeflow.model.flops import count_parameters, training_flops_per_token
from codeflow.scaling.runs import SHARE
from codeflow.train.config import OptimizerConfig, ScheduleConfig, TrainConfig

RUNS = "runs.csv"
_ROWS, _TRAINING = "rows", "training"
_HEAD_DIM = 16


class Size(Config):
    """The shape of one model of the grid; heads have 16 dimensions, the MLP is 8/3 wide, embedding and head are untied.

    Tied, such small models spend a short run on unlearning that a token predicts itself.
    """

    hidden: int = Field(ge=16, multiple_of=_HEAD_DIM)
    layers: int = Field(ge=1)
    loops: int = Field(default=1, ge=1)

    def model(self, vocab_size: int, context_tokens: int) -> ModelConfig:
        """Return the model's configuration."""
        heads = self.hidden // _HEAD_DIM
        return ModelConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden,
            intermediate_size=-(-8 * self.hidden // 24) * 8,
            num_hidden_layers=self.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=_HEAD_DIM,
            max_position_embeddings=context_tokens,
            tie_word_embeddings=False,
            loop_num=self.loops,
        )


class SweepConfig(Config):
    """The grid and how its models are trained."""

    languages: tuple[str, ...] = Field(default=("Python", "C++", "reStructuredText"), min_length=1)
    sizes: tuple[Size, ...] = (
        Size(hidden=16, layers=1),
        Size(hidden=32, layers=1),
        Size(hidden=48, layers=2),
        Size(hidden=64, layers=2),
    )
    # Beyond these budgets the loss of two-layer models falls faster again, which no power law does (docs/scaling.md).
    tokens: tuple[int, ...] = Field(default=(24_576, 73_728, 221_184), min_length=1)  # of each run, all sets together
    pairs: bool = True
    pair_sizes: tuple[int, ...] = (1, 2)  # which of `sizes`, by place, pairs are run in; empty: all
    together: bool = True  # all languages in equal parts, in the cells of the pairs
    batch_rows: int = Field(default=4, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig(adamw_learning_rate=0.02)  # for every size
    validation_rows: int = Field(default=64, ge=1)
    seed: int = Field(default=0, ge=0)
    workers: int | None = Field(default=None, ge=1)  # runs at a time on this machine; None: one per core

    @model_validator(mode="after")
    def _fits(self) -> SweepConfig:
        if len(set(self.languages)) != len(self.languages):
            raise ValueError(f"languages={self.languages} names one twice; keep one")
        if any(not 0 <= place < len(self.sizes) for place in self.pair_sizes):
            raise ValueError(f"pair_sizes={self.pair_sizes} must be places in sizes, 0 to {len(self.sizes) - 1}")
        return self


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    name: str
    size: Size
    n_tokens: int
    shares: tuple[tuple[str, float], ...]
    config: SweepConfig
    tokens: Path
    tokenizer: Path
    output: Path


def run(config: SweepConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Train the grid in `pool` and write its table. Raises UserError for a language that the tokens do not hold.

    Counts: runs. The manifest's metrics hold the training operations of the whole grid.
    """
    from codeflow.tokens.token_shard import read_index

    sets = read_index(inputs["tokens"]).sets
    for language in config.languages:
        if language not in sets:
            raise UserError(f"no set '{language}' in {inputs['tokens']}{suggest(language, sets)}")
    cells = list(grid(config, inputs, output))
    place = LocalPool(config.workers) if pool == THIS_MACHINE else pool
    counts = run_shards(train_cell, cells, output, "sweep", place)
    rows = [row for cell in cells for row in json.loads((output / _ROWS / f"{cell.name}.json").read_text())]
    write_text(output / RUNS, table(rows))
    for folder in (_ROWS, _TRAINING):
        remove_tree(output / folder)
    flops = sum({row["run"]: row["training_flops"] for row in rows}.values())
    return seal(output, counts, {"runs": len(cells), "rows": len(rows), "training_flops": flops})


def grid(config: SweepConfig, inputs: Mapping[str, Path], output: Path) -> Iterator[Cell]:
    """Yield the cells: each language alone, pairs, all together; the largest first, so that no core is left waiting."""
    alone = [((language, 1.0),) for language in config.languages]
    mixed: list[tuple[tuple[str, float], ...]] = [((i, 0.5), (j, 0.5)) for i, j in combinations(config.languages, 2)]
    if not config.pairs:
        mixed = []
    if config.together and len(config.languages) > 2:
        mixed.append(tuple((language, 1 / len(config.languages)) for language in config.languages))
    places = range(len(config.sizes))
    cells = [(place, n, shares) for place in places for n in config.tokens for shares in alone]
    pair_places = config.pair_sizes or places
    cells += [(place, n, shares) for place in pair_places for n in config.tokens for shares in mixed]
    for place, n, shares in sorted(cells, key=lambda cell: (-cell[0], -cell[1], cell[2])):
        size = config.sizes[place]
        mix = "+".join(language for language, _ in shares)
        name = f"{mix}-h{size.hidden}-l{size.layers}-x{size.loops}-{n}"
        yield Cell(name, size, n, shares, config, inputs["tokens"], inputs["tokenizer"], output)


def training(config: SweepConfig, model: ModelConfig, steps: int, phase: str) -> TrainConfig:
    """Return how a model of the grid is trained; in equal parts of the languages."""
    return TrainConfig(
        phase=phase,
        model=model,
        steps=steps,
        batch_rows=config.batch_rows,
        mixture=dict.fromkeys(config.languages, 1 / len(config.languages)),
        schedule=ScheduleConfig(warmup_fraction=0.1, decay_fraction=0.5, end_factor=0.05),
        optimizer=config.optimizer,
        precision="fp32",
        validation_rows=config.validation_rows,
        checkpoint_every_steps=10**9,  # a run is short: it starts again rather than resuming
        n_threads=1,
        seed=config.seed,
    )


def _training(cell: Cell, vocab_size: int, context_tokens: int) -> TrainConfig:
    """Return the configuration of one run."""
    steps = max(1, round(cell.n_tokens / (cell.config.batch_rows * context_tokens)))
    config = training(cell.config, cell.size.model(vocab_size, context_tokens), steps, cell.name)
    return config.model_copy(update={"mixture": dict(cell.shares)})


def train_cell(cell: Cell) -> Counts:
    """Train one run and write its rows: one per language that it was trained on. Rows that are there stay."""
    path = cell.output / _ROWS / f"{cell.name}.json"
    if path.exists():  # written before a kill that the job's completion did not outlive
        return Counts(read=1, kept=1)
    from codeflow.tokens.token_shard import read_index
    from codeflow.train import pretrain

    index = read_index(cell.tokens)
    config = _training(cell, index.vocab_size, index.context_tokens)
    inputs = {"tokens": input_record(cell.tokens), "tokenizer": input_record(cell.tokenizer)}
    key = work_key("checkpoint", config, inputs)
    folder = cell.output / _TRAINING / cell.name
    begin(folder, "checkpoint", config, inputs, key)
    started = time.monotonic()
    manifest = pretrain.run(config, {"tokens": cell.tokens, "tokenizer": cell.tokenizer}, folder)
    assert config.model is not None
    flops = training_flops_per_token(config.model, index.context_tokens) * manifest.metrics["tokens"]
    shared: dict[str, Any] = {
        "run": cell.name,
        "n_parameters": count_parameters(config.model).total,
        "n_tokens": config.steps * config.batch_rows * index.context_tokens,
        "loss_tokens": manifest.metrics["tokens"],  # without padding and the first token of each document
        "hidden": cell.size.hidden,
        "layers": cell.size.layers,
        "loops": cell.size.loops,
        "steps": config.steps,
        "seed": cell.config.seed,
        "training_flops": flops,
        "seconds": round(time.monotonic() - started, 2),
        "config_sha256": hashlib.sha256(canonical_json(config).encode()).hexdigest()[:16],
        "tokens_fingerprint": inputs["tokens"].fingerprint[:16],
        "tokenizer_fingerprint": inputs["tokenizer"].fingerprint[:16],
        "codeflow_version": __version__,
    }
    shares = dict(cell.shares)
    shared |= {SHARE + language: round(shares.get(language, 0.0), 6) for language in cell.config.languages}
    losses = manifest.metrics["validation_after"]
    rows = [{**shared, "evaluated_on": language, "loss": losses[language]} for language, _ in cell.shares]
    write_text(path, json.dumps(rows))
    remove_tree(folder)
    return Counts(read=1, kept=1)


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as CSV, the columns of the fit first."""
    first = ["run", "n_parameters", "n_tokens", "evaluated_on", "loss"]
    columns = [*first, *(name for name in rows[0] if name not in first)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
