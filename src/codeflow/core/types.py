"""The things that flow between stages: frozen, JSON-able, one Parquet column per field.

`core/records.py` derives the Parquet schema of each from its annotations, so a field is declared once, here.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Origin:
    """Where something came from. It travels with everything made from it and is never lost."""

    source: str  # what kind of place: "package", "git", "project", ...
    repository: str  # package name with version, repository path or url
    revision: str  # commit sha or package version
    path: str  # path inside the repository
    licence: str  # SPDX expression, or "" where none was found
    fetched_at: str  # ISO 8601 UTC time at which the source put it there (commit time, file time)


@dataclass(frozen=True, slots=True)
class Document:
    """One file or page. `id` is the SHA-256 of its text; `tags` are measurements made on it."""

    id: str
    text: str
    language: str  # a name from core.languages
    origin: Origin
    tags: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DroppedDocument:
    """A document that a stage dropped, kept for audit."""

    document: Document
    operator: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One path changed by a commit. `before` / `after` are None where the file is absent or not text."""

    path: str
    old_path: str  # differs from `path` for a rename
    status: str  # A added, M modified, D deleted, R renamed, T type changed
    before: str | None
    after: str | None
    binary: bool
    old_mode: str = ""  # as git writes them, "100644" or "100755"; "" where the file is absent or nobody asked
    mode: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit against its first parent. `position` is its place in the project's first-parent life, 0..1."""

    repository: str
    sha: str
    parent: str  # "" for a root commit
    author_time: str  # ISO 8601 UTC
    message: str
    changes: tuple[Change, ...]
    position: float


@dataclass(frozen=True, slots=True)
class Triplet:
    """Repository evolution (R_start, P, R_end): the touched files before, the patch, the touched files after."""

    id: str
    before: dict[str, str]
    patch: str
    after: dict[str, str]
    messages: tuple[str, ...]
    origin: Origin
    position: float
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a sample. `role` is "text" (encoded literally) or "special" (one special token by name)."""

    role: str
    text: str
    train: bool = True  # False: these tokens carry no loss


@dataclass(frozen=True, slots=True)
class Sample:
    """What a model is trained on: segments in order. One type for plain text, completion, triplets and chat."""

    id: str
    segments: tuple[Segment, ...]
    origins: tuple[Origin, ...]
    phase: str  # the set it belongs to: "general", "code", "fim_function", "evolution", ...
    difficulty: float = 0.0
    cuts: tuple[int, ...] = ()  # where a long sample is best cut: characters into its text segments, joined; rising


@dataclass(frozen=True, slots=True)
class Prompt:
    """A benchmark's prompt and solution: contamination to be kept out of corpora."""

    id: str
    benchmark: str
    text: str
    solution: str


@dataclass(frozen=True, slots=True)
class Task:
    """Something to solve: messages, limits and a verifier with its data (a JSON text)."""

    id: str
    benchmark: str
    prompt: str
    verifier: str
    data: str  # JSON, what the verifier needs: tests, expected values
    origin: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of one attempt. `fault` is "", "model" or "infrastructure"."""

    passed: bool
    reward: float  # 0..1
    reason: str
    fault: str
    tests_passed: int
    tests_run: int


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer to a task with its verdict. `logprobs` are those of `ids` under the model's distribution."""

    task_id: str
    checkpoint: str
    step: int  # of training; 0 where nothing is being trained
    sample: int  # number within the task's group
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]  # with the token that ended it
    logprobs: tuple[float, ...]
    text: str
    stop_reason: str  # "stop", "length" or "context"
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Turn:
    """A piece of an episode. The ids of all turns of one context, joined, are exactly what the model read and wrote."""

    context: int  # after a summary the next one begins
    role: str  # "prompt" (what was there before the model wrote), "assistant", "tool", "user" or "summary"
    sampled: bool  # the model wrote it: only these ids carry loss
    ids: tuple[int, ...]  # with the template's own tokens; () where the server does not tell
    logprobs: tuple[float, ...]  # of sampled ids, under the model's distribution
    text: str
    exit_code: int | None = None  # of a tool's command
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Episode:
    """A model's whole work on a task, over many turns, with the verdict on what it left."""

    task_id: str
    checkpoint: str
    step: int  # of training; 0 where nothing is being trained
    sample: int  # number within the task's group
    turns: tuple[Turn, ...]
    stop_reason: str  # "submitted", "turns", "seconds", "context", "no call", "infrastructure"
    patch: str  # of the text files that it changed
    seconds: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Score:
    """One number about one checkpoint with its interval. `n_faults` infrastructure faults are counted, not scored."""

    benchmark: str
    metric: str
    subset: str  # "" for the whole benchmark, else a language, level or phase
    value: float
    low: float
    high: float
    n: int
    n_faults: int
    checkpoint: str
    settings: dict[str, str] = field(default_factory=dict)
