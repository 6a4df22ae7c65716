"""Stage `tasks`: micro-tasks with hidden tests, each proved by its gold answer (Code-Flow §7: 20 tests per problem).

A task asks for one small function: one to three primitives of a family in a row (its level), with visible examples.
Expected values come from the oracles, never from the gold answer. Hidden tests never repeat a visible input, have
several outcomes, and tell the composition from each shorter one, so constants, tables of the visible examples and
half-solutions fail at least one test.

Output: `tasks-{sft,rl,dev,heldout}-00000.parquet` of Task. Dev and heldout have compositions of their own, and so has
RL beside those of SFT (`compositions.py`): of its own no solution is ever shown. No prompt is there twice.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from codeflow.core.config import Config
from codeflow.core.types import Task

if TYPE_CHECKING:
    from codeflow.core.manifest import Counts, Manifest
    from codeflow.synth.primitive import Family, Step

BENCHMARK, VERIFIER, ORIGIN = "micro_tasks", "python_calls", "codeflow"
SPLITS = ("heldout", "dev", "sft", "rl")  # in the order in which prompts are taken
_ATTEMPTS = 200
_LEAST_OUTCOMES = 2
_LARGEST_SHARE = 0.8  # of hidden tests with the same outcome
_FUNCTIONS = ("f", "g", "solve", "run", "compute")
_OPENINGS = (
    "Write a function {call} that takes {takes}: {what}.",
    "Write {call} for {takes}. {What}.",
    "{call} takes {takes}. {What}.",
    "Given {takes}, {call} shall do this: {what}.",
)
_THEN = (", then ", "; after that ", " and then ")
_RETURN = (" and return ", ", and return ", "; return ")


class TasksConfig(Config):
    """How many tasks of each split; a level's share is its weight among those that the split has."""

    n_sft: int = Field(default=6000, ge=0)
    n_rl: int = Field(default=2000, ge=0)
    n_dev: int = Field(default=150, ge=0)
    n_heldout: int = Field(default=300, ge=0)
    n_hidden: int = Field(default=20, ge=4, le=20)
    n_visible: int = Field(default=2, ge=1, le=2)  # examples in the prompt; two have different outcomes
    level_weights: tuple[float, float, float] = (0.3, 0.5, 0.2)  # levels 1, 2, 3 of sft
    heldout_level_weights: tuple[float, float, float] = (0.0, 0.8, 0.2)  # of the others; singles are for sft
    batch_tasks: int = Field(default=250, ge=1)  # proved per start of the sandbox
    seed: int = 0

    @model_validator(mode="after")
    def _weights(self) -> TasksConfig:
        for name in ("level_weights", "heldout_level_weights"):
            weights = getattr(self, name)
            if min(weights) < 0 or sum(weights) <= 0:
                raise ValueError(f"{name}={weights}: weights must be at least 0 and not all 0")
        if self.heldout_level_weights[0]:
            raise ValueError("heldout_level_weights[0] must be 0: single primitives are shown with their solutions")
        return self

    def size(self, split: str) -> int:
        """Return the number of tasks of a split."""
        return {"sft": self.n_sft, "rl": self.n_rl, "dev": self.n_dev, "heldout": self.n_heldout}[split]


@dataclass(frozen=True, slots=True)
class FamilyJob:
    """The tasks of one family, to be made, proved and left in `folder`."""

    name: str
    config: TasksConfig
    folder: Path


def run(config: TasksConfig, inputs: Mapping[str, Path], output: Path, workers: int | None = None) -> Manifest:
    """Make and prove the tasks. No inputs. Raises UserError when no sandbox works here.

    Metrics: by split the number of tasks by family and level, characters of prompts and solutions, and the
    compositions that rl, dev and heldout keep for themselves. Dropped: prompts that two families happen to share.
    """
    from codeflow.core.manifest import PROGRESS, Counts, seal
    from codeflow.core.records import read_records, write_records
    from codeflow.execute.local import LocalPool
    from codeflow.execute.shards import run_shards
    from codeflow.synth.families import FAMILIES
    from codeflow.synth.proof import require_sandbox

    require_sandbox()
    jobs = [FamilyJob(family.name, config, output / PROGRESS) for family in FAMILIES]
    counts = run_shards(make_family, jobs, output, "tasks", LocalPool(workers))
    prompts: set[str] = set()
    measures: dict[str, Any] = {}
    for split in SPLITS:
        made = [task for job in jobs for task in read_records(job.folder / f"{job.name}-{split}.parquet", Task)]
        kept: list[Task] = []
        for task in sorted(made, key=_number):  # families take turns
            if task.prompt not in prompts:
                prompts.add(task.prompt)
                kept.append(task)
        write_records(output / f"tasks-{split}-00000.parquet", kept, Task)
        measures[split] = _measure(kept)
    dropped = counts.kept - len(prompts)
    total = Counts(
        read=counts.read, kept=len(prompts), dropped={"prompt of another family": dropped} if dropped else {}
    )
    return seal(output, total, {"splits": measures, **_held()})


def _number(task: Task) -> int:
    return int(task.id.rpartition("/")[2])


def make_family(job: FamilyJob) -> Counts:
    """Make a family's tasks and run their gold answers. One that fails is our mistake: AssertionError names it."""
    from codeflow.core.manifest import Counts
    from codeflow.core.records import write_records
    from codeflow.synth.families import FAMILIES
    from codeflow.synth.proof import unproved

    family = next(family for family in FAMILIES if family.name == job.name)
    tasks = make_tasks(job.config, family)
    every = [task for split in SPLITS for task in tasks[split]]
    for at in range(0, len(every), job.config.batch_tasks):
        failed = unproved(every[at : at + job.config.batch_tasks])
        assert not failed, f"gold answer of {failed[0][0].id} fails: {failed[0][1].reason}"
    for split in SPLITS:
        write_records(job.folder / f"{job.name}-{split}.parquet", tasks[split], Task)
    return Counts(read=len(every), kept=len(every))


def make_tasks(config: TasksConfig, family: Family) -> dict[str, list[Task]]:
    """Return a family's tasks of each split, unproved; a pure function of the configuration.

    Raises UserError when a split asks for more tasks than there are different prompts.
    """
    from codeflow.synth.families import FAMILIES

    prompts: set[str] = set()
    found: dict[str, list[Task]] = {}
    offset = 0
    for split in SPLITS:
        found[split] = []
        for index in range(FAMILIES.index(family), config.size(split), len(FAMILIES)):
            task = _new_task(config, family, split, offset + index, prompts)
            prompts.add(task.prompt)
            found[split].append(task)
        offset += config.size(split)
    return found


def _new_task(config: TasksConfig, family: Family, split: str, number: int, taken: set[str]) -> Task:
    from codeflow.core.errors import UserError
    from codeflow.synth.compositions import RL, TRAIN, compositions
    from codeflow.synth.primitive import with_parameters

    source = random.Random(f"tasks/{config.seed}/{split}/{number}")
    weights = config.level_weights if split == "sft" else config.heldout_level_weights
    level = source.choices((1, 2, 3), weights)[0]
    seen = {"sft": (TRAIN,), "rl": (TRAIN, RL)}.get(split, (split,))
    choices = [composition for name in seen for composition in compositions(family, name, level)]
    for _ in range(_ATTEMPTS if choices else 0):
        composition = source.choice(choices)
        steps = with_parameters([family[name] for name in composition], source)
        tests = _tests(family, steps, (config.n_visible, config.n_hidden), source)
        if tests:
            task = _write(family, steps, tests, split, number, source)
            if task.prompt not in taken:
                return task
    raise UserError(f"no new prompt for {split} task {number} of family {family.name}; lower n_{split}")


def _tests(
    family: Family, steps: Sequence[Step], sizes: tuple[int, int], source: random.Random
) -> tuple[list[Any], list[Any]] | None:
    """Return visible and hidden inputs, or None when they cannot tell this composition from a simpler one.

    `sizes` says how many of each.
    """
    from codeflow.synth.compositions import outcome, shortcuts, value_text

    n_visible, n_hidden = sizes
    inputs: dict[str, Any] = {}
    for _ in range(5 * n_hidden):
        value = family.draw(source)
        inputs.setdefault(value_text(value), value)
        if len(inputs) == n_visible + n_hidden:
            break
    if len(inputs) < n_visible + n_hidden:
        return None
    values = list(inputs.values())
    whole = [outcome(steps, value) for value in values]
    first = whole[0]
    second = next((i for i, text in enumerate(whole) if text != first), None)
    if second is None:
        return None
    visible = [0, second][:n_visible]
    hidden = [i for i in range(len(values)) if i not in visible]
    common = Counter(whole[i] for i in hidden).most_common()
    if len(common) < _LEAST_OUTCOMES or common[0][1] > _LARGEST_SHARE * len(hidden):
        return None
    for shorter in shortcuts(steps):
        if all(outcome(shorter, values[i]) == whole[i] for i in hidden):
            return None
    return [values[i] for i in visible], [values[i] for i in hidden]


def _write(
    family: Family,
    steps: Sequence[Step],
    tests: tuple[list[Any], list[Any]],
    split: str,
    number: int,
    source: random.Random,
) -> Task:
    from codeflow.solve.plain import to_tree
    from codeflow.solve.verify import python_calls_data
    from codeflow.synth.primitive import expected_value, gold_solution

    function = source.choice(_FUNCTIONS)
    visible, hidden = ([(value, expected_value(steps, value)) for value in part] for part in tests)
    text = _sentence(family, steps, function, source)
    examples = "".join(f"\n{function}({value!r}) == {answer!r}" for value, answer in visible)
    fields = json.loads(python_calls_data(function, [(v,) for v, _ in hidden], [a for _, a in hidden]))
    fields |= {
        "family": family.name,
        "level": len(steps),
        "split": split,
        "composition": "+".join(step.primitive.name for step in steps),
        "visible": {"inputs": [to_tree((v,)) for v, _ in visible], "expected": [to_tree(a) for _, a in visible]},
        "gold": gold_solution(function, family.variable, steps),
    }
    name = f"{family.name}/{len(steps)}/{number}"
    return Task(name, BENCHMARK, text + examples, VERIFIER, json.dumps(fields, ensure_ascii=False), ORIGIN)


def _sentence(family: Family, steps: Sequence[Step], function: str, source: random.Random) -> str:
    phrases = [step.phrase(source) for step in steps]
    if steps[-1].primitive.ends:
        *before, last = phrases
        what = source.choice(_THEN).join(before) + source.choice(_RETURN) + last if before else f"return {last}"
    else:
        what = source.choice(_THEN).join(phrases) + source.choice(_RETURN) + "the result"
    call = f"{function}({family.variable})"
    opening = source.choice(_OPENINGS)
    return opening.format(call=call, takes=family.takes, what=what, What=what[0].upper() + what[1:])


def _measure(tasks: Sequence[Task]) -> dict[str, Any]:
    data = [json.loads(task.data) for task in tasks]
    n = max(len(tasks), 1)
    return {
        "tasks": len(tasks),
        "by_family_and_level": dict(sorted(Counter(f"{d['family']}/{d['level']}" for d in data).items())),
        "compositions": len({(d["family"], d["composition"]) for d in data}),
        "mean_prompt_characters": round(sum(len(task.prompt) for task in tasks) / n, 1),
        "mean_solution_characters": round(sum(len(d["gold"]) for d in data) / n, 1),
    }


def _held() -> dict[str, Any]:
    from codeflow.synth.compositions import DEV, HELDOUT, RL, table

    return {"held_out_pairs": {split: list(_pairs(split)) for split in (RL, DEV, HELDOUT)}, "compositions": table()}


def _pairs(split: str) -> Iterator[str]:
    from codeflow.synth.compositions import compositions
    from codeflow.synth.families import FAMILIES

    for family in FAMILIES:
        for pair in compositions(family, split, 2):
            yield f"{family.name}/{'+'.join(pair)}"
