"""Make tests/train/golden_curve*.json: the losses of 20 steps of tiny models in fp32 on synthetic tokens.

    python scripts/make_golden_curve.py

`golden_curve.json` is of a dense model, `golden_curve_loop.json` of a looped one whose second pass is ramped up.

The token set is a Markov chain drawn from a fixed seed, so the curve depends on no data and no tokenizer training.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from codeflow.core.manifest import begin
from codeflow.core.metrics import read_metrics
from codeflow.model.config import ModelConfig
from codeflow.tokens.batch import DOCUMENT_START, LOSS
from codeflow.tokens.special import SPECIAL_TOKENS
from codeflow.tokens.token_shard import FLAGS_SUFFIX, IDS_SUFFIX, INDEX, SetIndex, ShardIndex, TokenIndex
from codeflow.tokens.tokenizer import TOKENIZER_FILE, Tokenizer, TokenizerConfig
from codeflow.tokens.tokenizer import train as train_tokenizer
from codeflow.train.config import OptimizerConfig, ScheduleConfig, TrainConfig
from codeflow.train.pretrain import run

_FOLDER = Path(__file__).parents[1] / "tests" / "train"
GOLDEN = {1: _FOLDER / "golden_curve.json", 2: _FOLDER / "golden_curve_loop.json"}  # by number of loops
VOCABULARY = len(SPECIAL_TOKENS) + 256  # bytes only: no merge is learnt
_CHOICES = 3  # successors of a token in the chain


def make_tokenizer(folder: Path) -> Tokenizer:
    """Write a tokenizer of single bytes to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = train_tokenizer([""], TokenizerConfig(vocab_size=VOCABULARY))
    (folder / TOKENIZER_FILE).write_text(text)
    return Tokenizer.load(folder)


def make_tokens(
    folder: Path, tokenizer: Tokenizer, n_rows: int, context_tokens: int, sets: tuple[str, ...] = ("general",)
) -> None:
    """Write a tokens artifact's files: each set is a Markov chain of its own, with about 3 documents in a row."""
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, SetIndex] = {}
    for number, name in enumerate(sets):
        random = np.random.Generator(np.random.PCG64(number))
        successors = random.integers(len(SPECIAL_TOKENS), VOCABULARY, (VOCABULARY, _CHOICES))
        ids = np.empty((n_rows, context_tokens), np.uint32)
        ids[:, 0] = random.integers(len(SPECIAL_TOKENS), VOCABULARY, n_rows)
        for t in range(1, context_tokens):
            ids[:, t] = successors[ids[:, t - 1], random.integers(0, _CHOICES, n_rows)]
        flags = np.full((n_rows, context_tokens), LOSS, np.uint8)
        flags[random.random((n_rows, context_tokens)) < 3 / context_tokens] |= DOCUMENT_START
        flags[:, 0] |= DOCUMENT_START
        ids.tofile(folder / f"{name}-00000{IDS_SUFFIX}")
        flags.tofile(folder / f"{name}-00000{FLAGS_SUFFIX}")
        n_pieces = int(np.count_nonzero(flags & DOCUMENT_START))
        index[name] = SetIndex(
            n_rows=n_rows,
            n_tokens=ids.size,
            n_documents=n_pieces,
            n_cut_documents=0,
            n_pieces=n_pieces,
            n_loss_tokens=ids.size,
            fill=1.0,
            token_multiset_hash="",
            shards=(ShardIndex(name=f"{name}-00000", n_rows=n_rows),),
        )
    tokens = TokenIndex(
        context_tokens=context_tokens,
        vocab_size=tokenizer.vocab_size,
        tokenizer_fingerprint=tokenizer.fingerprint,
        sets=index,
    )
    (folder / INDEX).write_text(tokens.model_dump_json())


def tiny_model() -> ModelConfig:
    """Return the shape that the curve and the tests of training use."""
    return ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        rope_theta=10000.0,
    )


def golden_config(loop_num: int = 1) -> TrainConfig:
    """Return the configuration of a curve: one thread, so that sums have one order."""
    return TrainConfig(
        phase="golden",
        model=tiny_model().model_copy(update={"loop_num": loop_num, "loop_window_size": 8 if loop_num > 1 else 64}),
        second_pass_ramp_steps=5 if loop_num > 1 else 0,
        steps=20,
        batch_rows=4,
        mixture={"general": 1.0},
        schedule=ScheduleConfig(warmup_fraction=0.2, decay_fraction=0.3, end_factor=0.1),
        optimizer=OptimizerConfig(adamw_weight_decay=0.01, muon_weight_decay=0.01),
        precision="fp32",
        z_loss=1e-4,
        validation_rows=4,
        n_threads=1,
    )


def golden_losses(folder: Path, loop_num: int = 1) -> list[float]:
    """Train in `folder` and return the losses of all steps."""
    tokenizer = make_tokenizer(folder / "tokenizer")
    make_tokens(folder / "tokens", tokenizer, n_rows=64, context_tokens=64)
    config, output = golden_config(loop_num), folder / "golden"
    begin(output, "checkpoint", config, {}, "golden")
    run(config, {"tokens": folder / "tokens", "tokenizer": folder / "tokenizer"}, output)
    return [row["loss"] for row in read_metrics(output / "metrics.jsonl") if "loss" in row]


def main() -> None:
    """Write the golden files."""
    for loop_num, path in GOLDEN.items():
        with tempfile.TemporaryDirectory() as folder:
            losses = golden_losses(Path(folder), loop_num)
        found = {"config": golden_config(loop_num).model_dump(mode="json"), "losses": losses}
        path.write_text(json.dumps(found, indent=2) + "\n")
        print(f"{path.name}: {losses[0]:.4f} -> {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
