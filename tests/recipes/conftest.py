"""A small run: documents, a tokenizer, two dense checkpoints, a looped one and scores of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from codeflow.core.config import Config
from codeflow.core.manifest import Counts, begin, input_record, seal
from codeflow.core.records import write_records
from codeflow.core.storage import sha256_text, write_bytes, write_text
from codeflow.core.types import Document, Origin, Score
from codeflow.execute import local
from codeflow.model.config import ModelConfig
from codeflow.model.huggingface import ExportSettings, save
from codeflow.model.looped import LoopCoder
from codeflow.tokens import tokenizer
from codeflow.tokens.tokenizer import TokenizerConfig

CONTEXT_TOKENS = 96
SHAPE = ModelConfig(
    vocab_size=400,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=CONTEXT_TOKENS,
    initializer_range=0.3,  # so that greedy continuations wander
)


def finish(folder: Path, metrics: Mapping[str, Any] | None = None) -> Path:
    """Seal what lies in a folder that `begin` was called on."""
    seal(folder, Counts(read=1, kept=1), metrics)
    return folder


def start(folder: Path, kind: str, inputs: Mapping[str, Path]) -> Path:
    """Begin an artifact."""
    begin(folder, kind, Config(), {name: input_record(path) for name, path in inputs.items()}, folder.name)
    return folder


def _document(path: str, text: str, language: str, licence: str) -> Document:
    origin = Origin("package", "shop 1.0", "1", path, licence, "2024-01-01T00:00:00Z")
    return Document(sha256_text(text), text, language, origin)


def _checkpoint(folder: Path, shape: ModelConfig, seed: int, inputs: Mapping[str, Path], metrics: Any) -> Path:
    start(folder, "checkpoint", inputs)
    settings = ExportSettings(dtype="bfloat16", bos_token_id=1, eos_token_ids=(2, 4), pad_token_id=0)
    model = LoopCoder(shape, seed)
    if shape.looped:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "gate" in name:
                    parameter.normal_(0, 1, generator=torch.Generator().manual_seed(seed))
    save(model, folder / "model", settings)
    text = (inputs["tokenizer"] / "tokenizer.json").read_bytes()
    write_bytes(folder / "model" / "tokenizer.json", text)
    return finish(folder, metrics)


def _score(benchmark: str, checkpoint: str, value: float, subset: str = "") -> Score:
    return Score(benchmark, "pass@1", subset, value, value - 0.01, value + 0.02, 34, 1, checkpoint, {"samples": "4"})


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the run."""
    run = tmp_path_factory.mktemp("run")
    start(run / "split", "documents", {})
    code = "".join(f"def area_{n}(width, height):\n    return width * height + {n}\n\n\n" for n in range(40))
    documents = [
        _document("a.py", code, "Python", "MIT"),
        _document("b.py", code[: len(code) // 2], "Python", ""),
        _document("c.md", "# Shop | <b>\n\nAreas of things, ünïcode.\n", "Markdown", "X|Y <b>\nZ"),
    ]
    write_records(run / "split" / "documents-00000.parquet", documents, Document)
    finish(run / "split")
    start(run / "tokenizer", "tokenizer", {"documents": run / "split"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "default_workers", lambda: 1)
        tokenizer.run(TokenizerConfig(vocab_size=320), {"documents": run / "split"}, run / "tokenizer")
    start(run / "pack", "tokens", {"tokenizer": run / "tokenizer", "documents": run / "split"})
    write_text(run / "pack" / "index.json", "{}")
    tokens = {"tokens": finish(run / "pack"), "tokenizer": run / "tokenizer"}
    sets = {"code": {"tokens": 300, "rows": 3}, "general": {"tokens": 100, "rows": 1}}
    general = {"phase": "general", "steps": 5, "tokens": 400, "tokens_in_all": 400, "sets": sets}
    _checkpoint(run / "train_general", SHAPE, 1, tokens, general)
    code_inputs = {**tokens, "parent": run / "train_general"}
    sets = {"code": {"tokens": 600, "rows": 6}, "evolution": {"tokens": 0, "rows": 0}}
    code_facts = {"phase": "code", "steps": 7, "tokens": 600, "tokens_in_all": 1000, "sets": sets}
    _checkpoint(run / "train_code", SHAPE, 2, code_inputs, code_facts)
    looped = SHAPE.model_copy(update={"loop_num": 2, "loop_window_size": 5})
    loop_inputs = {"checkpoint": run / "train_code", "tokenizer": run / "tokenizer"}
    _checkpoint(run / "loop", looped, 3, loop_inputs, {"phase": "instruct", "sets": {"instruct": {"tokens": 9}}})
    start(run / "evaluate", "scores", {"code": run / "train_code", "documents": run / "split"})
    scores = [_score("micro_tasks", "code", 0.25), _score("micro_tasks", "other", 0.75)]
    scores.append(_score("micro_tasks", "code", 0.5, "easy"))
    write_records(run / "evaluate" / "scores-00000.parquet", scores, Score)
    finish(run / "evaluate")
    return run


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """Tiny tensors gain nothing from threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
