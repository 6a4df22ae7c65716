"""Repository evolution: from the commits of a project to triplets (R_start, P, R_end) (Code-Flow §2).

R_start lies in a middle part of the project's first-parent life; the search goes forward for an R_end such that the
composed patch P is a meaningful development iteration. Every span considered is scored; the best ones that do not
overlap are taken, each choice lowering the novelty and spread of what resembles it. A triplet holds the touched files
only; `origin.revision` is "start..end", so that the rest of the tree can be read from git.

Modes of files stand in the patch alone; a change of nothing but modes is no development.

Not covered: symbolic links and submodules, which the history leaves out, and files that are not UTF-8.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from codeflow.core.config import Config
from codeflow.core.manifest import Counts, Manifest, read_manifest, seal
from codeflow.core.progress import say
from codeflow.core.types import Commit, Origin, Triplet
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool
from codeflow.execute.shards import run_shards
from codeflow.transform.histories import Clock, commits_of, documents_of, holders, life_of
from codeflow.transform.spans import Candidate, Composition, SpanLimits, SpanTargets, Survey


class ScoreWeights(Config):
    """Weights of the scores of a span; their sum need not be 1."""

    size: float = Field(default=1.0, ge=0)
    files: float = Field(default=0.5, ge=0)
    commits: float = Field(default=0.5, ge=0)
    tests: float = Field(default=1.0, ge=0)
    message: float = Field(default=1.5, ge=0)
    parse: float = Field(default=0.5, ge=0)
    coherence: float = Field(default=1.0, ge=0)
    novelty: float = Field(default=1.0, ge=0)  # against the triplets already taken from the repository
    spread: float = Field(default=0.5, ge=0)  # over its subsystems

    @model_validator(mode="after")
    def _some_weight(self) -> ScoreWeights:
        if not any(self.model_dump().values()):
            raise ValueError("all weights are 0; give one score a weight above 0")
        return self


class EvolutionConfig(Config):
    """How triplets are chosen from histories."""

    position: Clock = "order"  # of a commit in the project's life: its number on the first-parent line, or its time
    start_low: float = Field(default=0.4, ge=0, le=1)  # R_start between these positions of the project's life
    start_high: float = Field(default=0.8, ge=0, le=1)
    limits: SpanLimits = SpanLimits()
    targets: SpanTargets = SpanTargets()
    weights: ScoreWeights = ScoreWeights()
    min_score: float = Field(default=0.55, ge=0, le=1)
    max_triplets_per_repository: int = Field(default=1000, ge=1)
    allow_overlap: bool = False  # True: spans of one repository may share commits

    @model_validator(mode="after")
    def _starts_rise(self) -> EvolutionConfig:
        if self.start_low > self.start_high:
            raise ValueError(f"start_low={self.start_low} exceeds start_high={self.start_high}")
        return self


@dataclass(frozen=True, slots=True)
class EvolutionJob:
    """One repository: the work of one shard."""

    name: str
    output: Path
    config: EvolutionConfig
    repository: str
    source: str  # of the triplets' origin
    shards: tuple[Path, ...]  # those with commits of the repository, in order
    documents: Path | None  # artifact of the split, whose held-out documents must not be touched

    @property
    def reads(self) -> str:
        """Say what it reads, for messages."""
        return self.repository


def run(config: EvolutionConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Choose triplets from `commits` into `triplets-*.parquet`, one file per repository that has any.

    Counts: read are the spans considered, dropped by reason, kept the triplets. With the input `documents` (a split),
    no triplet touches a held-out document. No commits give an artifact without files and a remark.
    """
    jobs = _jobs(config, inputs, output)
    counts = run_shards(make_triplets, jobs, output, "evolution", pool) if jobs else Counts()
    found = {job.repository: _n_rows(_file_of(job)) for job in jobs}
    remarks = [f"{name} gave no triplets" for name, n in sorted(found.items()) if n == 0]
    if not jobs:
        remarks = ["there are no commits, so there are no triplets"]
    for remark in remarks:
        say(f"  evolution: {remark}")
    metrics = {"triplets_by_repository": found, "remarks": remarks, **statistics(output)}
    return seal(output, counts, metrics)


def statistics(folder: Path) -> dict[str, Any]:
    """Return quantiles of the triplets' sizes, their scores' means, and how many start in each tenth of a life."""
    import numpy as np

    from codeflow.core.records import read_records, shards

    sizes: dict[str, list[int]] = {"patch_lines": [], "files": [], "commits": [], "patch_characters": []}
    scores: Counter[str] = Counter()
    positions = [0] * 10
    for shard in shards(folder, "triplets"):
        rows: Iterator[Any] = read_records(
            shard, Triplet, ["before", "after", "patch", "messages", "position", "scores"]
        )
        for row in rows:
            before, after = dict(row["before"]), dict(row["after"])
            changed = [line for line in row["patch"].split("\n") if line[:1] in ("+", "-")]
            sizes["patch_lines"].append(sum(not line.startswith(("+++ ", "--- ")) for line in changed))
            sizes["files"].append(len({*before, *after}))
            sizes["commits"].append(len(row["messages"]))
            sizes["patch_characters"].append(len(row["patch"]))
            scores.update(dict(row["scores"]))
            positions[min(int(10 * row["position"]), 9)] += 1
    n = sum(positions)
    if not n:
        return {}
    shares = (0.1, 0.5, 0.9)
    quantiles = {
        name: {f"p{round(100 * q)}": float(np.quantile(values, q)) for q in shares} for name, values in sizes.items()
    }
    means = {name: round(total / n, 4) for name, total in sorted(scores.items())}
    return {"sizes": quantiles, "mean_scores": means, "starts_by_tenth": positions}


def _jobs(config: EvolutionConfig, inputs: Mapping[str, Path], output: Path) -> list[EvolutionJob]:
    described = read_manifest(inputs["commits"]).metrics.get("repositories", {})
    jobs = []
    for number, (name, paths) in enumerate(holders(inputs["commits"]).items()):
        source = "synthetic-git" if described.get(name, {}).get("synthetic") else "git"
        jobs.append(EvolutionJob(f"{number:05d}", output, config, name, source, paths, inputs.get("documents")))
    return jobs


def _file_of(job: EvolutionJob) -> Path:
    return job.output / f"triplets-{job.name}.parquet"


def _n_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return pq.read_metadata(path).num_rows if path.exists() else 0


def survey(job: EvolutionJob) -> tuple[list[Candidate], Counter[str], str]:
    """Return the spans that stand, why others were dropped, and the licence of the repository's files."""
    held_out, licence = documents_of(job.documents, job.repository)
    life = life_of(job.shards, job.repository)
    starts = (job.config.start_low, job.config.start_high)
    walk = Survey(job.config.limits, job.config.targets, starts, held_out, life.reverted)
    dropped: Counter[str] = Counter()
    standing: list[Candidate] = []
    clock = life if job.config.position == "time" else None
    for candidate in walk.candidates(commits_of(job.shards, job.repository, clock)):
        if candidate.reason:
            dropped[candidate.reason] += 1
        else:
            standing.append(candidate)
    return standing, dropped, licence


def make_triplets(job: EvolutionJob) -> Counts:
    """Write the triplets of one repository; return the spans considered and why they were dropped."""
    from codeflow.core.records import write_records

    standing, dropped, licence = survey(job)
    chosen, refused = choose(standing, job.config)
    n_read = len(standing) + dropped.total()
    dropped.update(refused)
    if chosen:
        write_records(_file_of(job), _build(job, chosen, licence), Triplet)
    return Counts(read=n_read, kept=len(chosen), dropped=dict(sorted(dropped.items())))


def choose(standing: Sequence[Candidate], config: EvolutionConfig) -> tuple[list[Candidate], Counter[str]]:
    """Take the best spans one after the other; return them in order of their place, and why others were refused.

    Novelty and spread only fall while spans are taken, so a queue whose head is scored again before it is believed
    gives the same choice as scoring everything again each time.
    """
    selection = _Selection(config.weights)
    refused: Counter[str] = Counter()
    used: set[int] = set()
    queue = [(-selection.total(standing[n], n), c.first, c.last, n) for n, c in enumerate(standing)]
    heapq.heapify(queue)
    while queue:
        _, first, last, number = heapq.heappop(queue)
        if not config.allow_overlap and not used.isdisjoint(range(first, last + 1)):
            refused["overlaps_better_span"] += 1
            continue
        total = selection.total(standing[number], number)
        if total < config.min_score:
            refused["score_too_low"] += 1
        elif len(selection.taken) == config.max_triplets_per_repository:
            refused["repository_has_enough"] += 1
        elif queue and (-total, first, last, number) > queue[0]:
            heapq.heappush(queue, (-total, first, last, number))
        else:
            selection.take(standing[number], number)
            used.update(range(first, last + 1))
    return sorted(selection.taken, key=lambda candidate: (candidate.first, candidate.last)), refused


class _Selection:
    """What is taken so far, and the scores of candidates beside it; each pair is compared once at most."""

    def __init__(self, weights: ScoreWeights) -> None:
        self.taken: list[Candidate] = []
        self._weights = weights.model_dump()
        self._sum = sum(self._weights.values())
        self._subsystems: Counter[str] = Counter()
        self._likeness: dict[int, tuple[int, float]] = {}  # candidate -> how many of `taken` it was held against, most

    def scores(self, candidate: Candidate, number: int) -> dict[str, float]:
        """Return the candidate's scores with those that depend on what is taken, and the weighted total."""
        n, most = self._likeness.get(number, (0, 0.0))
        most = max([most, *(_likeness(candidate, other) for other in self.taken[n:])])
        self._likeness[number] = (len(self.taken), most)
        crowd = self._subsystems[candidate.subsystem]
        scores = {**candidate.scores, "novelty": 1 - most, "spread": 1 / (1 + crowd) ** 0.5}
        scores["total"] = sum(self._weights[name] * score for name, score in scores.items()) / self._sum
        return scores

    def total(self, candidate: Candidate, number: int) -> float:
        """Return the candidate's weighted score beside what is taken."""
        return self.scores(candidate, number)["total"]

    def take(self, candidate: Candidate, number: int) -> None:
        """Add the candidate, with its scores as they are now."""
        self.taken.append(replace(candidate, scores=self.scores(candidate, number)))
        self._subsystems[candidate.subsystem] += 1


def _likeness(left: Candidate, right: Candidate) -> float:
    """Return 0..1: the mean Jaccard likeness of touched paths and of the messages' words."""
    return 0.5 * _jaccard(left.paths, right.paths) + 0.5 * _jaccard(left.words, right.words)


def _jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared) if shared else 0.0


def _build(job: EvolutionJob, chosen: Sequence[Candidate], licence: str) -> Iterator[Triplet]:
    """Read the commits again and yield the triplets of the chosen spans, in order of their ends."""
    waiting = sorted(chosen, key=lambda candidate: candidate.first, reverse=True)
    open_spans: list[tuple[Candidate, Composition, list[Commit]]] = []
    for number, commit in enumerate(commits_of(job.shards, job.repository)):
        while waiting and waiting[-1].first == number:
            open_spans.append((waiting.pop(), Composition(), []))
        for candidate, composition, commits in open_spans:
            composition.add(commit)
            commits.append(commit)
            if candidate.last == number:
                yield triplet(candidate, composition, commits, job.source, licence)
        open_spans = [item for item in open_spans if item[0].last > number]
        if not waiting and not open_spans:
            return


def triplet(
    candidate: Candidate, composition: Composition, commits: Sequence[Commit], source: str, licence: str
) -> Triplet:
    """Make the triplet of a chosen span; the patch is checked to lead from `before` to `after`."""
    from codeflow.transform.patch import apply_patch

    before, after = composition.files()
    patch = composition.patch()
    assert apply_patch(before, patch) == after, f"the patch of {commits[0].sha} to {commits[-1].sha} is wrong"
    first, last = commits[0], commits[-1]
    revision = f"{first.parent}..{last.sha}"
    return Triplet(
        id=hashlib.sha256(f"{first.repository}\0{revision}".encode()).hexdigest(),
        before=before,
        patch=patch,
        after=after,
        messages=tuple(commit.message for commit in commits),
        origin=Origin(source, first.repository, revision, "", licence, last.author_time),
        position=candidate.position,
        scores={name: round(score, 6) for name, score in candidate.scores.items()},
    )
