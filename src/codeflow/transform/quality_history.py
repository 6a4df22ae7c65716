"""The stage `history_labels`: labels from what became of a file's text. No teacher, no look at the text.

    run(config, {commits}, output) -> labels-*.parquet of LabelledDocument, source "history", target "survival"

A version (`version_outcomes`) is labelled 0 where it was fixed soon or reverted, 1 where it outlived `survival_commits`
or a test began to name its functions, and not at all otherwise: too young to tell, or changed for other reasons.

Long files have more places to fix, so length alone predicts such a label, and so does the project. Each repository
gives as many 1s as 0s of every octave of size: a classifier gains little by measuring files or by telling projects or
languages apart.

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
    versions_per_repository: int = Field(default=1000, ge=2)  # drawn by a hash of (seed, version)
    min_bytes: int = Field(default=300, ge=1)
    max_bytes: int = Field(default=60_000, ge=1)
    balance: bool = True  # as many of one label as of the other from each repository and octave of size
    seed: int = 0


def label_of(outcome: Outcome, survival_commits: int) -> float | None:
    """Return 0, 1, or None where nothing follows."""
    if outcome.fixed_soon or outcome.reverted:
        return 0.0
    return 1.0 if outcome.survived_commits >= survival_commits or outcome.n_tests_gained else None


def run(config: HistoryLabelsConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Label versions of code files in `inputs["commits"]`.

    Counts: versions; dropped `size`, `no_label` (too young, or changed for other reasons), `not_drawn`, and
    `generated`, which is seen when the text is read. Notes: what the labels of those kept are made of.
    Metrics: labels per repository.
    """
    from codeflow.core.records import read_shards, write_records

    commits = inputs["commits"]
    chosen, dropped = _choose(outcomes(read_shards(commits, "commits", Commit), config.soon_commits), config)
    read = sum(dropped.values()) + len(chosen)
    notes: Counter[str] = Counter()
    by_repository: dict[str, Counter[str]] = defaultdict(Counter)

    def kept() -> Iterator[LabelledDocument]:
        for item in _with_text(read_shards(commits, "commits", Commit), chosen, dropped):
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
    groups: dict[str, list[tuple[str, Outcome, float]]] = defaultdict(list)
    for outcome in found:
        label = label_of(outcome, config.survival_commits)
        if not config.min_bytes <= outcome.n_bytes <= config.max_bytes:
            dropped["size"] += 1
        elif label is None:
            dropped["no_label"] += 1
        else:
            groups[outcome.repository].append((_rank(outcome, config.seed), outcome, label))
    chosen: dict[tuple[str, str, str], tuple[Outcome, float]] = {}
    for repository, ranked in sorted(groups.items()):
        drawn = _drawn(sorted(ranked, key=lambda item: item[0]), config)
        dropped["not_drawn"] += len(ranked) - len(drawn)
        for outcome, label in drawn:
            chosen[repository, outcome.sha, outcome.path] = (outcome, label)
    return chosen, dropped


def _drawn(ranked: list[tuple[str, Outcome, float]], config: HistoryLabelsConfig) -> list[tuple[Outcome, float]]:
    """Return the versions of one repository that are drawn, in the order of their ranks."""
    of_path: Counter[tuple[str, float]] = Counter()
    strata: dict[int, dict[float, list[Outcome]]] = defaultdict(lambda: {0.0: [], 1.0: []})
    for _, outcome, label in ranked:
        of_path[outcome.path, label] += 1
        if of_path[outcome.path, label] <= config.versions_per_path:
            strata[outcome.n_bytes.bit_length() if config.balance else 0][label].append(outcome)
    pairs: list[tuple[tuple[Outcome, float], ...]] = []
    for sides in strata.values():
        if config.balance:
            pairs += [((bad, 0.0), (good, 1.0)) for bad, good in zip(sides[0.0], sides[1.0], strict=False)]
        else:
            pairs += [((outcome, label),) for label, outcomes in sides.items() for outcome in outcomes]
    pairs.sort(key=lambda pair: _rank(pair[0][0], config.seed))
    n_pairs = config.versions_per_repository // (2 if config.balance else 1)
    return [item for pair in pairs[:n_pairs] for item in pair]


def _with_text(
    commits: Iterator[Commit],
    chosen: Mapping[tuple[str, str, str], tuple[Outcome, float]],
    dropped: Counter[str],
) -> Iterator[LabelledDocument]:
    from codeflow.corpus.detect import is_generated

    for commit in commits:
        for change in commit.changes:
            pair = chosen.get((commit.repository, commit.sha, change.path))
            if pair is None or change.after is None or not is_subject(change.path):
                continue
            if is_generated(change.path, change.after.encode("utf-8", "surrogatepass")):
                dropped["generated"] += 1
                continue
            outcome, label = pair
            facts = {
                "survived_commits": float(outcome.survived_commits),
                "fixed_soon": float(outcome.fixed_soon),
                "reverted": float(outcome.reverted),
                "tests_gained": float(outcome.n_tests_gained),
            }
            yield LabelledDocument(_document(commit, change), "history", "code", {TARGET: label}, facts)


def _document(commit: Commit, change: Change) -> Document:
    from codeflow.corpus.detect import language_of

    text = change.after or ""
    language = language_of(change.path, text.encode("utf-8", "surrogatepass"))
    origin = Origin("git", commit.repository, commit.sha, change.path, "", commit.author_time)
    return Document(sha256_text(text), text, language, origin)
