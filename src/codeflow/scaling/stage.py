"""The artifact of a fit: laws, synergies, plots and a page of text from one table of runs.

laws.json            name ("Python", ..., "mixture") -> LawFit
draws-<name>.npy     (B, P) parameters of the resampled fits
synergy.json         synergy matrix and transfer tau, where pairs were run
runs.csv             the table, under our column names
*.png, summary.txt
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from codeflow.core.config import Config, validate
from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts, Manifest, require_kind, seal
from codeflow.core.storage import sha256_file, write_bytes, write_text
from codeflow.scaling.estimate import Settings
from codeflow.scaling.fit import Fitted, LawFit, Transfer, fit_law
from codeflow.scaling.runs import MIXTURE, Measurement, Points, alone, languages_of, mixtures, read_runs, with_columns
from codeflow.scaling.synergy import Synergy, synergies

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KIND, LAWS, SYNERGY, RUNS, SUMMARY = "scaling_law", "laws.json", "synergy.json", "runs.csv", "summary.txt"


class FitConfig(Config):
    """What is fitted to which table."""

    runs: str = ""  # a CSV file, see codeflow.scaling.runs; "" where the artifact of a sweep is given as input
    columns: dict[str, str] = {}  # our name -> the table's own, as in {"n_parameters": "Model Size"}
    per_language: bool = True
    mixture: bool = True
    transfer: Transfer = "pairs"  # of the multilingual law; "gamma" takes tau from the table's pairs
    hold_out_share: float = Field(default=0.2, ge=0, lt=0.8)  # runs of most compute, predicted from the others
    leave_out_highest_losses: int = Field(default=0, ge=0)
    settings: Settings = Settings()


def world(config: FitConfig) -> str:
    """Return the hash of the table. Raises UserError when it is not there."""
    path = Path(config.runs)
    if not path.is_file():
        raise UserError(f"no table of runs at '{config.runs}'; give a CSV file")
    return sha256_file(path)


def run(config: FitConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Fit what the table (`config.runs`, or `inputs["runs"]`) bears: laws of single languages, multilingual, synergies.

    Counts: rows of the table read, and used by some law. Raises UserError when no law can be fitted.
    """
    source = inputs["runs"] / RUNS if "runs" in inputs else Path(config.runs)
    measurements = read_runs(source, config.columns)
    losses = sorted((m.loss for m in measurements), reverse=True)
    kept = measurements
    if config.leave_out_highest_losses:
        bound = losses[min(config.leave_out_highest_losses, len(losses)) - 1]
        kept = [m for m in measurements if m.loss < bound]
    languages = languages_of(kept)
    synergy = synergies(kept) if len(languages) > 1 else None
    fitted, remarks = _fit_all(config, kept, synergy)
    if not fitted:
        raise UserError(f"{source}: no law can be fitted: {'; '.join(remarks)}")
    for name, (law, points) in fitted.items():
        _write_fit(output, name, law, points)
    write_text(output / LAWS, json.dumps({name: law.fit.model_dump(mode="json") for name, (law, _) in fitted.items()}))
    write_text(output / RUNS, with_columns(source.read_text(encoding="utf-8"), config.columns, str(source)))
    if synergy and synergy.pairs:
        _write_synergy(output, synergy)
    text = summary({name: law.fit for name, (law, _) in fitted.items()}, remarks)
    write_text(output / SUMMARY, text)
    used = {m.run for m in kept} & {name for law, _ in fitted.values() for name in law.fit.runs}
    n_used = sum(m.run in used for m in kept)
    dropped = {"highest_losses": len(measurements) - len(kept), "no_law": len(kept) - n_used}
    counts = Counts(read=len(measurements), kept=n_used, dropped={name: n for name, n in dropped.items() if n})
    return seal(output, counts, {"laws": sorted(fitted), "languages": list(languages), "remarks": remarks})


def _fit_all(
    config: FitConfig, measurements: list[Measurement], synergy: Synergy | None
) -> tuple[dict[str, tuple[Fitted, Points]], list[str]]:
    fitted: dict[str, tuple[Fitted, Points]] = {}
    remarks: list[str] = []
    languages = languages_of(measurements)
    wanted: list[tuple[str, Points, Transfer, NDArray[np.float64] | None]] = []
    for language in languages if config.per_language else ():
        wanted.append((language, alone(measurements, language), "none", None))
    if config.mixture and len(languages) > 1:
        transfer: Transfer = config.transfer
        tau = None
        if transfer == "gamma":
            tau = synergy.tau_matrix(languages) if synergy else None
            if tau is None:
                remarks.append("mixture: tau cannot be found from these runs; fitted with transfer=pairs instead")
                transfer = "pairs"
        wanted.append((MIXTURE, mixtures(measurements), transfer, tau))
    for name, points, transfer, tau in wanted:
        try:
            fitted[name] = fit_law(points, config.settings, transfer, tau, config.hold_out_share), points
        except UserError as error:
            remarks.append(f"{name}: {error}")
    return fitted, remarks


def _write_fit(output: Path, name: str, law: Fitted, points: Points) -> None:
    import numpy as np

    from codeflow.scaling.plots import draw_fit, draw_residuals

    data = io.BytesIO()
    np.save(data, law.draws, allow_pickle=False)
    write_bytes(output / f"draws-{name}.npy", data.getvalue())
    draw_fit(output / f"fit-{name}.png", law, points, f"{name}: {len(points)} runs")
    draw_residuals(output / f"residuals-{name}.png", law, points, f"{name}: residuals, band of two standard deviations")


def _write_synergy(output: Path, synergy: Synergy) -> None:
    from codeflow.scaling.plots import draw_matrix

    write_text(output / SYNERGY, synergy.model_dump_json(indent=2))
    draw_matrix(
        output / "synergy.png", synergy.languages, synergy.gain_percent(), "synergy: gain in % of the target's loss"
    )


def read_laws(folder: Path) -> tuple[dict[str, LawFit], Synergy | None]:
    """Return the laws and the synergies of a fit's artifact. Raises UserError when it is none."""
    require_kind(folder, [KIND])
    tree = json.loads((folder / LAWS).read_text())
    laws = {name: validate(LawFit, value, origin=f"{folder / LAWS} {name}") for name, value in tree.items()}
    path = folder / SYNERGY
    synergy = validate(Synergy, json.loads(path.read_text()), origin=str(path)) if path.exists() else None
    return laws, synergy


def read_draws(folder: Path, name: str) -> NDArray[np.float64]:
    """Return the parameters (B, P) of a law's resampled fits."""
    import numpy as np

    return np.load(folder / f"draws-{name}.npy", allow_pickle=False)


def summary(laws: Mapping[str, LawFit], remarks: list[str]) -> str:
    """Return the text of a fit: parameters with intervals, hold-out error, warnings."""
    lines: list[str] = []
    for name, fit in laws.items():
        lines.append(f"{name}: {fit.n_runs} runs, noise {100 * fit.noise:.2f} % of the loss")
        for p in fit.parameters:
            lines.append(f"  {p.name:<24} {p.value:>12.5g}   {100 * fit.confidence:.0f} % [{p.low:.5g}, {p.high:.5g}]")
        if fit.hold_out:
            held = fit.hold_out
            lines.append(
                f"  the {held.n_held_out} runs of most compute, predicted from the other {held.n_fitted}: mean error "
                f"{100 * held.mean_error:.2f} %, largest {100 * held.largest_error:.2f} %, "
                f"{100 * held.inside:.0f} % inside their intervals"
            )
        else:
            lines.append("  too few runs to hold some out")
        lines += [f"  ! {warning}" for warning in fit.warnings]
    return "\n".join([*lines, *(f"! {remark}" for remark in remarks)]) + "\n"
