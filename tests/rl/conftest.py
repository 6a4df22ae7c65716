"""A tiny world for reinforcement learning: a tokenizer, tasks, and a checkpoint that has learnt half of what it needs.

Tasks ask for a function that returns a constant; the model has seen right and wrong answers to them in equal parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from codeflow.core.manifest import Counts, begin, seal
from codeflow.core.records import write_records
from codeflow.core.types import Sample, Task
from codeflow.solve.verify import python_calls_data
from codeflow.tokens.chat import Message, chat_segments

DIGITS = "0123"


def task(digit: str) -> Task:
    """Return the task whose answer is the constant `digit`."""
    data = python_calls_data("f", [(n,) for n in range(4)], [int(digit)] * 4)
    return Task(f"constant/0/{digit}", "micro_tasks", f"Give {digit}.", "python_calls", data, "codeflow")


def sample(number: int, digit: str, answer: str) -> Sample:
    """Return a conversation about a task."""
    messages = (Message("user", f"Give {digit}."), Message("assistant", f"f = lambda n: {answer}"))
    return Sample(f"chat/{number}", chat_segments(messages), (), "instruct")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and sums have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> dict[str, Path]:
    """Return the folders of a checkpoint, tasks and a tokenizer."""
    from codeflow.model.config import ModelConfig
    from codeflow.tokens import pack, tokenizer
    from codeflow.train import pretrain
    from codeflow.train.config import OptimizerConfig, TrainConfig

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("rl")
    samples = [sample(n, d, a) for n, (d, a) in enumerate((d, a) for d in DIGITS for a in (d, d, "9", "8"))] * 8
    words = [segment.text for one in samples for segment in one.segments if segment.role == "text"]

    def made(name: str, kind: str, config, fill) -> Path:
        begin(folder / name, kind, config, {}, "k")
        fill(folder / name)
        return folder / name

    text = tokenizer.train(words, tokenizer.TokenizerConfig(vocab_size=300))
    made("tokenizer", "tokenizer", TrainConfig(), lambda out: _text(out / "tokenizer.json", text))
    made("samples", "samples", TrainConfig(), lambda out: _records(out / "instruct-00000.parquet", samples, Sample))
    tasks = [task(digit) for digit in DIGITS]
    made("tasks", "tasks", TrainConfig(), lambda out: _records(out / "tasks-rl-00000.parquet", tasks, Task))
    packing = pack.PackConfig(context_tokens=64)
    made(
        "tokens",
        "tokens",
        packing,
        lambda out: pack.run(packing, {"samples": folder / "samples", "tokenizer": folder / "tokenizer"}, out),
    )
    model = ModelConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=96,
    )
    sft = TrainConfig(
        phase="sft",
        model=model,
        steps=60,
        batch_rows=8,
        mixture={"instruct": 1.0},
        optimizer=OptimizerConfig(adamw_learning_rate=1e-2),
        validation_rows=0,
        precision="fp32",
        n_threads=1,
    )
    parts = {"tokens": folder / "tokens", "tokenizer": folder / "tokenizer"}
    made("sft", "checkpoint", sft, lambda out: pretrain.run(sft, parts, out))
    return {"checkpoint": folder / "sft", "tasks": folder / "tasks", "tokenizer": folder / "tokenizer"}


def _text(path: Path, text: str) -> None:
    path.write_text(text)
    seal(path.parent, Counts())


def _records(path: Path, records, kind) -> None:
    write_records(path, records, kind)
    seal(path.parent, Counts())
