"""Score the spans of a real history and print the best and the worst with what each score decides.

    python scripts/show_spans.py PATH_OR_URL [--n 20]

Tables in Markdown: the spans that stood, best and worst by the scores that they have by themselves (so without novelty
and spread), and for each score how many of the chosen triplets would change without it. For the evolution page, and for
judging a history before it is used.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from codeflow.core.manifest import begin
from codeflow.core.types import Commit
from codeflow.corpus import git_history
from codeflow.transform.evolution import EvolutionConfig, EvolutionJob, ScoreWeights, choose, survey
from codeflow.transform.histories import commits_of, holders
from codeflow.transform.spans import Candidate

_ALONE = ("size", "files", "commits", "tests", "message", "parse", "coherence")  # scores of a span by itself


def own_score(candidate: Candidate, weights: ScoreWeights) -> float:
    """Return the weighted mean of the scores that do not depend on other spans."""
    of = weights.model_dump()
    return sum(of[name] * candidate.scores[name] for name in _ALONE) / sum(of[name] for name in _ALONE)


def table(candidates: list[Candidate], commits: list[Commit], weights: ScoreWeights) -> str:
    """Return the spans as rows of a Markdown table."""
    lines = [f"| span | score | {' | '.join(_ALONE)} | subject of the last commit |", "|" + "---|" * (len(_ALONE) + 3)]
    for candidate in candidates:
        members = commits[candidate.first : candidate.last + 1]
        subject = members[-1].message.partition("\n")[0][:70]
        scores = " | ".join(f"{candidate.scores[name]:.2f}" for name in _ALONE)
        span = f"{members[0].sha[:8]}..{members[-1].sha[:8]} ({len(members)})"
        lines.append(f"| {span} | {own_score(candidate, weights):.3f} | {scores} | {subject} |")
    return "\n".join(lines)


def changes(standing: list[Candidate], config: EvolutionConfig) -> str:
    """Return how the choice changes when one score's weight is 0."""
    chosen = {(c.first, c.last) for c in choose(standing, config)[0]}
    lines = ["| without | triplets | of them not chosen before |", "|---|--:|--:|", f"| nothing | {len(chosen)} | 0 |"]
    for name in config.weights.model_dump():
        weights = config.weights.model_copy(update={name: 0.0})
        other = {(c.first, c.last) for c in choose(standing, config.model_copy(update={"weights": weights}))[0]}
        lines.append(f"| {name} | {len(other)} | {len(other - chosen)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Score the spans of a real history")
    parser.add_argument("repository")
    parser.add_argument("--n", type=int, default=20)
    arguments = parser.parse_args()
    config = EvolutionConfig()
    with tempfile.TemporaryDirectory() as folder:
        history = git_history.HistoryConfig(repositories=(arguments.repository,))
        begin(Path(folder), "commits", history, {}, "script")
        git_history.run(history, {}, Path(folder))
        ((name, shards),) = holders(Path(folder)).items()
        job = EvolutionJob("00000", Path(folder), config, name, "git", shards, None)
        standing, dropped, _ = survey(job)
        commits = list(commits_of(shards, name))
    print(f"{len(commits)} commits, {len(standing) + dropped.total()} spans considered, {len(standing)} stand\n")
    print("\n".join(f"    {reason:20} {n:6}" for reason, n in dropped.most_common()), end="\n\n")
    ranked = sorted(standing, key=lambda candidate: -own_score(candidate, config.weights))
    print("## Best\n\n" + table(ranked[: arguments.n], commits, config.weights))
    print("\n## Worst\n\n" + table(ranked[-arguments.n :], commits, config.weights))
    print("\n## What each score changes\n\n" + changes(standing, config))


if __name__ == "__main__":
    main()
