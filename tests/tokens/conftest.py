"""A small tokenizer, and a function that packs given samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from codeflow.core.manifest import Manifest, begin
from codeflow.core.records import write_records
from codeflow.core.storage import write_text
from codeflow.core.types import Sample, Segment
from codeflow.tokens.pack import PackConfig, run
from codeflow.tokens.special import END_OF_TEXT
from codeflow.tokens.tokenizer import TOKENIZER_FILE, Tokenizer, TokenizerConfig, train

Packed = Callable[..., Manifest]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    sources = (Path(__file__).parents[2] / "src" / "codeflow" / "core").glob("*.py")
    text = train([path.read_text() for path in sources], TokenizerConfig(vocab_size=600))
    write_text(folder / TOKENIZER_FILE, text)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)


def plain(number: int, text: str, phase: str, train: bool = True) -> Sample:
    """A plain document sample."""
    return Sample(f"{phase}/{number}", (Segment("text", text, train), Segment("special", END_OF_TEXT)), (), phase)


@pytest.fixture(scope="session")
def packed(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    def make(
        sets: Mapping[str, Sequence[Sequence[Sample]]], config: PackConfig, output: Path | None = None
    ) -> tuple[Path, Manifest]:
        """Pack `sets` (name -> sample files -> samples); returns the folder and its manifest."""
        samples = tmp_path_factory.mktemp("samples")
        for name, files in sets.items():
            for n, rows in enumerate(files):
                write_records(samples / f"{name}-{n:05d}.parquet", rows, Sample)
        folder = output or tmp_path_factory.mktemp("pack")
        begin(folder, "tokens", config, {}, "k")
        return folder, run(config, {"samples": samples, "tokenizer": tokenizer_folder}, folder)

    return make  # type: ignore[return-value]
