"""The artifact `mixture_plan`: the allocation under a fitted law, beside uniform and published shares.

mixture.json    weights by set (what `tokens/mixture` reads), and how they came about
shares.png      the allocations side by side, with the intervals of the planned one
summary.txt
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.storage import write_text
from codeflow.scaling import published
from codeflow.scaling.allocate import Bounds, Objective, OnMixture, PerLanguage, minimise
from codeflow.scaling.budget import AllocateConfig, objective_of, planned_languages
from codeflow.scaling.compute import Demand, SizePlan, best_sizes
from codeflow.scaling.runs import MIXTURE, Measurement, read_runs
from codeflow.scaling.spread import Spread, spread
from codeflow.scaling.stage import RUNS, SUMMARY, read_draws, read_laws
from codeflow.tokens.mixture import PLAN, PLAN_KIND
from codeflow.tokens.token_shard import read_index

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from codeflow.scaling.law import ScalingLaw

KIND = PLAN_KIND
_LITTLE = 0.05  # a share
_ROUNDS = 4  # of planning the size for the shares, and the shares for the size


def run(config: AllocateConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Allocate under the laws of `inputs["law"]`; what `inputs["tokens"]` holds, if given, is what is available.

    Raises UserError for names or limits that do not fit the laws.
    """
    from codeflow.scaling.plots import draw_shares

    folder = inputs["law"]
    fits, _ = read_laws(folder)
    measurements = read_runs(folder / RUNS)
    languages = planned_languages(config, fits)
    if "tokens" in inputs:
        there = {name: float(index.n_tokens) for name, index in read_index(inputs["tokens"]).sets.items()}
        available = {name: there.get(name, 0.0) for name in languages} | config.available_tokens
        config = config.model_copy(update={"available_tokens": available})
    used = {name: fits[name] for name in ([MIXTURE] if config.objective == "mixture" else languages)}
    bounds = Bounds.of(languages, config.floors, config.ceilings)

    def objective_under(laws: Mapping[str, ScalingLaw], size: tuple[float, float]) -> PerLanguage | OnMixture:
        return objective_of(config, laws, measurements, languages, size)[0]

    size = _size(config)
    laws = {name: fit.law for name, fit in used.items()}
    objective, remarks = objective_of(config, laws, measurements, languages, size)
    if config.demand:
        objective, best, plans = _with_size(objective, bounds, config.demand)
        size, lines = (plans[0].n_parameters, plans[0].n_tokens), _size_lines(config.demand, plans)
    else:
        best, plans, lines = minimise(objective, bounds), [], []
    counted = (float(objective.n_parameters), float(objective.n_tokens))  # loops make a model count as a larger one
    draws = {name: read_draws(folder, name) for name in used}
    interval = spread(lambda some: objective_under(some, counted), used, draws, bounds, best, languages)
    rows = _rows(languages, best)
    if len(languages) > 1:
        remarks += _gain_remarks(interval)
        remarks += _transfer_remarks(objective, languages, best)
        remarks += _mixed_remarks(objective, languages, measurements)
        remarks += _comparison(languages, rows, objective)
    plan = {
        "weights": dict(zip(languages, best.tolist(), strict=True)),
        "objective": config.objective,
        "n_parameters": size[0],
        "n_tokens": size[1],
        "available_tokens": config.available_tokens,
        "tokens": {name: share * size[1] for name, share in zip(languages, best.tolist(), strict=True)},
        "rows": {name: dict(zip(languages, shares.tolist(), strict=True)) for name, shares in rows.items()},
        "predicted_loss": {name: float(objective(shares[None])[0]) for name, shares in rows.items()},
        "loss_weights": _loss_weights(objective, languages),
        "predicted_loss_by_language": _by_language(objective, languages, rows),
        "spread": interval.model_dump(mode="json") if interval else None,
        "sizes": [p.model_dump(mode="json") for p in plans],
        "remarks": remarks,
    }
    write_text(output / PLAN, json.dumps(plan, indent=2))
    title = f"{size[1]:.3g} tokens, {size[0]:.3g} parameters"
    draw_shares(output / "shares.png", plan["rows"], title, interval.shares if interval else {})
    write_text(output / SUMMARY, summary(plan, lines))
    metrics = {name: plan[name] for name in ("predicted_loss", "weights", "remarks")}
    return seal(output, Counts(), metrics)


def _size(config: AllocateConfig) -> tuple[float, float]:
    """Return N and D, or where they are planned something to start from."""
    if config.demand:
        return 1.0, 1.0
    if config.n_parameters is None or config.n_tokens is None:
        raise UserError("give n_parameters and n_tokens, or demand.flops to have them planned")
    return config.n_parameters, config.n_tokens


def _with_size(
    objective: PerLanguage | OnMixture, bounds: Bounds, demand: Demand
) -> tuple[PerLanguage | OnMixture, NDArray[np.float64], list[SizePlan]]:
    """Return the objective at the best size, the best shares there and the sizes, best first."""
    k = len(bounds.low)
    shares = bounds.nearest(np.full(k, 1 / k))
    plans: list[SizePlan] = []
    for _ in range(_ROUNDS):
        plans = best_sizes(functools.partial(_losses, objective, shares), demand)
        counted = plans[0].n_parameters * float(plans[0].loops) ** demand.loop_exponent
        objective = dataclasses.replace(objective, n_parameters=counted, n_tokens=plans[0].n_tokens)
        shares = minimise(objective, bounds)
    return objective, shares, plans


def _losses(
    objective: PerLanguage | OnMixture, shares: NDArray[np.float64], n: NDArray[np.float64], d: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the loss at shares (K,) of parameters (G,) and tokens (G,)."""
    return dataclasses.replace(objective, n_parameters=n, n_tokens=d)(np.repeat(shares[None], len(n), 0))


def _size_lines(demand: Demand, plans: list[SizePlan]) -> list[str]:
    lines = [f"sizes for {demand.flops:.3g} operations, {demand.inference_tokens:.3g} tokens of inference:"]
    lines += [
        f"  {p.loops} loops: {p.n_parameters:.3g} parameters, {p.n_tokens:.3g} tokens, loss {p.loss:.4f} "
        f"(training {p.training_flops:.2g}, inference {p.inference_flops:.2g} operations)"
        for p in plans
    ]
    if max(demand.loops) > 1:
        lines.append(f"  loops are counted with loop_exponent {demand.loop_exponent}, which runs must show")
    return lines


def _rows(languages: tuple[str, ...], best: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    rows = {"allocated": best, "uniform": np.full(len(languages), 1 / len(languages))}
    reference = published.allocation()
    if set(languages) <= reference.keys():
        shares = np.array([reference[name] for name in languages])
        rows["published"] = shares / shares.sum()
    return rows


def _loss_weights(objective: PerLanguage | OnMixture, languages: tuple[str, ...]) -> dict[str, float]:
    """Return how much each language's loss counts; with the objective `mixture` none counts by itself."""
    if isinstance(objective, OnMixture):
        return {}
    return dict(zip(languages, objective.weights.tolist(), strict=True))


def _by_language(
    objective: PerLanguage | OnMixture, languages: tuple[str, ...], rows: Mapping[str, NDArray[np.float64]]
) -> dict[str, dict[str, float]]:
    """Return each row's predicted loss on each language; the objective `mixture` predicts none."""
    if isinstance(objective, OnMixture):
        return {}
    return {
        name: dict(zip(languages, objective.losses(shares[None])[0].tolist(), strict=True))
        for name, shares in rows.items()
    }


def _gain_remarks(interval: Spread | None) -> list[str]:
    if interval is None:
        return ["the resampled fits give no finite losses at this size: it lies too far from the runs"]
    low, high = interval.gain
    return [
        f"gain over uniform shares: {low:.4f} to {high:.4f} nats per token in {100 * interval.confidence:.0f} % of "
        f"{interval.n_fits} resampled fits, {'more than' if low > 0 else 'within'} their noise"
    ]


def _transfer_remarks(
    objective: PerLanguage | OnMixture, languages: tuple[str, ...], best: NDArray[np.float64]
) -> list[str]:
    """Name the languages that the plan would teach by other languages' tokens alone."""
    if isinstance(objective, OnMixture):
        return []
    helped = (objective.worth - np.diag(np.diag(objective.worth))).max(1) > 0
    return [
        f"{name} gets {100 * share:.1f} %: its predicted loss rests on other languages' tokens, whose worth was "
        f"measured at equal parts only; set floors.{name}"
        for name, share, by_others in zip(languages, best, helped, strict=True)
        if share < _LITTLE and by_others
    ]


def _mixed_remarks(
    objective: PerLanguage | OnMixture, languages: tuple[str, ...], measurements: Sequence[Measurement]
) -> list[str]:
    """Say how the laws and the worth of foreign tokens predict runs of three languages or more, which gave neither."""
    runs = [m for m in measurements if m.evaluated_on in languages and sum(s > 0 for s in m.shares.values()) > 2]
    if isinstance(objective, OnMixture) or not runs:
        return []
    errors = []
    for m in runs:
        shares = np.array([[m.shares.get(name, 0.0) for name in languages]])
        there = dataclasses.replace(objective, n_parameters=m.n_parameters, n_tokens=m.n_tokens)
        errors.append(m.loss / float(there.losses(shares)[0, languages.index(m.evaluated_on)]) - 1)
    return [
        f"{len(runs)} losses of runs with more than two languages lie {100 * float(np.mean(errors)):+.2f} % from what "
        f"the plan's laws and transfer say of them (largest {100 * max(errors, key=abs):+.2f} %)"
    ]


def _comparison(languages: tuple[str, ...], rows: Mapping[str, NDArray[np.float64]], objective: Objective) -> list[str]:
    """Say where the allocation differs from the published one, and which part of the law pulls there."""
    reference = rows.get("published")
    if reference is None:
        missing = [name for name in languages if name not in published.LANGUAGES]
        return [f"no published row to compare with: it does not cover {', '.join(missing)}"]
    remarks = list(published.WARNINGS[:1])
    slopes = _slopes(objective, reference)
    for name, ours, theirs, slope in zip(languages, rows["allocated"], reference, slopes - slopes.mean(), strict=True):
        direction = "lower" if slope < 0 else "raise"
        remarks.append(
            f"{name}: {100 * ours:.1f} % against published {100 * theirs:.1f} %; there, one more percent of {name}, "
            f"taken evenly from the rest, would {direction} the predicted loss by {abs(slope) / 100:.2g}"
        )
    return remarks


def _slopes(objective: Objective, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    step = 1e-4
    moved = shares + step * np.eye(len(shares))
    return (objective(moved) - objective(shares[None])) / step


def summary(plan: Mapping[str, Any], lines: list[str]) -> str:
    """Return the text of a plan: shares with intervals, losses by row, what has to be said."""
    rows: Mapping[str, Mapping[str, float]] = plan["rows"]
    names = list(rows)
    intervals = plan["spread"]["shares"] if plan["spread"] else {}
    text = [*lines, f"{plan['n_tokens']:.4g} tokens, {plan['n_parameters']:.4g} parameters; shares in %"]
    text.append(f"{'':<18}" + "".join(f"{name:>12}" for name in names) + f"{'interval':>18}")
    for language in plan["weights"]:
        cells = "".join(f"{100 * rows[name][language]:>12.1f}" for name in names)
        low, high = intervals.get(language, (None, None))
        text.append(f"{language:<18}{cells}" + ("" if low is None else f"{100 * low:>12.1f} .. {100 * high:.1f}"))
    text.append(f"{'predicted loss':<18}" + "".join(f"{plan['predicted_loss'][name]:>12.4f}" for name in names))
    by_language = plan["predicted_loss_by_language"]
    for language in plan["weights"] if by_language else ():
        text.append(f"{'  on ' + language:<18}" + "".join(f"{by_language[name][language]:>12.4f}" for name in names))
    return "\n".join([*text, *(f"! {remark}" for remark in plan["remarks"])]) + "\n"
