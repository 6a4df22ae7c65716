"""Repository-level samples: a file to complete, behind other files of its repository (Code-Flow §2, §3).

    <|repo_name|>{repo_name}
    <|file_sep|>{path1}
    {content1}
    <|file_sep|>{path of the target}
    <|fim_prefix|>{pre}<|fim_suffix|>{suf}<|fim_middle|>{mid}<|im_end|>

A share of the targets is not split: there the last file stands whole and ends with `<|endoftext|>`, or, where it is too
long, as its head with no end.

Context is chosen as an editor could choose it, from what surrounds the hole alone: first files that the target
depends on, then the files that resemble prefix and suffix most (BM25 over identifiers, or the vectors of an encoder).
A file gives one snippet: the whole of it where it is short, else its best-matching run of lines. Snippets stand in
dependency order, the most similar last. A snippet that holds the middle, spaces aside, is never used.

Not covered: context from other repositories; dependency order of languages that `imports` does not resolve.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt, model_validator

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.languages import domain_of
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.progress import say
from codeflow.core.types import Document, Sample, Segment
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool
from codeflow.execute.shards import run_shards
from codeflow.tokens.special import END_OF_TEXT, FILE_SEP, REPO_NAME
from codeflow.transform.embedding import BUILT_IN
from codeflow.transform.fim import FimConfig, Source, generator, segments, window

if TYPE_CHECKING:
    from codeflow.transform.imports import ImportGraph

SET = "repository"
_LEVELS = {"function": 0.4, "statement": 0.3, "random_line": 0.3}
_MARKUP_TOKENS = 2  # `<|file_sep|>` and a line break, per file


class RepoContextConfig(Config):
    """How targets are drawn and how much context they get."""

    seed: int = 0
    target_rate: float = Field(default=1.0, ge=0, le=1)  # share of the code documents that become targets
    fim_share: float = Field(default=0.5, ge=0, le=1)  # of the targets; the others stand whole
    fim: FimConfig = FimConfig(levels=_LEVELS, min_middle_characters=16, max_middle_characters=2000)  # of the target
    context_characters: PositiveInt = 12_000  # of all snippets together, paths included
    snippet_characters: PositiveInt = 3_000  # longer files give a run of lines
    dependency_share: float = Field(default=0.6, ge=0, le=1)  # of the context, at most, for files depended on
    max_files: PositiveInt = 8  # of context
    max_sample_tokens: PositiveInt | None = None  # of the whole sample; needs the input `tokenizer`
    similarity: Literal["bm25", "embedding"] = "bm25"
    encoder: str = BUILT_IN  # of "embedding": module:name of what has encode(texts) -> (n, d)
    shard_bytes: PositiveInt = 4_000_000  # of text per job; a repository is never divided

    @model_validator(mode="after")
    def _middle_can_be_told(self) -> RepoContextConfig:
        if self.fim.min_middle_characters < 8:
            raise ValueError(
                f"fim.min_middle_characters={self.fim.min_middle_characters}: so short a middle is in most files by "
                "chance, and none could be context; set at least 8"
            )
        return self


@dataclass(frozen=True, slots=True)
class RepoContextJob:
    """Some whole repositories, and the shards in which their documents lie."""

    number: int
    repositories: tuple[tuple[str, str], ...]  # (source, repository)
    shards: tuple[Path, ...]
    tokenizer: Path | None
    config: RepoContextConfig
    output: Path

    @property
    def name(self) -> str:
        return f"{SET}-{self.number:05d}"

    @property
    def reads(self) -> str:
        """Say what it reads, for messages."""
        return f"{self.repositories[0][1]} and {len(self.repositories) - 1} more repositories"


@dataclass(frozen=True, slots=True)
class Snippet:
    """A run of whole lines of one file."""

    path: str
    text: str
    squeezed: str  # without white space: in it the middle is looked for

    @property
    def n_shown(self) -> int:
        """Number of characters that the snippet adds to a sample, markup aside."""
        return len(self.path) + len(self.text) + 2


def run(config: RepoContextConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Write `repository-NNNNN.parquet` of Sample from `documents` (its training side).

    Counts: read are documents, kept those that are the target of a sample. Raises UserError when `max_sample_tokens` is
    set and no `tokenizer` is among the inputs.
    """
    if config.max_sample_tokens and "tokenizer" not in inputs:
        raise UserError("max_sample_tokens needs the input 'tokenizer'; give one, or set max_sample_tokens=null")
    tokenizer = inputs.get("tokenizer") if config.max_sample_tokens else None
    jobs = _jobs(config, inputs["documents"], tokenizer, output)
    counts = run_shards(make_shard, jobs, output, "repository samples", pool) if jobs else Counts()
    n = counts.notes.get("samples", 0)
    remarks = [] if n else ["set repository is empty: no repository has code files that can be each other's context"]
    for remark in remarks:
        say(f"  repository samples: {remark}")
    levels = {name.removeprefix("level "): k for name, k in counts.notes.items() if name.startswith("level ")}
    sets = {SET: {"samples": n, "characters": counts.notes.get("characters", 0)}}
    return seal(output, counts, {"sets": sets, "levels": levels, "remarks": remarks})


def _jobs(config: RepoContextConfig, documents: Path, tokenizer: Path | None, output: Path) -> list[RepoContextJob]:
    """Divide the repositories into jobs of about `shard_bytes`, those of neighbouring shards together."""
    from codeflow.core.records import read_records, shards

    sizes: Counter[tuple[str, str]] = Counter()
    places: dict[tuple[str, str], list[Path]] = {}
    for shard in shards(documents, "documents"):
        for row in read_records(shard, Document, ["text", "origin"]):
            assert isinstance(row, dict)
            key = (row["origin"]["source"], row["origin"]["repository"])
            sizes[key] += len(row["text"])
            found = places.setdefault(key, [])
            if not found or found[-1] != shard:
                found.append(shard)
    jobs: list[RepoContextJob] = []
    group: list[tuple[str, str]] = []
    ordered = sorted(sizes, key=lambda key: (places[key][0].name, key))
    for i, key in enumerate(ordered):
        group.append(key)
        if i + 1 == len(ordered) or sum(sizes[k] for k in group) >= config.shard_bytes:
            needed = tuple(sorted({shard for k in group for shard in places[k]}))
            jobs.append(RepoContextJob(len(jobs), tuple(group), needed, tokenizer, config, output))
            group = []
    return jobs


def make_shard(job: RepoContextJob) -> Counts:
    """Make the samples of one job's repositories."""
    from codeflow.core.records import read_records, write_records

    wanted = set(job.repositories)
    groups: dict[tuple[str, str], list[Document]] = {key: [] for key in job.repositories}
    for shard in job.shards:
        for document in read_records(shard, Document):
            key = (document.origin.source, document.origin.repository)
            if key in wanted:
                groups[key].append(document)
    measure = _token_counter(job.tokenizer)
    samples: list[Sample] = []
    tally = Tally()
    for documents in groups.values():
        samples += repository_samples(documents, job.config, tally, measure)
    write_records(job.output / f"{job.name}.parquet", samples, Sample)
    return tally.counts()


def _token_counter(tokenizer: Path | None) -> Callable[[str], int] | None:
    if tokenizer is None:
        return None
    from codeflow.tokens.tokenizer import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    return lambda text: len(loaded.encode_array(text))


class Tally:
    """What became of the documents of a job."""

    def __init__(self) -> None:
        self.read = 0
        self.dropped: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()

    def counts(self) -> Counts:
        """Return the counts of the job."""
        kept = self.read - self.dropped.total()
        dropped, notes = dict(sorted(self.dropped.items())), dict(sorted(self.notes.items()))
        return Counts(read=self.read, kept=kept, dropped=dropped, notes=notes)


def repository_samples(
    documents: Sequence[Document],
    config: RepoContextConfig,
    tally: Tally,
    n_tokens: Callable[[str], int] | None = None,
) -> Iterator[Sample]:
    """Yield the samples of one repository and count what had none, with the reason.

    `n_tokens` counts the tokens of a text; it is needed where `max_sample_tokens` is set.
    """
    tally.read += len(documents)
    code = sorted((d for d in documents if domain_of(d.language) == "code"), key=lambda d: (d.origin.path, d.id))
    tally.dropped["not_code"] += len(documents) - len(code)
    if len({document.origin.path for document in code}) < 2:
        tally.dropped["alone_in_repository"] += len(code)
        tally.dropped = +tally.dropped
        return
    repository = Repository(code, config, n_tokens)
    for document in code:
        if generator(config.seed, document.id, SET, "rate").random() >= config.target_rate:
            tally.dropped["not_drawn"] += 1
            continue
        sample, reason = _sample(document, repository, config, tally)
        if sample is None:
            tally.dropped[reason] += 1
            continue
        tally.notes["samples"] += 1
        tally.notes["characters"] += sum(len(part.text) for part in sample.segments if part.role == "text")
        tally.notes[f"level {sample.id.split('/')[1]}"] += 1
        tally.notes["context files"] += len(sample.origins) - 1
        yield sample
    tally.dropped = +tally.dropped


class Repository:
    """The code of one repository: its snippets, an index of them, and who depends on whom.

    `n_tokens` counts the tokens of a text; every snippet is counted once at most, however many samples consider it.
    """

    def __init__(
        self, code: Sequence[Document], config: RepoContextConfig, n_tokens: Callable[[str], int] | None = None
    ) -> None:
        import numpy as np

        from codeflow.transform.bm25 import Bm25
        from codeflow.transform.embedding import EmbeddingIndex, load_encoder
        from codeflow.transform.imports import ImportGraph

        self.n_tokens = n_tokens
        self._costs: dict[Snippet, int] = {}

        self.documents = {document.origin.path: document for document in code}  # of equal paths the last
        self.snippets = [
            snippet
            for document in self.documents.values()
            for snippet in snippets(document.origin.path, document.text, config.snippet_characters)
        ]
        numbers = {path: number for number, path in enumerate(self.documents)}
        self._files = np.array([numbers[snippet.path] for snippet in self.snippets], np.int64)
        texts = [snippet.text for snippet in self.snippets]
        if config.similarity == "bm25":
            self.scores = Bm25(texts).scores
        else:
            self.scores = EmbeddingIndex(texts, load_encoder(config.encoder)).scores
        go_texts = (document.text for document in self.documents.values() if document.language == "Go")
        graph: ImportGraph = ImportGraph(self.documents, go_texts)
        self.dependencies = {
            path: graph.dependencies(path, document.text, document.language)
            for path, document in self.documents.items()
        }

    def by_similarity(self, target: str, query: str) -> list[Snippet]:
        """Return the best snippet of every other file, best file first; ties in order of path."""
        import numpy as np

        order = np.argsort(-self.scores(query), kind="stable")
        _, first = np.unique(self._files[order], return_index=True)  # of each file its best
        ranked = (self.snippets[i] for i in order[np.sort(first)].tolist())
        return [snippet for snippet in ranked if snippet.path != target]

    def cost_tokens(self, snippet: Snippet) -> int:
        """Return how many tokens the snippet adds to a sample."""
        assert self.n_tokens is not None, "max_sample_tokens needs a counter of tokens"
        if snippet not in self._costs:
            self._costs[snippet] = self.n_tokens(f"{snippet.path}\n{snippet.text}\n") + _MARKUP_TOKENS
        return self._costs[snippet]

    def depended_on(self, target: str) -> list[str]:
        """Return the files that the target imports, then those that they import."""
        direct = self.dependencies[target]
        further = [path for middle in direct for path in self.dependencies[middle]]
        return [path for path in dict.fromkeys([*direct, *further]) if path != target]


def snippets(path: str, text: str, max_characters: int) -> Iterator[Snippet]:
    """Cut a file into runs of whole lines of at most `max_characters`, before lines that are not indented if possible.

    A line that is longer than that is in no snippet.
    """
    lines = text.splitlines(keepends=True)
    start = 0
    while start < len(lines):
        stop, size, top = start, 0, start
        while stop < len(lines) and size + len(lines[stop]) <= max_characters:
            if stop > start and not lines[stop][0].isspace() and size >= max_characters // 2:
                top = stop
            size += len(lines[stop])
            stop += 1
        if stop == start:
            start += 1
            continue
        end = top if stop < len(lines) and top > start else stop
        piece = "".join(lines[start:end])
        if not piece.isspace():
            yield Snippet(path, piece, squeeze(piece))
        start = end


def squeeze(text: str) -> str:
    """Return `text` without white space."""
    return "".join(text.split())


def _sample(
    document: Document,
    repository: Repository,
    config: RepoContextConfig,
    tally: Tally,
) -> tuple[Sample | None, str]:
    """Return the sample of one target, or None and the reason."""
    rng = generator(config.seed, document.id, SET)
    target = _split(document, config) if rng.random() < config.fim_share else _whole(document, config)
    if isinstance(target, str):
        return None, target
    path = document.origin.path
    ranked = repository.by_similarity(path, target.query)
    clean = [snippet for snippet in ranked if not target.hidden or target.hidden not in snippet.squeezed]
    tally.notes["context files left out: they hold the middle"] += len(ranked) - len(clean)
    if not clean:
        return None, "middle_in_every_file" if ranked else "no_context"
    room = None
    if config.max_sample_tokens:
        n_tokens = repository.n_tokens
        assert n_tokens is not None, "max_sample_tokens needs a counter of tokens"
        used = sum(n_tokens(part.text) if part.role == "text" else 1 for part in target.parts)
        header = f"{document.origin.repository}\n{path}\n"
        room = config.max_sample_tokens - used - n_tokens(header) - 2 * _MARKUP_TOKENS
    chosen = _choose(clean, path, repository, config, room)
    if not chosen:
        return None, "no_context_fits"
    ordered = _in_order(chosen, repository)
    shown = [(snippet.path, snippet.text) for snippet in ordered]
    parts = (*context_segments(document.origin.repository, shown, path), *target.parts)
    assert not target.hidden or all(target.hidden not in squeeze(snippet.text) for snippet in ordered)
    origins = (document.origin, *(repository.documents[snippet.path].origin for snippet in ordered))
    return Sample(f"{SET}/{target.level}/{document.id}", parts, origins, SET), ""


@dataclass(frozen=True, slots=True)
class _Target:
    """The last file of a sample. `query` is what context may be chosen by, `hidden` the squeezed middle."""

    level: str
    parts: tuple[Segment, ...]
    query: str
    hidden: str


def _split(document: Document, config: RepoContextConfig) -> _Target | str:
    source, fim = Source(document.text, document.language), config.fim
    rng = generator(config.seed, document.id, SET, "level")
    weights = {level: weight for level, weight in sorted(fim.levels.items()) if weight > 0}
    while weights:
        level = rng.choices(list(weights), list(weights.values()))[0]
        del weights[level]
        draw = generator(config.seed, document.id, SET, level)
        found = source.split(level, draw, fim.min_middle_characters, fim.max_middle_characters)
        if found is None or len(hidden := squeeze(found.middle)) < fim.min_middle_characters // 2:
            continue
        order = "suffix_first" if draw.random() < fim.suffix_first_rate else "prefix_first"
        cut = window(found, fim.max_characters)
        return _Target(level, segments(cut, order), cut.prefix + "\n" + cut.suffix, hidden)
    return "no_place_to_split"


def _whole(document: Document, config: RepoContextConfig) -> _Target | str:
    limit, text = config.fim.max_characters, document.text
    ending: tuple[Segment, ...] = (Segment("special", END_OF_TEXT),)
    if len(text) > limit:
        text, ending = text[: text.rfind("\n", 0, limit) + 1], ()  # where it is cut is no end of a text
        if not text.strip():
            return "whole_target_too_long"
    # The head of the file is all that an editor would know before the rest is written.
    query = text[: len(text) // 4 + 1]
    return _Target("whole" if ending else "head", (Segment("text", text), *ending), query, "")


def _choose(
    ranked: Sequence[Snippet],
    target: str,
    repository: Repository,
    config: RepoContextConfig,
    room_tokens: int | None,
) -> list[Snippet]:
    """Fill the budget: files depended on, up to their share, then by similarity. Returns the most wanted first."""
    by_path = {snippet.path: snippet for snippet in ranked}
    first = [by_path[path] for path in repository.depended_on(target) if path in by_path]
    chosen: dict[str, Snippet] = {}
    used = used_tokens = 0
    for wanted, share in ((first, config.dependency_share), (ranked, 1.0)):
        for snippet in wanted:
            if len(chosen) == config.max_files:
                break
            size = snippet.n_shown
            if snippet.path in chosen or used + size > share * config.context_characters:
                continue
            if room_tokens is not None:
                cost = repository.cost_tokens(snippet)
                if used_tokens + cost > share * room_tokens:
                    continue
                used_tokens += cost
            used += size
            chosen[snippet.path] = snippet
    return list(chosen.values())


def _in_order(chosen: Sequence[Snippet], repository: Repository) -> list[Snippet]:
    from codeflow.transform.imports import in_dependency_order

    by_path = {snippet.path: snippet for snippet in chosen}
    return [by_path[path] for path in in_dependency_order(list(by_path)[::-1], repository.dependencies)]


def context_segments(repository: str, files: Sequence[tuple[str, str]], target: str) -> Iterator[Segment]:
    """Yield what stands before a target: the repository's name, each (path, text) of `files`, the target's path."""
    yield Segment("special", REPO_NAME)
    yield Segment("text", f"{repository}\n")
    for path, text in files:
        ending = "" if text.endswith("\n") else "\n"
        yield Segment("special", FILE_SEP)
        yield Segment("text", f"{path}\n{text}{ending}")
    yield Segment("special", FILE_SEP)
    yield Segment("text", f"{target}\n")
