"""What a plan may spend and what it minimises: budget, limits, and the objective that fitted laws make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.errors import UserError, suggest
from codeflow.scaling.allocate import REPETITION_DECAY, OnMixture, PerLanguage
from codeflow.scaling.compute import Demand
from codeflow.scaling.runs import MIXTURE, Measurement
from codeflow.scaling.synergy import worth

if TYPE_CHECKING:
    from codeflow.scaling.fit import LawFit
    from codeflow.scaling.law import ScalingLaw


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


def planned_languages(config: AllocateConfig, laws: Mapping[str, LawFit]) -> tuple[str, ...]:
    """Return the languages to allocate among. Raises UserError where there is no law for what is asked."""
    if config.objective == "mixture":
        if MIXTURE not in laws:
            raise UserError("objective=mixture needs a multilingual law; fit a table with mixed runs first")
        languages = laws[MIXTURE].law.languages
    else:
        languages = tuple(sorted(name for name in laws if name != MIXTURE))
        if len(languages) < (1 if config.demand else 2):  # one language has no shares, but a best size
            raise UserError(f"objective=languages needs laws of two languages alone; there are {list(languages)}")
    for name in [*config.weights, *config.available_tokens]:
        if name not in languages:
            raise UserError(f"no law for the language '{name}'{suggest(name, languages)}")
    return languages


def objective_of(
    config: AllocateConfig,
    laws: Mapping[str, ScalingLaw],
    measurements: Sequence[Measurement],
    languages: tuple[str, ...],
    size: tuple[float, float],
) -> tuple[PerLanguage | OnMixture, list[str]]:
    """Return what is minimised at `size` (parameters, tokens), and what has to be said about it."""
    available = np.array([config.available_tokens.get(name, np.inf) for name in languages])
    if config.objective == "mixture":
        remark = "objective=mixture rewards languages that are easy to predict; floors decide most of the result"
        law = laws[MIXTURE]
        if not config.transfer:
            law = law.model_copy(update={"kappa": ()})
        return OnMixture(law, *size, available, config.repetition_decay), [remark]
    single = {name: laws[name] for name in languages}
    matrix, remarks = np.eye(len(languages)), []
    if config.transfer:
        found = worth(measurements, single)
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
