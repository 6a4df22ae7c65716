"""Public benchmarks on one model, from the command line: which model, where to, and a table of what came out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from codeflow.core.config import apply_overrides
from codeflow.core.progress import console, say
from codeflow.core.storage import folder_lock
from codeflow.core.types import Score
from codeflow.eval.answers import Answerer
from codeflow.eval.benchmark_run import BenchmarkRunConfig
from codeflow.recipes.generate import find_model


def evaluate_on(
    model: str, on: Sequence[str], output: Path | None, settings: Sequence[str], against: Path | None = None
) -> list[Score]:
    """Run benchmarks on a checkpoint or a model behind a url; print scores and, with `against`, differences to a run.

    Raises UserError for a model that is none, unknown benchmarks or settings, and missing files; InfrastructureError
    for a server that cannot be reached.
    """
    from codeflow.eval.benchmarks_artifact import differences, make

    names = [name for given in on for name in given.split(",") if name]
    config = apply_overrides(BenchmarkRunConfig(on=tuple(names)), settings)
    if "://" in model:
        config = apply_overrides(config, [f"server.url={model}"])
        answerer, place = _behind(config)
    else:
        answerer, place = _here(model)
    output = output or place
    with folder_lock(output):
        _, scores = make(config, answerer, output)
    print_scores(scores)
    if against:
        for name, found in differences(against, output, config).items():
            for metric, one in found.items():
                print(
                    f"{name} {metric}: {one.value:+.4f} [{one.low:+.4f}, {one.high:+.4f}], p {one.p_value:.3f}, "
                    f"{one.n} tasks, against {against}"
                )
    say(f"scores: {output / 'scores.json'}")
    return scores


def _here(model: str) -> tuple[Answerer, Path]:
    from codeflow.eval.answers import LocalAnswerer

    place = Path(model).resolve()
    return LocalAnswerer(find_model(Path(model)), place.name), place.with_name(f"{place.name}_benchmarks")


def _behind(config: BenchmarkRunConfig) -> tuple[Answerer, Path]:
    from codeflow.eval.endpoint_answers import EndpointAnswerer

    answerer = EndpointAnswerer(config.server, config.logprobs)
    return answerer, Path("runs") / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', answerer.name)}_benchmarks"


def print_scores(scores: Sequence[Score]) -> None:
    """Print a table of the scores over whole benchmarks."""
    from rich.table import Table

    table = Table("benchmark", "metric", "score", "95 % interval", "tasks", "faults", box=None)
    for one in scores:
        if not one.subset:
            interval = f"{one.low:.4f} to {one.high:.4f}"
            table.add_row(one.benchmark, one.metric, f"{one.value:.4f}", interval, f"{one.n:,}", f"{one.n_faults:,}")
    console.print(table)
