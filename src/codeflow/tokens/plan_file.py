"""A loader plan on disk whose weights may change while a run reads it: changes are appended, never altered.

The file is the plan as JSON. `append_change` adds (step, weights) at its end, for a step that is not read yet. A run
that looks at the file between steps (`read_plan_file`, then a new `Loader`) deals the new weights from that step on. A
run that is resumed from the file replays them, since every batch is a function of the whole plan.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from codeflow.core.config import validate
from codeflow.core.errors import UserError
from codeflow.core.storage import write_text
from codeflow.tokens.loader import Folders, Loader, LoaderPlan
from codeflow.tokens.mixture import Blend


def write_plan_file(path: Path, plan: LoaderPlan) -> None:
    """Write a plan. Raises UserError when the file holds one of which `plan` is no continuation."""
    if path.exists():
        before = read_plan_file(path)
        if not continues(before, plan):
            raise UserError(f"{path} holds another plan; give this run a folder of its own")
    write_text(path, plan.model_dump_json(indent=2))


def read_plan_file(path: Path) -> LoaderPlan:
    """Read a plan with all its changes. Raises UserError when there is none or it is damaged."""
    if not path.exists():
        raise UserError(f"no loader plan {path}; write_plan_file makes one")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path} is damaged; write the plan again") from None
    return validate(LoaderPlan, tree, origin=str(path))


def continues(before: LoaderPlan, after: LoaderPlan) -> bool:
    """Return whether `after` is `before` with nothing but later changes at its end."""
    same = before.model_copy(update={"changes": ()}) == after.model_copy(update={"changes": ()})
    return same and after.changes[: len(before.changes)] == before.changes


def append_change(
    path: Path, step: int, weights: Mapping[str, float | Blend], next_step: int, folders: Folders
) -> LoaderPlan:
    """Let the sets have `weights` from `step` on and return the plan; `next_step` is the first that is not read yet.

    Raises UserError, and changes nothing, for a step that is past, one not behind the last change, and weights that
    name a set which `folders` do not hold.
    """
    if step < next_step:
        raise UserError(f"weights cannot change at step {step}: it is read already; choose {next_step} or later")
    plan = read_plan_file(path)
    if plan.changes and step <= plan.changes[-1].step:
        raise UserError(f"weights change at step {plan.changes[-1].step} already; choose a later step than {step}")
    plan = plan.changed(step, weights)
    Loader(plan, folders)
    write_plan_file(path, plan)
    return plan
