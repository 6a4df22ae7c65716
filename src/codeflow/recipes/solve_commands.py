"""The command `codeflow solve`."""

# Without `from __future__ import annotations`: typer reads the annotations.
from pathlib import Path
from typing import Annotated

import typer

from codeflow.core.errors import UserError
from codeflow.execute.chain import resolve
from codeflow.recipes.verb_commands import Overrides


def solve(
    tasks: Annotated[Path | None, typer.Argument(help="An artifact of `codeflow mine-tasks`.")] = None,
    overrides: Overrides = None,
    model: Annotated[
        str, typer.Option(help="A checkpoint, a published directory, or the url of an OpenAI-compatible server.")
    ] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The artifact's folder; TASKS_MODEL if not given.")
    ] = None,
    fields: Annotated[bool, typer.Option("--fields", help="Print all fields with defaults and stop.")] = False,
) -> None:
    """Let a model work as an agent on mined repository tasks: it calls tools over many turns, hidden tests judge.

    Examples:

        codeflow solve runs/click_tasks --model runs/tiny/rl_instruct -o runs/solved agent.max_turns=20

        codeflow solve runs/click_tasks --model http://127.0.0.1:8000/v1 samples=4 temperature=0.7 server.model=mine

    The same command goes on where an earlier call stopped; docs/agents.md says what an agent may do.
    """
    if fields:
        print(resolve("codeflow.eval.repository_tasks:SolveConfig")().model_dump_json(indent=2))
        return
    if tasks is None or not model:
        raise UserError("solve what, and by whom? give an artifact of mine-tasks, and --model CHECKPOINT or a url")
    from codeflow.recipes.solving import solve_tasks

    solve_tasks(tasks, model, output, overrides or [])
