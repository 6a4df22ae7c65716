"""Do the scaling law's intervals keep their promise? Simulated runs with known parameters, fitted like real ones.

For two designs of 60 runs (one language; three languages with mixtures and transfer) and 1 % noise: bias of every
parameter, how often its 95 % interval holds the truth, how often the prediction interval of one larger run holds that
run, and the error of the law's hold-out prediction. Without noise: the largest relative error of a parameter.

    python -m campaigns scaling_coverage --simulations 200 --bootstrap 1000 --table docs/campaigns/scaling_coverage.md
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from codeflow.scaling.estimate import Settings
from codeflow.scaling.fit import Fitted, fit_law
from codeflow.scaling.law import ScalingLaw
from codeflow.scaling.runs import Points

_LOW, _HIGH = 0.93, 0.97
_LARGEST_HOLD_OUT = 0.01
_LARGEST_NOISE_FREE = 1e-3
_LARGEST_BIAS = 0.25  # of a parameter's standard deviation over the simulations


@dataclass(frozen=True)
class Design:
    """A grid of runs, the law that makes their losses, and larger runs to predict."""

    name: str
    law: ScalingLaw
    points: Points  # losses without noise
    larger: Points


def one_language() -> Design:
    """Ten sizes by six token counts of one language, with the parameters of the published Chinchilla refit."""
    law = ScalingLaw(languages=("all",), a=482.01, b=2085.43, alpha_n=(0.3478,), alpha_d=(0.3658,), l_inf=(1.8172,))
    cells = [(n, d, [1.0]) for n in np.geomspace(1e8, 3e9, 10) for d in np.geomspace(2e9, 64e9, 6)]
    larger = [(n, d, [1.0]) for n in (4e9, 8e9) for d in (64e9, 128e9)]
    return Design("one language", law, points_of(law, cells), points_of(law, larger))


def three_languages() -> Design:
    """Sixty runs of three languages: each alone, in pairs, and all together, over six sizes by five token counts."""
    cells = []
    mixes = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]]
    grid = [(n, d) for n in np.geomspace(1e8, 3e9, 6) for d in np.geomspace(2e9, 64e9, 5)]
    for number, (n, d) in enumerate(grid):
        cells += [(n, d, mixes[number % 7]), (n, d, mixes[(number + 3) % 7])]
    law = ScalingLaw(
        languages=("a", "b", "c"),
        parameters_unit=float(np.exp(np.mean(np.log([n for n, _, _ in cells])))),
        tokens_unit=float(np.exp(np.mean(np.log([d for _, d, _ in cells])))),
        a=0.4,
        b=0.5,
        alpha_n=(0.25, 0.35, 0.45),
        alpha_d=(0.3, 0.4, 0.5),
        l_inf=(0.57, 0.4, 0.3),
        kappa=((0, 0.8, 0.3), (0.8, 0, 1.2), (0.3, 1.2, 0)),
    )
    larger = [(n, d, mix) for n in (4e9, 8e9) for d in (64e9, 128e9) for mix in mixes]
    return Design("three languages", law, points_of(law, cells), points_of(law, larger))


def points_of(law: ScalingLaw, cells: list[tuple[float, float, list[float]]]) -> Points:
    """Return runs at `cells` (N, D, shares) with the law's own losses."""
    n, d = (np.array([cell[i] for cell in cells], np.float64) for i in (0, 1))
    shares = np.array([cell[2] for cell in cells], np.float64)
    names = tuple(f"run {i}" for i in range(len(cells)))
    return Points(names, law.languages, n, d, shares, law.loss(n, d, shares))


def noisy(points: Points, noise: float, seed: int) -> Points:
    """Return the runs with normal noise of log loss."""
    factor = np.exp(np.random.default_rng(seed).normal(0.0, noise, len(points)))
    return Points(
        points.names, points.languages, points.n_parameters, points.n_tokens, points.shares, points.loss * factor
    )


def truth(law: ScalingLaw) -> list[float]:
    """Return the law's parameters in the order of a fit."""
    k = len(law.languages)
    pairs = [law.kappa[i][j] for i in range(k) for j in range(i + 1, k)] if law.kappa else []
    return [law.a, law.b, *law.alpha_n, *law.alpha_d, *law.l_inf, *pairs]


@dataclass
class Result:
    """What the simulations of one design gave."""

    names: list[str]
    noise_free: float  # largest relative error of a parameter
    bias: np.ndarray[Any, Any]  # (P,) mean error over the standard deviation of the estimates
    inside: np.ndarray[Any, Any]  # (S, P)
    prediction: float  # share of larger noisy runs inside their interval
    errors: np.ndarray[Any, Any]  # (S,) mean relative error of the predictions of the larger runs, without their noise


def simulate(design: Design, n: int, settings: Settings, noise: float) -> Result:
    """Fit `n` noisy tables of a design."""
    transfer = "pairs" if design.law.kappa else "none"
    exact = np.array(truth(design.law))
    clean = fit_law(design.points, settings, transfer, hold_out_share=0).fit
    noise_free = float(np.abs(np.array([p.value for p in clean.parameters]) / exact - 1).max())
    estimates, inside, caught, errors = [], [], [], []
    for seed in range(n):
        fitted = fit_law(noisy(design.points, noise, seed), settings, transfer, hold_out_share=0)
        parameters = fitted.fit.parameters
        estimates.append([np.log(p.value) if p.logarithmic else p.value for p in parameters])
        inside.append([p.low <= value <= p.high for p, value in zip(parameters, exact, strict=True)])
        for held, error in _larger(design, fitted, noise, seed):
            caught.append(held)
            errors.append(error)
    is_log = np.array([p.logarithmic for p in clean.parameters])
    centre = np.where(is_log, np.log(exact), exact)
    table = np.array(estimates)
    bias = (table.mean(0) - centre) / table.std(0, ddof=1)
    names = [p.name for p in clean.parameters]
    return Result(names, noise_free, bias, np.array(inside), float(np.mean(caught)), np.array(errors))


def _larger(design: Design, fitted: Fitted, noise: float, seed: int) -> Iterator[tuple[float, float]]:
    larger = design.larger
    value, low, high = fitted.predict(larger.n_parameters, larger.n_tokens, larger.shares)
    measured = noisy(larger, noise, 10_000 + seed).loss
    yield float(((low <= measured) & (measured <= high)).mean()), float(np.abs(value / larger.loss - 1).mean())


def table(results: dict[str, Result], confidence: float) -> str:
    """Return the Markdown tables."""
    lines = [
        "| design | parameters | largest error without noise | largest bias, in standard deviations | coverage of "
        f"{100 * confidence:.0f} % intervals (all parameters) | lowest, highest parameter | prediction intervals | "
        "hold-out error, mean |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, r in results.items():
        cover = r.inside.mean(0)
        lines.append(
            f"| {name} | {len(r.names)} | {100 * r.noise_free:.1e} % | {np.abs(r.bias).max():.2f} | "
            f"{100 * cover.mean():.1f} % | {100 * cover.min():.1f}, {100 * cover.max():.1f} % | "
            f"{100 * r.prediction:.1f} % | {100 * r.errors.mean():.2f} % |"
        )
    lines += ["", "| design | parameter | bias, in standard deviations | coverage |", "|---|---|--:|--:|"]
    for name, r in results.items():
        rows = zip(r.names, r.bias.tolist(), r.inside.mean(0).tolist(), strict=True)
        lines += [f"| {name} | {p} | {b:+.2f} | {100 * c:.1f} % |" for p, b, c in rows]
    return "\n".join(lines)


def kept(result: Result) -> bool:
    """Say whether a design's simulations kept all promises."""
    return (
        result.noise_free <= _LARGEST_NOISE_FREE
        and bool(np.abs(result.bias).max() <= _LARGEST_BIAS)
        and bool(_LOW <= result.inside.mean() <= _HIGH)
        and bool(result.errors.mean() <= _LARGEST_HOLD_OUT)
    )


def main() -> int:
    """Run the campaign; exit with 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--table", type=Path, help="write the table, with date and machine, to this file")
    options = parser.parse_args()
    settings = Settings(n_bootstrap=options.bootstrap)
    results = {}
    for design in (one_language(), three_languages()):
        results[design.name] = simulate(design, options.simulations, settings, options.noise)
    text = table(results, settings.confidence)
    print(text)
    if options.table:
        options.table.parent.mkdir(parents=True, exist_ok=True)
        command = f"python -m campaigns scaling_coverage --simulations {options.simulations}"
        command += f" --bootstrap {options.bootstrap} --noise {options.noise}"
        machine = (
            f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
        )
        promise = (
            f"Promised: parameters to {100 * _LARGEST_NOISE_FREE} % without noise; bias at most {_LARGEST_BIAS} "
            f"standard deviations; coverage over all parameters of a design within {100 * _LOW:.0f} .. "
            f"{100 * _HIGH:.0f} %; mean error of the prediction of larger runs at most "
            f"{100 * _LARGEST_HOLD_OUT:.0f} %. One parameter's coverage has a standard "
            f"error of {100 * (0.95 * 0.05 / options.simulations) ** 0.5:.1f} points."
        )
        head = f"# Coverage of the scaling law's intervals\n\n{date.today().isoformat()}, {machine}; `{command}`\n\n"
        options.table.write_text(f"{head}{promise}\n\n{text}\n")
    return int(not all(kept(result) for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
