"""The table of runs that a scaling law is fitted to.

A CSV with a header; one row per run and language that it was evaluated on:

    run, n_parameters, n_tokens, evaluated_on, loss, share.Python, share.Java, ...

`loss` is in nats per token on held-out text of `evaluated_on`; the shares are those of the training tokens and sum
to 1. Without share columns every run is of one language, `evaluated_on` ("all" without that column too). A row
with `evaluated_on` = "mixture" holds the loss on the training mixture itself; where a run has none, it is the mean of
the run's losses weighted by their shares. `training_flops` may stand for `n_tokens`: D = C / (6 N). Further columns
(lineage, seeds) are kept out of the fit.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codeflow.core.errors import UserError, suggest

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIXTURE = "mixture"
SHARE = "share."
_ONE_LANGUAGE = "all"
_NEEDED = ("n_parameters", "n_tokens", "loss")
_FLOPS = "training_flops"
_FLOPS_PER_PARAMETER_AND_TOKEN = 6.0
_SUM_TOLERANCE = 1e-3  # of shares written with few digits


@dataclass(frozen=True, slots=True)
class Measurement:
    """The loss of one run on one language (or on its own mixture)."""

    run: str
    n_parameters: float
    n_tokens: float  # trained on, all languages together
    shares: Mapping[str, float]  # of the training tokens; they sum to 1
    evaluated_on: str
    loss: float  # nats per token

    @property
    def alone(self) -> bool:
        """True when the run saw nothing but the language that it is evaluated on."""
        return self.shares.get(self.evaluated_on, 0.0) > 1 - _SUM_TOLERANCE


@dataclass(frozen=True)
class Points:
    """Runs as arrays, R runs and K languages."""

    names: tuple[str, ...]  # (R,) of runs
    languages: tuple[str, ...]  # (K,)
    n_parameters: NDArray[np.float64]  # (R,)
    n_tokens: NDArray[np.float64]  # (R,)
    shares: NDArray[np.float64]  # (R, K)
    loss: NDArray[np.float64]  # (R,) nats per token

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Points:
        """Return the runs at `rows` (numbers, or a mask)."""
        names = tuple(np.asarray(self.names, object)[rows])
        return Points(
            names, self.languages, self.n_parameters[rows], self.n_tokens[rows], self.shares[rows], self.loss[rows]
        )

    @property
    def compute_flops(self) -> NDArray[np.float64]:
        """Return about 6 N D of every run, (R,)."""
        return _FLOPS_PER_PARAMETER_AND_TOKEN * self.n_parameters * self.n_tokens


def read_runs(path: Path, columns: Mapping[str, str] | None = None) -> list[Measurement]:
    """Read a table of runs. `columns` maps our names to the table's own.

    Raises UserError naming file, line, column and rule.
    """
    try:
        text = with_columns(path.read_text(encoding="utf-8"), columns or {}, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the table of runs {path}: {error}; give a CSV file") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    rows = list(reader)
    found = list(reader.fieldnames or [])
    for name in _NEEDED:
        if name not in found and not (name == "n_tokens" and _FLOPS in found):
            raise UserError(f"{path} has no column '{name}'{suggest(name, found)}; columns.{name}=THEIRS names it")
    if not rows:
        raise UserError(f"{path} has a header but no runs; add one row per run")
    return [_measurement(row, found, f"{path} line {number}") for number, row in enumerate(rows, 2)]


def with_columns(text: str, columns: Mapping[str, str], origin: str) -> str:
    """Return a table with the header's names replaced by ours. Raises UserError for a name that it does not have."""
    if not columns:
        return text
    first, newline, rest = text.partition("\n")
    header = [name.strip() for name in next(csv.reader([first]), [])]
    for name, own in columns.items():
        if own not in header:
            raise UserError(f"columns.{name}={own}: {origin} has no such column{suggest(own, header)}")
    ours = {own: name for name, own in columns.items()}
    line = io.StringIO()
    csv.writer(line, lineterminator=newline).writerow([ours.get(name, name) for name in header])
    return line.getvalue() + rest


def _measurement(row: Mapping[str, str | None], columns: Sequence[str], place: str) -> Measurement:
    def number(name: str) -> float:
        text = (row.get(name) or "").strip()
        try:
            value = float(text)
        except ValueError:
            raise UserError(f"{place}: {name}='{text}' is not a number") from None
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{place}: {name}={text} must be finite and above 0")
        return value

    evaluated_on = (row.get("evaluated_on") or "").strip() or _ONE_LANGUAGE
    shares = {}
    for column in columns:
        if column.startswith(SHARE):
            text = (row.get(column) or "").strip() or "0"
            try:
                shares[column.removeprefix(SHARE)] = float(text)
            except ValueError:
                raise UserError(f"{place}: {column}='{text}' is not a number") from None
    shares = shares or {evaluated_on: 1.0}
    total = sum(shares.values())
    if min(shares.values()) < 0 or abs(total - 1) > _SUM_TOLERANCE:
        raise UserError(f"{place}: the shares {shares} sum to {total:.6g}; they must be >= 0 and sum to 1")
    shares = {name: share / total for name, share in shares.items()}
    if evaluated_on != MIXTURE and evaluated_on not in shares:
        raise UserError(f"{place}: evaluated_on='{evaluated_on}' has no share column{suggest(evaluated_on, shares)}")
    run = (row.get("run") or "").strip() or place
    n_parameters = number("n_parameters")
    if "n_tokens" in columns:
        n_tokens = number("n_tokens")
    else:
        n_tokens = number(_FLOPS) / (_FLOPS_PER_PARAMETER_AND_TOKEN * n_parameters)
    return Measurement(run, n_parameters, n_tokens, shares, evaluated_on, number("loss"))


def languages_of(measurements: Iterable[Measurement]) -> tuple[str, ...]:
    """Return the languages that have a share in some run, sorted."""
    return tuple(sorted({name for m in measurements for name, share in m.shares.items() if share > 0}))


def alone(measurements: Iterable[Measurement], language: str) -> Points:
    """Return the runs of one language by itself."""
    return points([m for m in measurements if m.evaluated_on == language and m.alone], (language,))


def mixtures(measurements: Sequence[Measurement]) -> Points:
    """Return every run once, with the loss on its own mixture.

    A run without such a measurement gets the mean of its losses weighted by their shares; a run that was not
    evaluated on all its languages is left out.
    """
    by_run: dict[str, dict[str, Measurement]] = {}
    for m in measurements:
        by_run.setdefault(m.run, {})[m.evaluated_on] = m
    chosen = []
    for per_language in by_run.values():
        first = next(iter(per_language.values()))
        whole = per_language.get(MIXTURE)
        if whole is None:
            used = {name: share for name, share in first.shares.items() if share > 0}
            if not used.keys() <= per_language.keys():
                continue
            loss = sum(share * per_language[name].loss for name, share in used.items())
            whole = Measurement(first.run, first.n_parameters, first.n_tokens, first.shares, MIXTURE, loss)
        chosen.append(whole)
    return points(chosen, languages_of(measurements))


def points(measurements: Sequence[Measurement], languages: Sequence[str]) -> Points:
    """Return measurements as arrays; `languages` gives the order of the shares."""
    return Points(
        names=tuple(m.run for m in measurements),
        languages=tuple(languages),
        n_parameters=np.array([m.n_parameters for m in measurements], np.float64),
        n_tokens=np.array([m.n_tokens for m in measurements], np.float64),
        shares=np.array([[m.shares.get(name, 0.0) for name in languages] for m in measurements]).reshape(
            len(measurements), len(languages)
        ),
        loss=np.array([m.loss for m in measurements], np.float64),
    )
