"""How much one language helps another, from runs of pairs.

    gain(i, j)   = L(i + i) - L(i + j), evaluated on i: positive = mixing j helps (arXiv 2512.13472)
    tau(i, j)    = gain / L(i + i), what gamma multiplies in the multilingual law
    worth(i, j)  = how many tokens of i one token of j stands for, by i's own law: 1 = as good as i itself, 0 = nothing

L(i + j) is a run of i and j in equal parts; L(i + i) one of i alone with the same size and as many tokens in all. The
paper's baseline repeats the same tokens of i; where the table's runs of i alone had fresh tokens instead, gains come
out smaller than the paper's. `worth` needs no such baseline.

Target is the row, auxiliary the column; the matrix is not symmetric.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from codeflow.core.config import Config
from codeflow.scaling.runs import Measurement, languages_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from codeflow.scaling.law import ScalingLaw

_EQUAL_PARTS = 0.01  # how far from one half a share may be
_SIGNIFICANT = 3  # digits to which sizes and tokens of runs are compared


class PairGain(Config):
    """What `auxiliary` does for `target`, the mean over the sizes and token counts at which both runs exist."""

    target: str
    auxiliary: str
    gain: float  # nats per token
    tau: float  # relative gain
    deviation: float | None  # standard deviation of tau over the cells; None with one cell
    n_cells: int


class Synergy(Config):
    """The synergy matrix as far as it was measured."""

    languages: tuple[str, ...]
    pairs: tuple[PairGain, ...]

    def tau_matrix(self, languages: Sequence[str]) -> NDArray[np.float64] | None:
        """Return tau as (K, K) in the order of `languages`, 0 where a pair was not measured; None without any pair."""
        if not self.pairs:
            return None
        matrix = np.zeros((len(languages), len(languages)))
        for pair in self.pairs:
            if pair.target in languages and pair.auxiliary in languages:
                matrix[languages.index(pair.target), languages.index(pair.auxiliary)] = pair.tau
        return matrix

    def gain_percent(self) -> list[list[float]]:
        """Return the matrix in percent, nan where nothing was measured and on the diagonal."""
        found = {(pair.target, pair.auxiliary): 100 * pair.tau for pair in self.pairs}
        return [[found.get((i, j), math.nan) for j in self.languages] for i in self.languages]


def synergies(measurements: Sequence[Measurement]) -> Synergy:
    """Return the synergy matrix of a table of runs."""
    baseline: dict[tuple[str, str], list[float]] = defaultdict(list)
    for m in measurements:
        if m.alone:
            baseline[m.evaluated_on, _cell(m)].append(m.loss)
    taus: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for m, other in pair_runs(measurements):
        own = baseline.get((m.evaluated_on, _cell(m)))
        if own:
            loss = sum(own) / len(own)
            taus[m.evaluated_on, other].append((loss - m.loss, 1 - m.loss / loss))
    pairs = []
    for (target, auxiliary), cells in sorted(taus.items()):
        gains, relative = np.array(cells).T
        pairs.append(
            PairGain(
                target=target,
                auxiliary=auxiliary,
                gain=float(gains.mean()),
                tau=float(relative.mean()),
                deviation=float(relative.std(ddof=1)) if len(cells) > 1 else None,
                n_cells=len(cells),
            )
        )
    return Synergy(languages=languages_of(measurements), pairs=tuple(pairs))


def pair_runs(measurements: Iterable[Measurement]) -> Iterable[tuple[Measurement, str]]:
    """Yield measurements on one half of a run of two languages in equal parts, with the other half's name."""
    for m in measurements:
        used = [name for name, share in m.shares.items() if share > 0]
        halves = len(used) == 2 and all(abs(m.shares[name] - 0.5) < _EQUAL_PARTS for name in used)
        if halves and m.evaluated_on in used:
            yield m, used[1 - used.index(m.evaluated_on)]


def _cell(m: Measurement) -> str:
    return f"{m.n_parameters:.{_SIGNIFICANT}g} {m.n_tokens:.{_SIGNIFICANT}g}"


def worth(measurements: Sequence[Measurement], laws: Mapping[str, ScalingLaw]) -> dict[tuple[str, str], float]:
    """Return worth(target, auxiliary) of the pairs of a table, by the laws of single languages.

    It is the median over the pair's runs; a run whose loss the law's floor and size term already exceed says nothing.
    """
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for m, other in pair_runs(measurements):
        law = laws.get(m.evaluated_on)
        tokens = tokens_for(law, m.n_parameters, m.loss) if law else None
        if tokens is not None:
            half = m.n_tokens / 2
            values[m.evaluated_on, other].append((tokens - half) / half)
    return {pair: float(np.median(found)) for pair, found in values.items()}


def tokens_for(law: ScalingLaw, n_parameters: float, loss: float) -> float | None:
    """Return the tokens at which a one-language law reaches `loss` with `n_parameters`, None if it never does."""
    size = law.a * (n_parameters / law.parameters_unit) ** -law.alpha_n[0]
    left = (loss - law.l_inf[0] - size) / law.b
    if left <= 0 or law.alpha_d[0] <= 0:
        return None
    return law.tokens_unit * left ** (-1 / law.alpha_d[0])
