"""The tasks prove themselves here without a sandbox (the code is ours); the sandboxed gold check is in tests/solve."""

from __future__ import annotations

import pytest

from codeflow.eval.benchmarks.micro_tasks import TASKS, MicroTask


def _call(task: MicroTask, body: str) -> list:
    space: dict = {}
    exec(task.prompt + body, space)
    return [space[task.entry_point](*arguments) for arguments in task.inputs()]


def _typed(value: object) -> object:
    return (type(value), value)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_gold_agrees_with_the_oracle_and_wrong_does_not(task: MicroTask):
    expected = [_typed(value) for value in task.expected()]
    assert [_typed(value) for value in _call(task, task.gold)] == expected
    try:
        wrong = [_typed(value) for value in _call(task, task.wrong)]
    except Exception:
        return
    assert wrong != expected


def test_names_are_unique_and_inputs_reproducible():
    assert len({task.name for task in TASKS}) == len(TASKS) == 24
    for task in TASKS:
        assert task.inputs() == task.inputs()
        assert len({repr(arguments) for arguments in task.inputs()}) >= 4
