"""tau-bench (Yao et al. 2024, github.com/sierra-research/tau-bench, MIT): its metrics, on results of its own runner.

Not covered: the conversations. They need the official environments and a model that plays the user; run those and give
the results file here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codeflow.eval.benchmark import read_rows
from codeflow.eval.metrics import pass_hat_k

_DONE = 1e-6  # how far from 1 a reward may lie


def read_results(path: Path) -> dict[int, list[bool]]:
    """Return for each task which trials succeeded. Raises UserError when the file is not one of the official runner."""
    found: dict[int, list[bool]] = {}
    for row in read_rows(path, {"task_id": int, "reward": (int, float)}, "tau-bench results"):
        found.setdefault(row["task_id"], []).append(abs(row["reward"] - 1) <= _DONE)
    return found


def pass_hat(results: dict[int, list[bool]], ks: Sequence[int] = ()) -> dict[int, float]:
    """Return pass^k over tasks for each k (default: 1 to the most trials); tasks with fewer trials are left out."""
    most = max((len(trials) for trials in results.values()), default=0)
    scores: dict[int, float] = {}
    for k in ks or range(1, most + 1):
        values = [pass_hat_k(len(t), sum(t), k) for t in results.values() if len(t) >= k]
        if values:
            scores[k] = sum(values) / len(values)
    return scores
