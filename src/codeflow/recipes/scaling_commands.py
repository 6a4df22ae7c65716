"""The commands `codeflow scaling fit | allocate | sweep | published`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from codeflow.core.config import Config, apply_overrides
from codeflow.core.progress import say
from codeflow.core.storage import folder_lock
from codeflow.execute.chain import Stage, compare, make, stage_key

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="From runs to a law, from the law to a mixture: see docs/scaling.md.\n\n"
    "`sweep` trains a grid of tiny models, `fit` finds the law, `allocate` the shares of a budget.",
)
_Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="FIELD=VALUE", help="Fields to change; the module's configuration names them."),
]
_Output = Annotated[Path | None, typer.Option("--output", "-o", help="The artifact's folder.")]


@app.command()
def fit(
    runs: Annotated[Path, typer.Argument(help="A table of runs (CSV), or the artifact of a sweep.")],
    overrides: _Overrides = None,
    output: _Output = None,
) -> None:
    """Fit the scaling laws that a table of runs bears, with intervals, hold-out error and warnings.

    Columns: n_parameters, n_tokens (or training_flops), loss; for languages also run, evaluated_on and one
    share.LANGUAGE each. `columns.OURS=THEIRS` reads a table with other names.

    Examples:

        codeflow scaling fit docs/data/scaling_runs.csv -o runs/law

        codeflow scaling fit runs/scaling/sweep transfer=gamma

        codeflow scaling fit chinchilla/svg_extracted_data.csv 'columns.n_parameters=Model Size' \\
            'columns.training_flops=Training FLOP' leave_out_highest_losses=5 \\
            settings.huber_delta=0.001 settings.resample=runs
    """
    from codeflow.scaling.stage import FitConfig

    inputs = {"runs": runs} if runs.is_dir() else {}
    given = FitConfig(runs="" if inputs else str(runs))
    config = apply_overrides(given, overrides or [])
    _make("scaling_law", "codeflow.scaling.stage", config, inputs, output or Path("runs/law"))


@app.command()
def allocate(
    law: Annotated[Path, typer.Argument(help="The artifact of `codeflow scaling fit`.")],
    overrides: _Overrides = None,
    output: _Output = None,
    tokens: Annotated[
        Path | None, typer.Option(help="A tokens artifact with one set per language: these are the available tokens.")
    ] = None,
) -> None:
    """Find the shares of a token budget with the least predicted loss; the plan is an input of `codeflow train`.

    Examples:

        codeflow scaling allocate runs/law n_parameters=1e9 n_tokens=2e10

        codeflow scaling allocate runs/law n_parameters=1e9 n_tokens=2e10 floors.Python=0.2 available_tokens.C++=3e9

        codeflow scaling allocate runs/law demand.flops=1e20 demand.inference_tokens=1e12 'demand.loops=[1, 2]'

        codeflow train runs/mixed -i tokens=runs/pack -i tokenizer=runs/tokenizer -i mixture=runs/mixture_plan
    """
    from codeflow.scaling.plan import AllocateConfig

    config = apply_overrides(AllocateConfig(), overrides or [])
    inputs = {"law": law} | ({"tokens": tokens} if tokens else {})
    _make("mixture_plan", "codeflow.scaling.plan", config, inputs, output or Path("runs/mixture_plan"))


@app.command()
def sweep(
    overrides: _Overrides = None,
    output: _Output = None,
    repos: Annotated[
        list[str] | None, typer.Option(help="A git repository (path or url) to add; may be given several times.")
    ] = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="Print what would run and why, then stop.")] = False,
    on: Annotated[
        str,
        typer.Option("--on", metavar="WHERE", help="Where the runs train, one core each: local, ray or ray:HOST:PORT."),
    ] = "local",
) -> None:
    """Train a grid of tiny models on local files, fit their law, plan a mixture and test it: the recipe `scaling`.

    With another grid, set the size and budget of the plan and of its test too (`mixture_plan.n_tokens`,
    `uniform.steps`).

    Examples:

        codeflow scaling sweep

        codeflow scaling sweep -o runs/mine --repos ~/src/project sweep.workers=2 sweep.seed=1

        codeflow scaling sweep --plan

        codeflow scaling sweep --on ray:10.0.0.1:6379
    """
    from codeflow.recipes import runner

    wanted = runner.Wanted(tuple(overrides or ()), tuple(repos or ()), on=on)
    runner.run_recipe("scaling", output, wanted, only_plan)
    if not only_plan:
        folder = output or Path("runs/scaling")
        print(*((folder / name / "summary.txt").read_text().rstrip() for name in ("law", "mixture_plan")), sep="\n")


@app.command()
def published() -> None:
    """Print the published numbers and what is wrong with them.

    Example:

        codeflow scaling published
    """
    from codeflow.scaling import published as preset

    print(f"{'':<12}{'aN':>8}{'aD':>8}{'L_inf':>8}{'share %':>9}")
    shares = preset.allocation()
    for name in preset.predictability():
        numbers = f"{preset.ALPHA_N[name]:>8.3f}{preset.ALPHA_D[name]:>8.3f}{preset.L_INF[name]:>8.3f}"
        print(f"{name:<12}{numbers}{100 * shares[name]:>9.1f}")
    found = preset.synergy()
    print("\ngain of the row's language in % of its loss where the column's is mixed in")
    print(f"{'':<12}" + "".join(f"{name:>12}" for name in found.languages))
    for target, row in zip(found.languages, found.gain_percent(), strict=True):
        print(f"{target:<12}" + "".join(f"{'' if math.isnan(value) else f'{value:+.2f}':>12}" for value in row))
    for warning in preset.WARNINGS:
        print(f"! {warning}")


def _make(kind: str, module: str, config: Config, inputs: Mapping[str, Path], output: Path) -> None:
    """Make one artifact of the room `scaling`, or reuse it, and print its summary."""
    world = f"{module}:world" if kind == "scaling_law" and not inputs else ""
    wired = {name: str(path.resolve()) for name, path in inputs.items()}
    stage = Stage(output.name, kind, f"{module}:run", config, wired, world)
    with folder_lock(output.parent):
        step = compare(stage, output, stage_key(stage, output.parent))
        say(f"{stage.name}: {step.action} ({step.reason})")
        if step.action != "reuse":
            make(stage, output.parent, step.key)
    print((output / "summary.txt").read_text().rstrip())
    say(f"plots and numbers: {output}")
