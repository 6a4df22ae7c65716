from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from codeflow.core.errors import UserError
from codeflow.core.manifest import PROGRESS, begin, read_manifest
from codeflow.core.records import read_shards
from codeflow.core.types import Task, Verdict
from codeflow.execute.local import LocalPool
from codeflow.execute.shards import run_shards
from codeflow.sandbox.local import Probe, open_sandbox
from codeflow.solve.plain import canonical, from_tree
from codeflow.solve.verify import verify
from codeflow.synth import proof
from codeflow.synth.families import FAMILIES
from codeflow.synth.primitive import Step, gold_solution
from codeflow.synth.tasks import SPLITS, FamilyJob, TasksConfig, make_family, make_tasks, run
from tests.synth.conftest import CONFIG


@pytest.fixture(scope="session")
def tasks(tasks_folder: Path) -> dict[str, list[Task]]:
    return {split: list(read_shards(tasks_folder, f"tasks-{split}", Task)) for split in SPLITS}


def _judge(pairs: list[tuple[Task, str]]) -> list[Verdict]:
    async def one(gate: asyncio.Semaphore, task: Task, answer: str) -> Verdict:
        async with gate, open_sandbox() as sandbox:
            return (await verify(task, answer, sandbox)).verdict

    async def everything() -> list[Verdict]:
        gate = asyncio.Semaphore(3)
        return await asyncio.gather(*[one(gate, task, answer) for task, answer in pairs])

    return asyncio.run(everything())


def test_sizes_ids_and_manifest(tasks, tasks_folder):
    assert {split: len(found) for split, found in tasks.items()} == {"heldout": 28, "dev": 28, "sft": 84, "rl": 42}
    every = [task for found in tasks.values() for task in found]
    assert len({task.id for task in every}) == len(every)
    manifest = read_manifest(tasks_folder)
    assert manifest.counts.read == manifest.counts.kept == len(every)
    assert manifest.metrics["held_out_pairs"]["heldout"]
    assert manifest.metrics["splits"]["sft"]["tasks"] == 84


def test_no_prompt_twice_and_no_held_out_composition_in_training(tasks):
    prompts = [task.prompt for found in tasks.values() for task in found]
    assert len(set(prompts)) == len(prompts)
    of = {
        s: {(d["family"], d["composition"]) for t in found for d in [json.loads(t.data)]} for s, found in tasks.items()
    }
    assert of["rl"] - of["sft"]
    for held in ("dev", "heldout"):
        for other in SPLITS:
            assert held == other or not of[held] & of[other], (held, other)


def test_hidden_tests_are_disjoint_from_the_visible_and_of_several_outcomes(tasks):
    for task in (task for found in tasks.values() for task in found):
        data = json.loads(task.data)
        visible = {canonical(tree) for tree in data["visible"]["inputs"]}
        hidden = [canonical(tree) for tree in data["inputs"]]
        assert len(visible) == 2
        assert len(hidden) == len(set(hidden)) == 20
        assert not visible & set(hidden)
        outcomes = [canonical(tree) for tree in data["expected"]]
        assert max(outcomes.count(o) for o in set(outcomes)) <= 16
        for given, expected in zip(data["visible"]["inputs"], data["visible"]["expected"], strict=True):
            assert f"{data['entry_point']}({from_tree(given)[0]!r}) == {from_tree(expected)!r}" in task.prompt


def _cheats(task: Task) -> list[str]:
    data = json.loads(task.data)
    name, variable = data["entry_point"], data["gold"].partition("(")[2].partition(")")[0]
    known = [(from_tree(v)[0], from_tree(e)) for v, e in zip(*data["visible"].values(), strict=True)]
    constant = from_tree(max(data["expected"], key=data["expected"].count))
    table = "".join(f"    if {variable} == {value!r}:\n        return {answer!r}\n" for value, answer in known)
    head = f"def {name}({variable}):\n"
    family = next(f for f in FAMILIES if f.name == data["family"])
    names = data["composition"].split("+")
    half = gold_solution(name, variable, [Step(family[n], (family[n].parameters or (None,))[0]) for n in names[:-1]])
    halves = [half] if len(names) > 1 else []
    return [f"{head}    return {constant!r}\n", f"{head}{table}    return {known[0][1]!r}\n",
            f"{head}{table}    return {variable}\n", f"{head}{table}    return {constant!r}\n", *halves]  # fmt: skip


def test_gold_answers_pass_and_cheats_earn_nothing_when_all_tests_count(tasks):
    sample = [tasks[split][n] for split in SPLITS for n in (0, 5)]
    gold = _judge([(task, json.loads(task.data)["gold"]) for task in sample])
    assert [verdict.reward for verdict in gold] == [1.0] * len(sample)
    pairs = [(task, cheat) for task in sample for cheat in _cheats(task)]
    verdicts = _judge(pairs)
    assert [answer for (_, answer), v in zip(pairs, verdicts, strict=True) if v.passed or v.reward == 1] == []
    assert {v.fault for v in verdicts} == {"model"}


def test_proof_names_the_task_whose_gold_answer_fails(tasks):
    wrong = json.loads(tasks["sft"][7].data)
    wrong["gold"] = f"def {wrong['entry_point']}(x):\n    return None\n"
    spoilt = dataclasses.replace(tasks["sft"][7], data=json.dumps(wrong))
    found = proof.unproved([*tasks["sft"][:7], spoilt, *tasks["sft"][8:20]])
    assert [task.id for task, _ in found] == [spoilt.id]
    assert not found[0][1].passed


@pytest.mark.slow
def test_equal_bytes_after_an_interrupted_run_and_with_two_workers(tasks_folder, tmp_path):
    output = tmp_path / "tasks"
    begin(output, "tasks", CONFIG, {}, "k")
    jobs = [FamilyJob(family.name, CONFIG, output / PROGRESS) for family in FAMILIES[:3]]
    run_shards(make_family, jobs, output, "tasks", LocalPool(1))
    assert begin(output, "tasks", CONFIG, {}, "k")
    assert run(CONFIG, {}, output, workers=2).fingerprint == read_manifest(tasks_folder).fingerprint


def test_seed_changes_tasks():
    small: dict[str, Any] = {"n_sft": 28, "n_rl": 0, "n_dev": 0, "n_heldout": 14}
    first, second = (make_tasks(TasksConfig(seed=s, **small), FAMILIES[0]) for s in (0, 1))
    assert {t.prompt for t in first["sft"]}.isdisjoint(t.prompt for t in second["sft"])
    assert first == make_tasks(TasksConfig(seed=0, **small), FAMILIES[0])


def test_without_a_sandbox_the_stage_stops_and_names_bubblewrap(monkeypatch, tmp_path):
    monkeypatch.setattr(proof, "probe", lambda: Probe("", "no sandbox: user namespaces are off"))
    with pytest.raises(UserError, match="bubblewrap"):
        run(CONFIG, {}, tmp_path)


@pytest.mark.parametrize(
    "fields", [{"level_weights": (0, 0, 0)}, {"level_weights": (-1, 1, 1)}, {"heldout_level_weights": (1, 1, 1)}]
)
def test_bad_weights_are_refused(fields: dict[str, Any]):
    with pytest.raises(ValidationError, match="weights"):
        TasksConfig(**fields)


def test_one_visible_example_leaves_as_many_hidden_tests():
    config = CONFIG.model_copy(update={"n_visible": 1, "n_sft": 14, "n_rl": 0, "n_dev": 0, "n_heldout": 14})
    for task in (task for family in FAMILIES for found in make_tasks(config, family).values() for task in found):
        data = json.loads(task.data)
        assert len(data["visible"]["inputs"]) == 1
        assert task.prompt.count("==") == 1
        assert len(data["inputs"]) == len(data["expected"]) == 20
