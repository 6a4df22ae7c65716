"""Public benchmarks on one model, from the command line: which model, where to, and a table of what came out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codeflow.core.config import apply_overrides
from codeflow.core.errors import UserError
from codeflow.core.progress import console, say
from codeflow.core.storage import folder_lock
from codeflow.core.types import Score
from codeflow.eval.benchmark_run import BenchmarkRunConfig
from codeflow.recipes.generate import find_model


def evaluate_on(
    model: str, on: Sequence[str], output: Path | None, settings: Sequence[str], against: Path | None = None
) -> list[Score]:
    """Run benchmarks on a checkpoint; print the scores and, with `against`, the differences to another run.

    Raises UserError for a model that is none, unknown benchmarks or settings, and missing files.
    """
    from codeflow.eval.answers import LocalAnswerer
    from codeflow.eval.benchmarks_artifact import differences, make

    names = [name for given in on for name in given.split(",") if name]
    config = apply_overrides(BenchmarkRunConfig(on=tuple(names)), settings)
    if "://" in model:
        raise UserError(f"{model}: models behind a url cannot be evaluated yet; give a checkpoint's folder")
    folder = find_model(Path(model))
    place = Path(model).resolve()
    output = output or place.with_name(f"{place.name}_benchmarks")
    answerer = LocalAnswerer(folder, place.name)
    with folder_lock(output):
        _, scores = make(config, answerer, output)
    _print(scores)
    if against:
        for name, found in differences(against, output, config).items():
            for metric, one in found.items():
                print(
                    f"{name} {metric}: {one.value:+.4f} [{one.low:+.4f}, {one.high:+.4f}], p {one.p_value:.3f}, "
                    f"{one.n} tasks, against {against}"
                )
    say(f"scores: {output / 'scores.json'}")
    return scores


def _print(scores: Sequence[Score]) -> None:
    from rich.table import Table

    table = Table("benchmark", "metric", "score", "95 % interval", "tasks", "faults", box=None)
    for one in scores:
        if not one.subset:
            interval = f"{one.low:.4f} to {one.high:.4f}"
            table.add_row(one.benchmark, one.metric, f"{one.value:.4f}", interval, f"{one.n:,}", f"{one.n_faults:,}")
    console.print(table)
