"""The commands of the stage verbs, one artifact each, made from the table of verbs."""

# Without `from __future__ import annotations`: typer reads the annotations of functions made in a function.
from pathlib import Path
from typing import Annotated

import typer

from codeflow.execute.chain import resolve
from codeflow.recipes.verbs import VERBS, Verb

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="FIELD=VALUE", help="Fields to change, e.g. `seed=1`.", show_default=False),
]
Where = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="WHERE",
        help="Where the work on shards runs: local (processes of this machine), ray (the cluster that RAY_ADDRESS "
        "names, or one started here), or ray:HOST:PORT.",
    ),
]


def add_verbs(app: typer.Typer) -> None:
    """Add a command for every verb but `evaluate`, which has one of its own."""
    for verb in VERBS.values():
        if verb.name != "evaluate":
            _add(app, verb)


def _add(app: typer.Typer, verb: Verb) -> None:
    def print_fields(wanted: bool) -> None:
        if wanted:
            print(resolve(verb.config)().model_dump_json(indent=2))
            raise typer.Exit

    def command(
        output: Annotated[Path, typer.Argument(help="The artifact's folder.")],
        overrides: Overrides = None,
        inputs: Annotated[
            list[str] | None,
            typer.Option("--input", "-i", metavar="NAME=DIR", help="An input artifact; see the example."),
        ] = None,
        fields: Annotated[
            bool,
            typer.Option(
                "--fields", help="Print all fields with defaults and stop.", is_eager=True, callback=print_fields
            ),
        ] = False,
        on: Where = "local",
    ) -> None:
        from codeflow.recipes import runner

        runner.run_verb(verb, output, inputs or [], overrides or [], on)

    inputs_shown = [f"-i {name}=runs/mine/{name}" for name in verb.inputs]
    example = " ".join(["codeflow", verb.name, f"runs/mine/{verb.name}", *inputs_shown, verb.example]).rstrip()
    command.__doc__ = (
        f"{verb.summary}\n\nExample:\n\n    {example}\n\n"
        f"`codeflow {verb.name} --fields` prints every field with its default; `{verb.config}` explains them."
    )
    app.command(verb.name, rich_help_panel="Stages, one artifact each")(command)
