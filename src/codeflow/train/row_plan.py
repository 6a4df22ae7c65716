"""Which rows a phase reads, written down: every change of weights is on disk before a row is read by it.

    plan.json        in the checkpoint's folder: the loader's plan, with its changes and what earlier phases have read
    .reweight.json   weights that someone asks a running phase for; it takes them at its next step

A row is a function of the plan, the seed, the step and the rank alone. So a phase that was killed reads what it read
before: from its last checkpoint on it meets the changes that it made, whoever asked for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codeflow.core.config import Config, validate
from codeflow.core.errors import UserError
from codeflow.core.manifest import read_begun
from codeflow.core.progress import say
from codeflow.core.storage import write_text
from codeflow.tokens.loader import Folders, Loader, LoaderPlan, Seen
from codeflow.tokens.mixture import Blend, WeightChange, flatten
from codeflow.tokens.plan_file import append_change, continues, read_plan_file, write_plan_file
from codeflow.train.rows import TrainingRows

if TYPE_CHECKING:
    from codeflow.parallel.mesh import World

PLAN, REQUEST = "plan.json", ".reweight.json"
TOKENS = "tokens"


class SeenSet(Seen):
    """What has been read of one set of a tokens artifact, under its name there."""

    name: str


class _Request(Config):
    weights: dict[str, float | Blend]


class RowPlan:
    """The rows of a phase and the plan on disk that deals them. All processes call its methods alike."""

    def __init__(self, folder: Path, plan: LoaderPlan, tokens: Folders, validation_rows: int, here: World) -> None:
        """Write `plan` to `folder`, or take up the one that lies there, with the changes since.

        Raises UserError for a plan that does not fit the tokens, and when the one in `folder` does not continue `plan`.
        """
        self.rows = TrainingRows(plan, tokens, validation_rows)
        self._path, self._request = folder / PLAN, folder / REQUEST
        self._tokens, self._validation_rows, self._here = tokens, validation_rows, here
        self._n_scheduled = len(plan.changes)
        if here.is_first and not self._path.exists():
            write_plan_file(self._path, plan)
        here.barrier()
        self._take_up()
        if not continues(plan, self.rows.plan):
            raise UserError(f"{self._path} holds another plan than the configuration's; delete {folder} to start anew")

    @property
    def changes(self) -> tuple[WeightChange, ...]:
        """The changes that were made while the phase ran."""
        return self.rows.plan.changes[self._n_scheduled :]

    def sets_at(self, step: int) -> list[str]:
        """Return the sets that the configuration gives weight, or that a change has given weight by `step`.

        A phase that goes on measures the same sets as it did before it made its later changes.
        """
        plan = self.rows.plan
        n_changes = self._n_scheduled + sum(change.step <= step for change in self.changes)
        weights = [flatten(weights) for _, weights in plan.phases[: 1 + n_changes]]
        return sorted({name for known in weights for name, weight in known.items() if weight > 0})

    def weights_at(self, step: int) -> dict[str, float]:
        """Return the weights of the sets in the batch after `step` steps."""
        *_, weights = (weights for first, weights in self.rows.plan.phases if first <= step)
        return flatten(weights)

    def change(self, step: int, weights: Mapping[str, float | Blend]) -> bool:
        """Let the sets have `weights` from the batch after `step` steps on; return whether the plan is another now.

        A phase that goes on after a kill comes to its decisions a second time: where the plan has a change at `step` or
        later already, that one stands. Raises UserError, and changes nothing, for weights that do not fit the tokens.
        """
        if any(change.step >= step for change in self.changes):
            return False
        if self._here.is_first:
            append_change(self._path, step, weights, step, self._tokens)
        self._here.barrier()
        self._take_up()
        return True

    def take_request(self, step: int) -> None:
        """Take weights that were asked for (`request_change`) from the batch after `step` steps on."""
        found = float(self._here.is_first and self._request.exists())
        (found,) = self._here.sum_all(found) if self._here.n_ranks > 1 else (found,)
        if not found:
            return
        if self._here.is_first:
            self._settle_request(step)
        self._here.barrier()
        self._take_up()

    def _settle_request(self, step: int) -> None:
        plan = self.rows.plan
        last = plan.changes[-1] if plan.changes else None
        at = max(step, 1, last.step + 1 if last else 0)
        try:
            weights = validate(_Request, json.loads(self._request.read_text(encoding="utf-8"))).weights
            if not (last and last.weights == weights):  # else taken already, just before a kill
                append_change(self._path, at, weights, step, self._tokens)
                say(f"  new weights from step {at + 1} on: {json.dumps(_plain(weights))}")
        except (UserError, ValueError) as error:
            say(f"  the weights asked for were not taken: {error}")
        self._request.unlink()

    def _take_up(self) -> None:
        plan = read_plan_file(self._path)
        if plan != self.rows.plan:
            self.rows = TrainingRows(plan, self._tokens, self._validation_rows)


def _plain(weights: Mapping[str, float | Blend]) -> dict[str, Any]:
    return {name: part.model_dump() if isinstance(part, Blend) else part for name, part in weights.items()}


def parse_weights(texts: Sequence[str]) -> dict[str, float | Blend]:
    """Read weights from `set=weight` texts. Raises UserError for one that is none."""
    weights: dict[str, float | Blend] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        try:
            weights[name] = float(number)
        except ValueError:
            equals = ""
        if not (equals and name):
            raise UserError(f"'{text}' is no weight of a set; write SET=WEIGHT, as in code=0.6")
    return weights


def request_change(folder: Path, weights: Mapping[str, float | Blend]) -> None:
    """Ask the phase that trains in `folder` for other weights; it takes them at its next step.

    Raises UserError when no unfinished phase lies there, and for weights that its tokens do not fit.
    """
    begun = read_begun(folder)
    if begun is None or not (folder / PLAN).exists():
        raise UserError(f"{folder} is no phase in training; give the folder of a `train` stage that is not finished")
    plan = read_plan_file(folder / PLAN)
    tokens = token_folders({name: Path(record.path) for name, record in begun.inputs.items()})
    Loader(plan.changed(plan.changes[-1].step + 1 if plan.changes else 1, weights), tokens)
    write_text(folder / REQUEST, _Request(weights=dict(weights)).model_dump_json())


def token_folders(inputs: Mapping[str, Path]) -> dict[str, Path]:
    """Return the tokens artifacts among a phase's inputs by prefix: `tokens` has none, `tokens_32k` has `32k`."""
    found = {name.removeprefix(TOKENS).removeprefix("_"): path for name, path in inputs.items() if _is_tokens(name)}
    return {"": found.pop(""), **found}


def _is_tokens(name: str) -> bool:
    return name == TOKENS or (name.startswith(f"{TOKENS}_") and name != f"{TOKENS}_")


def going_on(rows: TrainingRows, earlier: Sequence[SeenSet]) -> tuple[LoaderPlan, list[str]]:
    """Return the plan of `rows` so that its sets go on behind what was read of them, and remarks on those that do not.

    A set goes on where an earlier phase read the same rows in the same order: equal tokens, seed and rows held out.
    Raises UserError for a set in `once` that was read otherwise: which of its rows are new cannot be told.
    """
    seen: dict[str, Seen] = {}
    anew: list[str] = []
    for name, rows_of_set in rows.sets.items():
        order = (rows_of_set.n_rows, rows.plan.seed, rows_of_set.index.token_multiset_hash)
        known = [record for record in earlier if record.name == rows_of_set.name]
        same = [record for record in known if (record.of_rows, record.seed, record.content) == order]
        if same:
            seen[name] = Seen.model_validate(same[-1].model_dump(exclude={"name"}))
        elif known and name in rows.plan.once:
            raise UserError(
                f"set '{name}' must be seen once, but an earlier phase read a set '{rows_of_set.name}' in another "
                f"order (seed {known[-1].seed}, {known[-1].of_rows} rows); give both the same tokens, seed and "
                "validation_rows"
            )
        elif any(record.content == rows_of_set.index.token_multiset_hash for record in known):
            anew.append(name)
    fields = {**rows.plan.model_dump(), "seen": {name: record.model_dump() for name, record in seen.items()}}
    why = "an earlier phase read the same tokens in another order (context, seed or rows held out)"
    return validate(LoaderPlan, fields), [f"starting anew: {', '.join(anew)}; {why}"] if anew else []


def seen_in_all(earlier: Sequence[SeenSet], rows: TrainingRows, steps: int) -> list[SeenSet]:
    """Return what a phase and the ones before it have read after `steps` steps of it."""
    found = {(record.name, record.of_rows, record.seed, record.content): record for record in earlier}
    for name, seen in rows.seen_after(steps).items():
        own = rows.sets[name].name
        found[own, seen.of_rows, seen.seed, seen.content] = SeenSet(name=own, **seen.model_dump())
    return list(found.values())
