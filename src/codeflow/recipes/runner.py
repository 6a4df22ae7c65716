"""Running a recipe or a single verb for the command line: sources, lock, plan, chain, the closing lines."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import codeflow
from codeflow.core.config import apply_overrides
from codeflow.core.errors import InfrastructureError, UserError, suggest
from codeflow.core.manifest import read_manifest
from codeflow.core.progress import console, say
from codeflow.core.storage import folder_lock
from codeflow.execute.chain import Stage, compare, make, plan, resolve, run_chain, stage_key
from codeflow.execute.shards import pool_on
from codeflow.recipes.verbs import Verb

_PATIENCE_SECONDS = 600  # of torchrun's later processes for the first one


@dataclass(frozen=True)
class Wanted:
    """What a user changes about a recipe."""

    overrides: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    benchmarks: Path | None = None
    remake: tuple[str, ...] = ()
    until: str | None = None
    on: str = "local"  # where shards run, see `pool_on`


def recipes() -> dict[str, str]:
    """Return the recipes by name, as references to their functions."""
    small = {name: f"codeflow.recipes.tiny:{name}" for name in ("tiny", "smoke")}
    return {**small, "paths": "codeflow.recipes.paths:paths", "scaling": "codeflow.recipes.scaling:scaling"}


def own_checkout() -> str:
    """Return the checkout that this package runs from, or "" when it is installed elsewhere."""
    folder = Path(codeflow.__file__).parents[2]
    return str(folder) if (folder / ".git").exists() and (folder / "pyproject.toml").exists() else ""


def run_recipe(name: str, output: Path | None, wanted: Wanted, only_plan: bool = False) -> None:
    """Run or plan a recipe. Raises UserError for an unknown recipe, a bad override or an unusable folder."""
    if _torchrun_processes() > 1:
        raise UserError(
            "a recipe runs in one process, and its training phases start those that their mesh asks for; "
            "start it without torchrun"
        )
    known = recipes()
    if name not in known:
        raise UserError(f"no recipe '{name}'{suggest(name, known)}")
    recipe = resolve(known[name])().with_sources(wanted.repositories, own_checkout(), wanted.benchmarks)
    stages = _until(apply_overrides(recipe, wanted.overrides).chain(), wanted.until)
    folder = output or Path("runs") / name
    if only_plan:
        _print_plan(stages, folder, wanted.remake)
        return
    started = time.monotonic()
    with folder_lock(folder):
        plan(stages, folder, wanted.remake)  # finds wrong stage names and damaged artifacts before any work
        with pool_on(wanted.on) as pool:
            run_chain(stages, folder, wanted.remake, pool=pool)
    say(f"all stages done in {time.monotonic() - started:.1f} s")
    if stages[-1].kind == "report":
        report = folder / stages[-1].name
        print((report / "summary.txt").read_text().rstrip())
        print(f"report: {(report / 'index.html').resolve()}")


def _until(stages: list[Stage], last: str | None) -> list[Stage]:
    if last is None:
        return stages
    names = [stage.name for stage in stages]
    if last not in names:
        raise UserError(f"--until {last}: no such stage{suggest(last, names)}")
    return stages[: names.index(last) + 1]


def _print_plan(stages: Sequence[Stage], folder: Path, remake: Sequence[str]) -> None:
    from rich.table import Table

    table = Table("stage", "artifact", "action", "why", box=None)
    for step in plan(stages, folder, remake):
        table.add_row(step.stage.name, step.stage.kind, step.action, step.reason)
    console.print(table)


def run_verb(verb: Verb, output: Path, inputs: Sequence[str], overrides: Sequence[str], on: str = "local") -> None:
    """Make one artifact at `output` from input artifacts given as `name=DIR`; its shards run where `on` says."""
    if on != "local" and not verb.pooled:
        raise UserError(f"--on {on}: '{verb.name}' does not work on shards; leave it out")
    wired = _wire(verb, inputs)
    config = apply_overrides(resolve(verb.config)(), overrides)
    stage = verb.stage(config, {name: str(path.resolve()) for name, path in wired.items()}, output.name)
    folder = output.parent
    if _torchrun_processes() > 1 and not verb.processes:
        raise UserError(f"'{verb.name}' runs in one process; start it without torchrun")
    if _torchrun_processes() > 1 and os.environ["RANK"] != "0":
        _follow(stage, folder, output)
        return
    with folder_lock(folder):
        step = compare(stage, output, stage_key(stage, folder))
        say(f"{stage.name}: {step.action} ({step.reason})")
        if step.action != "reuse":
            with pool_on(on) as pool:
                make(stage, folder, step.key, pool)
    counts = read_manifest(output).counts
    say(f"{stage.name}: kept {counts.kept:,} of {counts.read:,}; see `codeflow show {output}`")


def _torchrun_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _follow(stage: Stage, folder: Path, output: Path) -> None:
    """Work as one of torchrun's later processes: the first holds the folder's lock and prepares the artifact."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (step := compare(stage, output, stage_key(stage, folder))).action == "run":
        if time.monotonic() > deadline:
            raise InfrastructureError(
                f"{output} was not begun by the first process within {_PATIENCE_SECONDS} s; is it on a shared disk?"
            )
        time.sleep(0.1)
    if step.action == "resume":
        inputs = {argument: folder / source for argument, source in stage.inputs.items()}
        resolve(stage.run)(stage.config, inputs, output)


def _wire(verb: Verb, inputs: Sequence[str]) -> dict[str, Path]:
    wired: dict[str, Path] = {}
    allowed = {*verb.inputs, *verb.optional_inputs}
    for text in inputs:
        name, equals, folder = text.partition("=")
        if not equals:
            raise UserError(f"--input {text}: write NAME=DIR, with NAME one of {', '.join(sorted(allowed))}")
        if not any(fnmatchcase(name, pattern) for pattern in allowed):
            raise UserError(f"--input {text}: '{verb.name}' has no input '{name}'{suggest(name, allowed)}")
        wired[name] = Path(folder)
        read_manifest(wired[name])
    missing = [name for name in verb.inputs if name not in wired]
    if missing:
        raise UserError(f"'{verb.name}' needs --input {missing[0]}=DIR (an artifact's folder)")
    return wired
