"""A small world to evaluate in: held-out documents, a tokenizer trained on them, models with random weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from codeflow.core.records import write_records
from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin

_ORIGIN = Origin("package", "example 1.0", "1.0", "a.py", "MIT", "2024-01-01T00:00:00Z")


def document(text: str, language: str) -> Document:
    """Return a document of `text`."""
    return Document(sha256_text(text), text, language, _ORIGIN)


def _python(number: int) -> str:
    return (
        f'"""Module {number}."""\n\nimport math\n\n\ndef area_{number}(radius, scale={number}):\n'
        f'    """Return the area."""\n    if radius < 0:\n        raise ValueError("negative radius")\n'
        f"    total = math.pi * radius ** 2 * scale\n    return total\n\n\n"
        f"def twice_{number}(items):\n    found = []\n    for item in items:\n        found.append(item * 2)\n"
        f"    return found\n"
    )


def documents() -> list[Document]:
    """Return held-out documents of two domains and three languages."""
    code = [document(_python(number), "Python") for number in range(8)]
    script = [document(f"function f{n}(x) {{\n  return x + {n};\n}}\n", "JavaScript") for n in range(4)]
    prose = [
        document(f"Chapter {n}\n\nThe quick brown fox jumps over {n} lazy dogs.\n" * 3, "Markdown") for n in range(4)
    ]
    return [*code, *script, *prose]


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> dict[str, Path]:
    """Return folders of documents, a tokenizer and two checkpoints."""
    import torch

    from codeflow.model.config import ModelConfig
    from codeflow.model.huggingface import save
    from codeflow.model.looped import LoopCoder
    from codeflow.tokens.tokenizer import TokenizerConfig, train

    torch.set_num_threads(1)  # two threads on matrices this small wait for each other more than they work
    folder = tmp_path_factory.mktemp("world")
    write_records(folder / "documents/heldout-00000.parquet", documents(), Document)
    (folder / "tokenizer").mkdir()
    text = train([d.text for d in documents()], TokenizerConfig(vocab_size=400))
    (folder / "tokenizer/tokenizer.json").write_text(text)
    for seed, name in enumerate(("first", "second")):
        config = ModelConfig(
            vocab_size=400,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=512,
        )
        save(LoopCoder(config, seed=seed), folder / name / "model")
    return {name: folder / name for name in ("documents", "tokenizer", "first", "second")}


@pytest.fixture
def official() -> Path:
    """Return the folder of benchmark files and verdicts of official scorers; skip where there is none."""
    folder = Path(os.environ.get("CODEFLOW_BENCHMARKS") or "/nowhere")
    if not folder.is_dir():
        pytest.skip("CODEFLOW_BENCHMARKS is not set: no verdicts of official scorers to compare with")
    return folder


@pytest.fixture
def sandbox() -> None:
    """Skip where nothing can be run."""
    from codeflow.sandbox.local import probe

    if probe().problem:
        pytest.skip(probe().problem)
