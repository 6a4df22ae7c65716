"""Metrics that any benchmark can ask for: what the judged samples of one task add to a score.

Samples that failed for reasons of the surroundings never get here.
"""

from __future__ import annotations

from collections.abc import Sequence

from codeflow.eval.benchmark import Judgement, Metric
from codeflow.eval.metrics import Share, pass_at_k, pass_hat_k


def pass_at(k: int, key: str = "") -> Metric:
    """Unbiased pass@k; of the value `key` (1 or 0) instead of the verdict, where one is given."""

    def share(samples: Sequence[Judgement]) -> Share | None:
        if len(samples) < k:
            return None
        right = sum(bool(one.values.get(key)) if key else one.passed for one in samples)
        return Share(pass_at_k(len(samples), right, k), 1.0)

    return Metric(f"{key}_pass@{k}" if key else f"pass@{k}", share)


def pass_hat(k: int) -> Metric:
    """The chance that k samples all pass (Yao et al. 2024), unbiased."""

    def share(samples: Sequence[Judgement]) -> Share | None:
        if len(samples) < k:
            return None
        return Share(pass_hat_k(len(samples), sum(one.passed for one in samples), k), 1.0)

    return Metric(f"pass^{k}", share)


def mean(key: str) -> Metric:
    """The mean over tasks of the mean over samples of the value `key`; samples without it do not count."""

    def share(samples: Sequence[Judgement]) -> Share | None:
        values = [one.values[key] for one in samples if key in one.values]
        return Share(sum(values) / len(values), 1.0) if values else None

    return Metric(key, share)


def accuracy(name: str = "accuracy") -> Metric:
    """The share of samples that passed."""
    return Metric(name, lambda samples: Share(sum(one.passed for one in samples) / len(samples), 1.0))
