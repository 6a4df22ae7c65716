"""The artifact `mixture_plan`: the allocation under a fitted law, beside uniform and published shares.

mixture.json    weights by set (what `tokens/mixture` reads), and how they came about
shares.png      the allocations side by side
summary.txt
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.errors import UserError, suggest
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.storage import write_text
from codeflow.scaling import published
from codeflow.scaling.allocate import REPETITION_DECAY, Bounds, Objective, OnMixture, PerLanguage, minimise
from codeflow.scaling.compute import Demand, best_sizes
from codeflow.scaling.runs import MIXTURE, read_runs
from codeflow.scaling.stage import RUNS, SUMMARY, read_laws
from codeflow.scaling.synergy import worth
from codeflow.tokens.mixture import PLAN, PLAN_KIND

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from codeflow.scaling.fit import LawFit

KIND = PLAN_KIND


class AllocateConfig(Config):
    """The budget and the limits of an allocation."""

    objective: Literal["languages", "mixture"] = "languages"
    n_parameters: float | None = Field(default=None, gt=0)
    n_tokens: float | None = Field(default=None, gt=0)  # of all languages together
    weights: dict[str, float] = {}  # how much each language's loss counts; empty: equally
    floors: dict[str, float] = {}
    ceilings: dict[str, float] = {}
    available_tokens: dict[str, float] = {}  # distinct tokens there are; languages left out have no bound
    repetition_decay: float = Field(default=REPETITION_DECAY, gt=0)
    transfer: bool = True  # count other languages' tokens by their worth
    demand: Demand | None = None  # plan the size too; sets n_parameters and n_tokens


def run(config: AllocateConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Allocate under the laws of `inputs["law"]`. Raises UserError for names or limits that do not fit them."""
    from codeflow.scaling.plots import draw_shares

    laws, _ = read_laws(inputs["law"])
    languages = _languages(config, laws)
    size, lines = _size(config, laws)
    objective, remarks = _objective(config, inputs["law"], laws, languages, size)
    bounds = Bounds.of(languages, config.floors, config.ceilings)
    best = minimise(objective, bounds)
    uniform = np.full(len(languages), 1 / len(languages))
    rows = {"allocated": best, "uniform": uniform}
    reference = _published_row(languages)
    if reference is not None:
        rows["published"] = reference
    losses = {name: float(objective(shares[None])[0]) for name, shares in rows.items()}
    remarks += _comparison(languages, best, reference, objective)
    plan = {
        "weights": dict(zip(languages, best.tolist(), strict=True)),
        "objective": config.objective,
        "n_parameters": size[0],
        "n_tokens": size[1],
        "tokens": {name: share * size[1] for name, share in zip(languages, best.tolist(), strict=True)},
        "predicted_loss": losses,
        "rows": {name: dict(zip(languages, shares.tolist(), strict=True)) for name, shares in rows.items()},
        "remarks": remarks,
    }
    write_text(output / PLAN, json.dumps(plan, indent=2))
    title = f"{size[1]:.3g} tokens, {size[0]:.3g} parameters"
    draw_shares(output / "shares.png", plan["rows"], title)
    write_text(output / SUMMARY, _summary(plan, lines))
    return seal(output, Counts(), {"predicted_loss": losses, "weights": plan["weights"], "remarks": remarks})


def _languages(config: AllocateConfig, laws: Mapping[str, LawFit]) -> tuple[str, ...]:
    if config.objective == "mixture":
        if MIXTURE not in laws:
            raise UserError("objective=mixture needs a multilingual law; fit a table with mixed runs first")
        languages = laws[MIXTURE].law.languages
    else:
        languages = tuple(sorted(name for name in laws if name != MIXTURE))
        if len(languages) < 2:
            raise UserError(f"objective=languages needs laws of two languages alone; there are {list(languages)}")
    for name in [*config.weights, *config.available_tokens]:
        if name not in languages:
            raise UserError(f"no law for the language '{name}'{suggest(name, languages)}")
    return languages


def _size(config: AllocateConfig, laws: Mapping[str, LawFit]) -> tuple[tuple[float, float], list[str]]:
    """Return N and D, and lines that say how they were found."""
    if config.demand is None:
        if config.n_parameters is None or config.n_tokens is None:
            raise UserError("give n_parameters and n_tokens, or demand.flops to have them planned")
        return (config.n_parameters, config.n_tokens), []
    if MIXTURE not in laws:
        raise UserError("demand needs a multilingual law; give n_parameters and n_tokens instead")
    law = laws[MIXTURE].law
    plans = best_sizes(law, np.full((1, len(law.languages)), 1 / len(law.languages)), config.demand)
    demand = config.demand
    lines = [f"sizes for {demand.flops:.3g} operations, {demand.inference_tokens:.3g} tokens of inference:"]
    lines += [
        f"  {p.loops} loops: {p.n_parameters:.3g} parameters, {p.n_tokens:.3g} tokens, loss {p.loss:.4f} "
        f"(training {p.training_flops:.2g}, inference {p.inference_flops:.2g} operations)"
        for p in plans
    ]
    if max(config.demand.loops) > 1:
        lines.append(f"  loops are counted with loop_exponent {config.demand.loop_exponent}, which runs must show")
    return (plans[0].n_parameters, plans[0].n_tokens), lines


def _objective(
    config: AllocateConfig,
    folder: Path,
    laws: Mapping[str, LawFit],
    languages: tuple[str, ...],
    size: tuple[float, float],
) -> tuple[Objective, list[str]]:
    available = np.array([config.available_tokens.get(name, np.inf) for name in languages])
    if config.objective == "mixture":
        remark = "objective=mixture rewards languages that are easy to predict; floors decide most of the result"
        law = laws[MIXTURE].law
        if not config.transfer:
            law = law.model_copy(update={"kappa": ()})
        return OnMixture(law, *size, available, config.repetition_decay), [remark]
    single = {name: laws[name].law for name in languages}
    matrix, remarks = np.eye(len(languages)), []
    if config.transfer:
        found = worth(read_runs(folder / RUNS), single)
        for (target, auxiliary), value in found.items():
            matrix[languages.index(target), languages.index(auxiliary)] = value
        missing = [f"{i} for {j}" for j in languages for i in languages if i != j and (j, i) not in found]
        if missing:
            remarks.append(f"worth taken as 0 where no pair was run: {', '.join(missing)}")
    weights = np.array([config.weights.get(name, 0.0 if config.weights else 1.0) for name in languages])
    if weights.min() < 0 or weights.sum() <= 0:
        raise UserError(f"weights={config.weights} must be >= 0 and not all 0")
    laws_in_order = tuple(single[name] for name in languages)
    objective = PerLanguage(laws_in_order, *size, weights / weights.sum(), matrix, available, config.repetition_decay)
    return objective, remarks


def _published_row(languages: tuple[str, ...]) -> NDArray[np.float64] | None:
    """Return the published shares, if they cover the languages; renormalised to these."""
    row = published.allocation()
    if not set(languages) <= row.keys():
        return None
    shares = np.array([row[name] for name in languages])
    return shares / shares.sum()


def _comparison(
    languages: tuple[str, ...],
    best: NDArray[np.float64],
    reference: NDArray[np.float64] | None,
    objective: Objective,
) -> list[str]:
    """Say where the allocation differs from the published one, and which part of the law pulls there."""
    if reference is None:
        missing = [name for name in languages if name not in published.LANGUAGES]
        return [f"no published row to compare with: it does not cover {', '.join(missing)}"]
    remarks = list(published.WARNINGS[:1])
    slopes = _slopes(objective, reference)
    for name, ours, theirs, slope in zip(languages, best, reference, slopes - slopes.mean(), strict=True):
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


def _summary(plan: Mapping[str, Any], lines: list[str]) -> str:
    rows: Mapping[str, Mapping[str, float]] = plan["rows"]
    names = list(rows)
    text = [*lines, f"{plan['n_tokens']:.4g} tokens, {plan['n_parameters']:.4g} parameters; shares in %"]
    text.append(f"{'':<18}" + "".join(f"{name:>12}" for name in names))
    for language in plan["weights"]:
        text.append(f"{language:<18}" + "".join(f"{100 * rows[name][language]:>12.1f}" for name in names))
    text.append(f"{'predicted loss':<18}" + "".join(f"{plan['predicted_loss'][name]:>12.4f}" for name in names))
    return "\n".join([*text, *(f"! {remark}" for remark in plan["remarks"])]) + "\n"
