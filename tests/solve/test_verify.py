from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from codeflow.core.types import Task, Verdict
from codeflow.eval.benchmarks.micro_tasks import TASKS
from codeflow.sandbox.local import open_sandbox, probe
from codeflow.sandbox.policy import Limits
from codeflow.solve.verify import humaneval_data, python_calls_data, verify

pytestmark = pytest.mark.skipif(not probe().backend, reason=probe().problem or "sandbox works")
LIMITS = Limits(wall_seconds=10, cpu_seconds=5)


def _judge(tasks_and_answers: list[tuple[Task, str]], limits: Limits = LIMITS, at_once: int = 3) -> list[Verdict]:
    async def one(gate: asyncio.Semaphore, task: Task, answer: str) -> Verdict:
        async with gate, open_sandbox() as sandbox:
            return (await verify(task, answer, sandbox, limits)).verdict

    async def everything() -> list[Verdict]:
        gate = asyncio.Semaphore(at_once)
        return await asyncio.gather(*[one(gate, task, answer) for task, answer in tasks_and_answers])

    return asyncio.run(everything())


def _calls(entry_point: str, inputs: list[tuple], expected: list) -> Task:
    return Task("t", "test", "", "python_calls", python_calls_data(entry_point, inputs, expected), "")


def test_gold_solutions_earn_one_and_wrong_ones_do_not():
    tasks = [_calls(task.entry_point, task.inputs(), task.expected()) for task in TASKS]
    gold = _judge([(task, micro.prompt + micro.gold) for task, micro in zip(tasks, TASKS, strict=True)])
    assert [(m.name, v.reason) for m, v in zip(TASKS, gold, strict=True) if v.reward != 1 or not v.passed] == []
    wrong = _judge([(task, micro.prompt + micro.wrong) for task, micro in zip(tasks, TASKS, strict=True)])
    assert [m.name for m, v in zip(TASKS, wrong, strict=True) if v.reward == 1 or v.passed or v.fault != "model"] == []


CHEATS = {
    "equal to everything": "class A:\n    def __eq__(self, other): return True\ndef f(x): return A()",
    "int that is equal to everything": "class A(int):\n    def __eq__(self, other): return True\ndef f(x): return A(3)",
    "exit before": "import os\ndef f(x): os._exit(0)",
    "exit on import": "import os; os._exit(0)",
    "system exit": "raise SystemExit(0)",
    "True for 1": "def f(x): return True",
    "float": "def f(x): return float(x + 1)",
    "printed": "def f(x):\n    print(x + 1)\nprint('passed')",
    "forged lines": 'import os\nfor fd in range(3, 64):\n    try: os.write(fd, b\'["value",["i","1"]]\\n\' * 2)\n'
    "    except OSError: pass\nos._exit(0)",
    "extra lines": "import os\ndef f(x):\n    for fd in range(3, 64):\n"
    "        try: os.write(fd, b'[\"value\",null]\\n')\n"
    "        except OSError: pass\n    return x + 1",
    "deep": "def f(x):\n    a = []\n    for _ in range(100000): a = [a]\n    return a",
    "deep line": "import os\ndef f(x):\n    for fd in range(3, 64):\n        try: os.write(fd, b'[' * 200000)\n"
    "        except OSError: pass\n    return x + 1",
    "cyclic": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "error that raises": "class E(Exception):\n    def __str__(self): raise self\ndef f(x): raise E",
}


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_fail(name):
    (verdict,) = _judge([(_calls("f", [(0,), (1,)], [1, 2]), CHEATS[name])])
    assert not verdict.passed
    assert verdict.fault == "model"
    assert verdict.reward < 1


def test_honest_answer_and_partial_reward():
    task = _calls("f", [(0,), (1,)], [1, 2])
    good, half, mutating = _judge(
        [
            (task, "def f(x): return x + 1"),
            (task, "def f(x): return 1"),
            (_calls("f", [([],), ([1],)], [None, None]), "def f(x): x.append(1)"),
        ]
    )
    assert good == Verdict(True, 1.0, "passed", "", 2, 2)
    assert half == Verdict(False, 0.5, "call 2: wrong value", "model", 1, 2)
    assert mutating.passed


def test_results_before_an_endless_loop_count():
    task = _calls("f", [(0,), (1,)], [1, 2])
    (verdict,) = _judge([(task, "def f(x):\n    while x: pass\n    return 1")], Limits(wall_seconds=1.5))
    assert verdict.tests_passed == 1
    assert "(time)" in verdict.reason


_DATA = humaneval_data("def f(x):\n", "def check(c):\n    assert c(1) == 2\n", "f", 2)
_ONE = Task("t", "humaneval", "", "humaneval", _DATA, "")


@pytest.mark.parametrize(
    ("completion", "passed"),
    [
        ("    return x + 1\n", True),
        ("    return x\n", False),
        ("    import os\n    os._exit(0)\n", False),
        ("    raise SystemExit(0)\n", False),
        ("    return input()\n", False),
        ("    print('passed')\n    print('[\"passed\"]')\n", False),
        ("    while True: pass\n", False),
        ("    return x +\n", False),
    ],
)
def test_humaneval_rule(completion, passed):
    (verdict,) = _judge([(_ONE, completion)])
    assert verdict.passed is passed
    assert verdict.fault == ("" if passed else "model")


def _humaneval_folder() -> Path:
    named = os.environ.get("CODEFLOW_BENCHMARKS")
    folder = Path(named) if named else Path(__file__).parents[3] / "shared/data"
    if not (folder / "humaneval/HumanEval.jsonl.gz").is_file():
        pytest.skip(f"no humaneval/HumanEval.jsonl.gz under {folder}; set CODEFLOW_BENCHMARKS")
    return folder / "humaneval"


def _humaneval_tasks(folder: Path) -> dict[str, tuple[Task, str]]:
    from codeflow.eval.benchmarks.humaneval import load

    return {
        p.task_id: (
            Task(p.task_id, "humaneval", p.prompt, "humaneval", humaneval_data(p.prompt, p.test, p.entry_point), ""),
            p.canonical_solution,
        )
        for p in load(folder / "HumanEval.jsonl.gz")
    }


@pytest.mark.slow
def test_all_official_solutions_pass():
    tasks = _humaneval_tasks(_humaneval_folder())
    assert len(tasks) == 164
    verdicts = _judge(list(tasks.values()))
    assert [name for name, verdict in zip(tasks, verdicts, strict=True) if not verdict.passed] == []


@pytest.mark.slow
def test_parity_with_official_verdicts():
    folder = _humaneval_folder()
    if not (folder / "verdicts_sample.jsonl").is_file():
        pytest.skip(f"no verdicts_sample.jsonl in {folder}")
    tasks = _humaneval_tasks(folder)
    rows = [json.loads(line) for line in (folder / "verdicts_sample.jsonl").read_text().splitlines()]
    verdicts = _judge([(tasks[row["task_id"]][0], row["completion"]) for row in rows])
    differing = [(r["task_id"], r["kind"]) for r, v in zip(rows, verdicts, strict=True) if v.passed != r["passed"]]
    assert differing == []
