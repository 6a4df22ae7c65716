"""The stage `history_labels`: labels from what became of a file's text. No teacher, no look at the text.

    run(config, {commits}, output) -> labels-*.parquet of LabelledDocument, source "history", target "survival"

A version (`version_outcomes`) is labelled 0 where it was fixed soon or reverted, 1 where it outlived `survival_commits`
or a test began to name its functions, and not at all otherwise: too young to tell, or changed for other reasons. Each
repository gives as many 1s as 0s, so that a classifier gains nothing by telling projects or languages apart.

What this is not: a judgement of quality. Files that nobody reads survive too, and much-used files are fixed more often.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.storage import sha256_text
from codeflow.core.types import Change, Commit, Document, Origin
from codeflow.transform.quality_labels import LabelledDocument
from codeflow.transform.version_outcomes import Outcome, is_subject, outcomes

TARGET = "survival"


class HistoryLabelsConfig(Config):
    """When a version has survived, what soon means, in commits of its project, and how many are drawn."""

    survival_commits: int = Field(default=200, ge=1)
    soon_commits: int = Field(default=50, ge=1)
    versions_per_path: int = Field(default=2, ge=1)  # of one file, at most, of each label
    versions_per_repository: int = Field(default=1000, ge=2)  # half of each label, drawn by a hash of (seed, version)
    min_bytes: int = Field(default=300, ge=1)
    max_bytes: int = Field(default=60_000, ge=1)
    balance: bool = True  # as many of one label as of the other from each repository
    seed: int = 0


def label_of(outcome: Outcome, survival_commits: int) -> float | None:
    """Return 0, 1, or None where nothing follows."""
    if outcome.fixed_soon or outcome.reverted:
        return 0.0
    return 1.0 if outcome.survived_commits >= survival_commits or outcome.n_tests_gained else None


def run(config: HistoryLabelsConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Label versions of code files in `inputs["commits"]`.

    Counts: versions; dropped `no_label` (too young, or changed for other reasons), `not_drawn`, and `size` or
    `generated`, which are seen when the text is read. Notes: what the labels of those kept are made of.
    Metrics: labels per repository.
    """
    from codeflow.core.records import read_shards, write_records

    commits = inputs["commits"]
    chosen, dropped = _choose(outcomes(read_shards(commits, "commits", Commit), config.soon_commits), config)
    read = sum(dropped.values()) + len(chosen)
    notes: Counter[str] = Counter()
    by_repository: dict[str, Counter[str]] = defaultdict(Counter)

    def kept() -> Iterator[LabelledDocument]:
        for item in _with_text(read_shards(commits, "commits", Commit), chosen, config, dropped):
            notes.update({name: int(value > 0) for name, value in item.facts.items() if name != "survived_commits"})
            notes["survived"] += item.facts["survived_commits"] >= config.survival_commits
            by_repository[item.document.origin.repository][f"{item.targets[TARGET]:.0f}"] += 1
            yield item

    n_kept = write_records(output / "labels-00000.parquet", kept(), LabelledDocument)
    reasons = {reason: n for reason, n in sorted(dropped.items()) if n}
    counts = Counts(read=read, kept=n_kept, dropped=reasons, notes=dict(sorted(notes.items())))
    return seal(output, counts, {"labels": {name: dict(sorted(n.items())) for name, n in by_repository.items()}})


def _rank(outcome: Outcome, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{outcome.repository}/{outcome.path}/{outcome.sha}".encode()).hexdigest()


def _choose(
    found: Iterator[Outcome], config: HistoryLabelsConfig
) -> tuple[dict[tuple[str, str, str], tuple[Outcome, float]], Counter[str]]:
    """Return the drawn versions by (repository, sha, path), and what was left out by reason."""
    dropped: Counter[str] = Counter()
    groups: dict[tuple[str, float], list[tuple[str, Outcome]]] = defaultdict(list)
    for outcome in found:
        label = label_of(outcome, config.survival_commits)
        if label is None:
            dropped["no_label"] += 1
        else:
            groups[outcome.repository, label].append((_rank(outcome, config.seed), outcome))
    chosen: dict[tuple[str, str, str], tuple[Outcome, float]] = {}
    for repository in sorted({repository for repository, _ in groups}):
        sides = {label: _per_path(groups[repository, label], config) for label in (0.0, 1.0)}
        n_most = config.versions_per_repository // 2
        if config.balance:
            n_most = min(n_most, *map(len, sides.values()))
        for label, outcomes_drawn in sides.items():
            for outcome in outcomes_drawn[:n_most]:
                chosen[repository, outcome.sha, outcome.path] = (outcome, label)
            dropped["not_drawn"] += len(groups[repository, label]) - len(outcomes_drawn[:n_most])
    return chosen, dropped


def _per_path(ranked: list[tuple[str, Outcome]], config: HistoryLabelsConfig) -> list[Outcome]:
    """Return the versions in the order of their ranks, at most so many of one path."""
    seen: Counter[str] = Counter()
    result = []
    for _, outcome in sorted(ranked, key=lambda pair: pair[0]):
        seen[outcome.path] += 1
        if seen[outcome.path] <= config.versions_per_path:
            result.append(outcome)
    return result


def _with_text(
    commits: Iterator[Commit],
    chosen: Mapping[tuple[str, str, str], tuple[Outcome, float]],
    config: HistoryLabelsConfig,
    dropped: Counter[str],
) -> Iterator[LabelledDocument]:
    for commit in commits:
        for change in commit.changes:
            pair = chosen.get((commit.repository, commit.sha, change.path))
            if pair is None or change.after is None or not is_subject(change.path):
                continue
            reason = _unfit(change, config)
            if reason:
                dropped[reason] += 1
                continue
            outcome, label = pair
            facts = {
                "survived_commits": float(outcome.survived_commits),
                "fixed_soon": float(outcome.fixed_soon),
                "reverted": float(outcome.reverted),
                "tests_gained": float(outcome.n_tests_gained),
            }
            yield LabelledDocument(_document(commit, change), "history", "code", {TARGET: label}, facts)


def _unfit(change: Change, config: HistoryLabelsConfig) -> str:
    from codeflow.corpus.detect import is_generated

    content = (change.after or "").encode("utf-8", "surrogatepass")
    if not config.min_bytes <= len(content) <= config.max_bytes:
        return "size"
    return "generated" if is_generated(change.path, content) else ""


def _document(commit: Commit, change: Change) -> Document:
    from codeflow.corpus.detect import language_of

    text = change.after or ""
    language = language_of(change.path, text.encode("utf-8", "surrogatepass"))
    origin = Origin("git", commit.repository, commit.sha, change.path, "", commit.author_time)
    return Document(sha256_text(text), text, language, origin)
