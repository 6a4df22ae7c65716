"""`codeflow mine-tasks`: tasks from the commits of one repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codeflow.core.config import apply_overrides
from codeflow.core.manifest import Manifest, read_manifest
from codeflow.core.progress import say
from codeflow.core.storage import folder_lock
from codeflow.execute.chain import Stage, compare, make, stage_key


def mine_tasks(repository: str, output: Path, overrides: Sequence[str]) -> Manifest:
    """Mine tasks into `output`, or reuse what is there; say what came out. Raises UserError for bad input."""
    from codeflow.solve.repository.mine import KIND, MineConfig

    config = apply_overrides(MineConfig(repository=_place(repository)), overrides)
    module = "codeflow.solve.repository.mine"
    stage = Stage(output.name, KIND, f"{module}:run", config, world=f"{module}:world")
    folder = output.resolve().parent
    key = stage_key(stage, folder)  # says what is wrong with the repository before anything is made
    with folder_lock(folder):
        step = compare(stage, output, key)
        say(f"{stage.name}: {step.action} ({step.reason})")
        if step.action != "reuse":
            make(stage, folder, step.key)
    manifest = read_manifest(output)
    counts, metrics = manifest.counts, manifest.metrics
    say(
        f"{stage.name}: {counts.kept:,} tasks of {counts.read:,} commits, {metrics['fail_to_pass']:,} Fail-to-Pass and "
        f"{metrics['pass_to_pass']:,} Pass-to-Pass tests; see `codeflow show {output}`"
    )
    return manifest


def _place(repository: str) -> str:
    path = Path(repository).expanduser()
    return str(path.resolve()) if path.exists() else repository
