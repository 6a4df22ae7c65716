"""What a table of runs cannot tell, said in words: each warning names the parameters and the number behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from codeflow.scaling.runs import Points

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from codeflow.scaling.estimate import Estimate
    from codeflow.scaling.law import Design

_RUNS_PER_PARAMETER = 3
_LEAST_RANGE = 4.0  # of sizes and of tokens, largest over smallest
_WIDE_EXPONENT = 0.25  # standard error over value
_WIDE_LOGARITHM = 0.25  # standard error of log A, log B, log L_inf
UNDETERMINED = 1.0  # standard error of log L_inf from which on a floor may as well not exist
_BOUND_TOGETHER = 0.98  # correlation
_ALONE = 0.999  # share of a run of one language
_LARGEST_CONDITION = 1e4  # of the Jacobian with columns of length 1


def warnings_of(points: Points, names: Sequence[str], found: Estimate, design: Design, transfer: str) -> Iterator[str]:
    """Yield the warnings about a fit."""
    if len(points) < _RUNS_PER_PARAMETER * len(names):
        yield f"{len(points)} runs for {len(names)} parameters: the noise, and with it every interval, is little known"
    yield from _grid(points)
    yield from _spread(names, found, design)
    yield from _together(names, found)
    condition = condition_number(design, found.theta)
    if condition > _LARGEST_CONDITION:
        yield f"the runs hardly determine some direction among the parameters (condition number {condition:.0e})"
    if len(points.languages) > 1:
        yield from _multilingual(points, transfer)


def condition_number(design: Design, theta: NDArray[np.float64]) -> float:
    """Return the condition of the Jacobian at theta (P,), its columns scaled to length 1."""
    _, jacobian = design.log_loss_and_jacobian(theta[None])
    columns = jacobian[0]
    lengths = np.sqrt((columns**2).sum(0))
    if (lengths == 0).any():
        return float("inf")
    return float(np.linalg.cond(columns / lengths))


def _grid(points: Points) -> Iterator[str]:
    for what, exponent, values in (("sizes", "aN", points.n_parameters), ("tokens", "aD", points.n_tokens)):
        factor = values.max() / values.min()
        if factor < _LEAST_RANGE:
            yield (
                f"the {what} of the runs span a factor of {factor:.2g}; {exponent} and L_inf need {_LEAST_RANGE:.0f} "
                "or more"
            )
    if len(points) > 2 and len(np.unique(points.n_parameters)) > 1:
        log_n, log_d = np.log(points.n_parameters), np.log(points.n_tokens)
        if log_d.std() > 0 and abs(np.corrcoef(log_n, log_d)[0, 1]) > _BOUND_TOGETHER:
            yield "sizes and tokens of the runs grow together: A, aN and B, aD cannot be told apart; vary one alone"


def _spread(names: Sequence[str], found: Estimate, design: Design) -> Iterator[str]:
    n_slice, d_slice, e_slice, g_slice = design.blocks()
    for index, (name, value, error) in enumerate(
        zip(names, found.theta.tolist(), found.standard_error.tolist(), strict=True)
    ):
        if n_slice.start <= index < d_slice.stop:
            if value <= 0:
                yield f"{name} = {value:.3g} is not above 0: the runs show no gain along this axis"
            elif error > _WIDE_EXPONENT * value:
                yield f"{name} = {value:.3g} is barely identifiable: standard error {error:.2g}"
        elif index >= g_slice.start:
            if error > abs(value):
                yield f"{name} = {value:.3g} cannot be told from 0: standard error {error:.2g}"
        elif index >= e_slice.start and error > UNDETERMINED:
            yield f"{name} is not determined: the runs show no floor; other intervals are those of a law without one"
        elif index >= e_slice.start and error > _WIDE_LOGARITHM:
            yield f"{name} = {np.exp(value):.3g} is known only within a factor of {np.exp(2 * error):.2g}"


def _together(names: Sequence[str], found: Estimate) -> Iterator[str]:
    size = np.abs(found.correlation)
    pairs = [
        f"{names[i]} with {names[j]} ({found.correlation[i, j]:+.3f})"
        for i in range(len(names))
        for j in range(i)
        if size[i, j] > _BOUND_TOGETHER
    ]
    if pairs:
        yield f"determined only together, by their correlation: {'; '.join(pairs)}"


def _multilingual(points: Points, transfer: str) -> Iterator[str]:
    yield (
        "A and B are shared while exponents differ, so the units N0, D0 (the runs' geometric means) are part of the "
        "law: there all languages have the same reducible loss"
    )
    if transfer == "gamma":
        yield "gamma and tau enter as a product: doubling tau halves gamma; only kappa = gamma (tau_ij + tau_ji) counts"
    if transfer == "pairs":
        yield "transfer is determined per pair, not per direction: kappa_ij = gamma (tau_ij + tau_ji)"
    missing = [name for k, name in enumerate(points.languages) if points.shares[:, k].max() < _ALONE]
    if missing:
        yield f"no run is of {', '.join(missing)} alone, so its exponents rest on mixtures"
