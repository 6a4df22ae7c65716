"""The command `codeflow inspect-logs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codeflow.core.progress import say


def inspect_logs(
    source: Annotated[Path, typer.Argument(help="A scores artifact, or a folder with `episodes-*.parquet`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the logs.")] = Path("logs"),
) -> None:
    """Write evaluations or episodes as logs for the viewer of Inspect AI; one file for each benchmark.

    Example:

        codeflow inspect-logs runs/humaneval -o logs && inspect view --log-dir logs

    The viewer comes with `pip install codeflow[inspect]`.
    """
    from codeflow.report.inspect_log import export

    paths = export(source, output)
    say(f"{len(paths)} logs in {output}; look at them with: inspect view --log-dir {output}")
