"""What a benchmark is, and where its files are looked for: none is part of this project.

A benchmark is one leaf in `benchmarks/`: it reads the official file, asks, judges, and says what is counted. The runner
(`benchmark_run.py`) knows nothing of any of them.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from codeflow.core.errors import UserError
from codeflow.core.storage import atomic_path, sha256_file, sha256_text

if TYPE_CHECKING:
    from codeflow.eval.holes import Hole
    from codeflow.eval.metrics import Share
    from codeflow.tokens.chat import Message

BENCHMARKS_VARIABLE = "CODEFLOW_BENCHMARKS"
_CACHE = Path("~/.cache/codeflow/benchmarks")
Style = Literal["chat", "text"]


@dataclass(frozen=True, slots=True)
class BenchmarkFile:
    """An official benchmark file or folder: its place under the benchmarks folder, where to get it, its licence."""

    name: str
    relative_path: str
    source: str
    licence: str

    def find(self, folder: Path | None) -> Path | None:
        """Return its path, or None where there is no folder or nothing of that name in it."""
        path = folder / self.relative_path if folder else None
        return path if path and path.exists() else None

    def absence(self, folder: Path | None) -> str:
        """Return one line that says what is missing and how to get it."""
        place = f"{folder}/{self.relative_path} is not there" if folder else f"{BENCHMARKS_VARIABLE} is not set"
        return f"{self.name}: {place}; get it from {self.source} ({self.licence}) as {self.relative_path}"


HUMANEVAL = BenchmarkFile("humaneval", "humaneval/HumanEval.jsonl.gz", "github.com/openai/human-eval", "MIT")
CRUXEVAL = BenchmarkFile("cruxeval", "cruxeval/cruxeval.jsonl", "github.com/facebookresearch/cruxeval", "MIT")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a benchmark is sampled; a leaf's default is what was published. Temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    max_new_tokens: int = 1024


@dataclass(frozen=True, slots=True)
class Problem:
    """One question. `gold` is an output that must pass, None where the benchmark has none."""

    id: str
    messages: tuple[Message, ...]  # what a chat model is asked
    text: str  # what a base model continues; "" where the benchmark has no such form
    gold: str | None
    data: Mapping[str, Any] = field(default_factory=dict)  # what the judge needs
    subsets: tuple[str, ...] = ()  # languages, levels, categories
    stop: tuple[str, ...] = ()  # texts at which a continuation ends
    hole: Hole | None = None  # what a base model fills instead of going on with `text`, which is how that reads


@dataclass(frozen=True, slots=True)
class Attempt:
    """The outputs of one conversation, one for each try so far. `style` is how it was asked."""

    problem: Problem
    outputs: tuple[str, ...]
    style: Style = "chat"

    @property
    def output(self) -> str:
        """The last output."""
        return self.outputs[-1]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the judge says of an attempt. `fault` is "", "model" or "infrastructure"; the latter is never scored."""

    passed: bool
    reason: str = ""
    fault: str = ""
    values: Mapping[str, float] = field(default_factory=dict)  # further numbers, by the name of their metric
    sandbox: str = ""  # how the run ended, "" where nothing was run
    backend: str = ""

    @classmethod
    def of(cls, passed: bool, reason: str = "", **values: float) -> Judgement:
        """Return the judgement of a rule that needs no run."""
        return cls(passed, "passed" if passed else reason, "" if passed else "model", values)


@dataclass(frozen=True, slots=True)
class Metric:
    """A number over tasks. `share` is what the judged samples of one task add to it, None for nothing."""

    name: str
    share: Callable[[Sequence[Judgement]], Share | None]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One leaf. `load` gets the paths of `files`, `judge` many attempts and the number of sandboxes at once."""

    name: str
    files: tuple[BenchmarkFile, ...]
    scorer: str  # name and version of the judge: judgements of another are made again
    sampling: Sampling
    metrics: tuple[Metric, ...]
    load: Callable[[Sequence[Path]], list[Problem]]
    judge: Callable[[Sequence[Attempt], int], list[Judgement]]
    style: Style = "chat"  # how it is asked unless one says otherwise
    tries: int = 1
    follow_up: Callable[[Attempt, Judgement], str] | None = None  # the message before the next try
    conversation: bool = False  # tries are steps: a judgement without fault that has not passed goes on to the next
    transfer_from: str = ""  # a language among the subsets, to whose score those of the others are held


def benchmarks_folder(field: str | None) -> Path | None:
    """Return the folder of benchmark files: the field, else `CODEFLOW_BENCHMARKS`, else None.

    Raises UserError when the folder that was named does not exist.
    """
    named = field or os.environ.get(BENCHMARKS_VARIABLE) or ""
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        origin = "field benchmarks" if field else BENCHMARKS_VARIABLE
        raise UserError(f"{origin}={named}: no such folder; name one that holds benchmark files, or none")
    return folder


def locate(file: BenchmarkFile, named: str | None) -> Path:
    """Return where a benchmark file lies, `named` being the folder or an fsspec url of it.

    A file behind a url is fetched once into the cache. Raises UserError that says where to get what is not there.
    """
    place = named or os.environ.get(BENCHMARKS_VARIABLE) or ""
    if "://" in place:
        return _fetched(file, place)
    folder = benchmarks_folder(named)
    path = file.find(folder)
    if path is None:
        raise UserError(file.absence(folder))
    return path


def _fetched(file: BenchmarkFile, place: str) -> Path:
    import fsspec

    url = f"{place.rstrip('/')}/{file.relative_path}"
    path = _CACHE.expanduser() / sha256_text(place)[:16] / file.relative_path
    if path.exists():
        return path
    try:
        system, remote = fsspec.url_to_fs(url)
        with atomic_path(path) as temporary:
            system.get(remote, str(temporary), recursive=system.isdir(remote))
    except (OSError, ImportError, ValueError) as error:
        raise UserError(
            f"{file.name}: {url} cannot be read ({error}); get it from {file.source} ({file.licence})"
        ) from None
    return path


def read_rows(path: Path, required: Mapping[str, type | tuple[type, ...]], name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of an official file: JSON lines, perhaps compressed by gzip, or one JSON list.

    Raises UserError naming the row when a required field is missing or of another type.
    """
    advice = f"get the official file of {name} again"
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
        is_list = text.lstrip().startswith("[")
        rows = json.loads(text) if is_list else [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); {advice}") from None
    for number, row in enumerate(rows, 1):
        for key, kind in required.items():
            if not isinstance(row, dict) or not isinstance(row.get(key), kind):
                raise UserError(f"{path} row {number}: no field '{key}' as it should be; {advice}")
        yield row


def fingerprint(files: tuple[BenchmarkFile, ...], folder: Path | None) -> str:
    """Return a text that changes whenever one of the files appears, vanishes or changes."""
    found = [(file.name, file.find(folder)) for file in files]
    return " ".join(f"{name}:{sha256_file(path) if path else 'absent'}" for name, path in found)
