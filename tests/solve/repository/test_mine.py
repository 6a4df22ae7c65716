from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from codeflow.core.errors import UserError
from codeflow.core.manifest import PROGRESS, read_manifest
from codeflow.core.types import Task, Verdict
from codeflow.corpus.git_repository import locate
from codeflow.sandbox.local import probe
from codeflow.solve.repository import environment as environments
from codeflow.solve.repository import mine
from codeflow.solve.repository.candidates import candidates, described
from codeflow.solve.repository.tasks import RepositoryTasks
from codeflow.solve.repository.verdict import RepositoryTask, counts
from tests.solve.repository.histories import CORE, WITH_SCALE, History, make_tasks

pytestmark = pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works")


def opened(mined: tuple[Path, str, str]) -> tuple[RepositoryTasks, Task]:
    tasks = RepositoryTasks(mined[0], mined[1])
    [task] = tasks.tasks
    return tasks, task


def judged(mined: tuple[Path, str, str], changes: dict[str, bytes | None]) -> Verdict:
    tasks, task = opened(mined)
    return asyncio.run(tasks.judge(task, changes))


def test_one_commit_is_a_task_and_the_others_are_counted(mined):
    found = read_manifest(mined[0]).counts
    assert found.kept == 1
    assert found.dropped == {
        "no parent": 1,
        "no source changed": 1,
        "no test changed": 1,
        "no test fails before the change": 1,
        "binary or not UTF-8": 1,
    }
    assert found.read == found.kept + sum(found.dropped.values())
    assert found.notes["flaky"] == 1


def test_the_task_says_what_to_do_and_nothing_of_the_tests(mined):
    _, task = opened(mined)
    assert task.id == f"calc/{mined[2][:12]}"
    assert "Scale lists of values" in task.prompt
    assert "Signed-off-by" not in task.prompt
    assert "test_scale" not in task.prompt
    data = RepositoryTask.of(task)
    names = ("add", "metadata", "no_history")
    assert data.fail_to_pass == ("tests/test_core.py::test_scale",)
    assert data.pass_to_pass == tuple(f"tests/test_core.py::test_{name}" for name in names)
    assert data.gold["src/calc/core.py"] == WITH_SCALE
    assert set(data.tests) == {"tests/test_core.py"}


def test_the_tree_is_the_one_before_without_history(mined):
    tasks, task = opened(mined)
    place = tasks.place(task)
    files = {path.relative_to(place.tree.files).as_posix() for path in place.tree.files.rglob("*") if path.is_file()}
    assert files == {
        "pyproject.toml",
        "README.md",
        "src/calc/__init__.py",
        "src/calc/core.py",
        "tests/conftest.py",
        "tests/test_core.py",
    }
    assert (place.tree.files / "src/calc/core.py").read_text() == CORE
    assert "scale" not in (place.tree.files / "tests/test_core.py").read_text()


def test_gold_passes_and_nothing_fails(mined):
    _, task = opened(mined)
    gold = judged(mined, RepositoryTask.of(task).gold_changes)
    assert (gold.passed, gold.reward, gold.tests_run) == (True, 1.0, 4)
    nothing = judged(mined, {})
    assert (nothing.passed, nothing.reward, nothing.fault) == (False, 0.0, "model")
    assert "test_scale" in nothing.reason
    broken = judged(mined, {"src/calc/core.py": WITH_SCALE.replace("a + b", "a - b").encode()})
    assert (broken.passed, broken.reward) == (False, 0.0)
    assert "breaks" in broken.reason


EASY = b"def test_add(): pass\ndef test_scale(): pass\ndef test_metadata(): pass\ndef test_no_history(): pass\n"
PATCHES = b"import _pytest.runner as r\nr.pytest_runtest_call.__code__ = (lambda item: None).__code__\n"
PLUGIN = b"import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_pyfunc_call(pyfuncitem): return True\n"
CHEATS = {
    "edits the tests": {"tests/test_core.py": EASY},
    "deletes the tests": {"tests/test_core.py": None},
    "conftest passes everything": {"tests/conftest.py": PLUGIN, "conftest.py": PLUGIN},
    "settings": {"pytest.ini": b"[pytest]\npython_functions = nothing\n", "pyproject.toml": b""},
    "a pytest of its own": {"pytest.py": b"def main(*a, **k): pass\n", "src/pytest.py": b"def main(*a, **k): pass\n"},
    "a json of its own": {"json.py": b"raise SystemExit", "src/json.py": b"raise SystemExit"},
    "a plugin by entry point": {
        "src/evil.py": PLUGIN,
        "src/evil-1.dist-info/METADATA": b"Name: evil\nVersion: 1\n",
        "src/evil-1.dist-info/entry_points.txt": b"[pytest11]\nevil = evil\n",
    },
    "starts with the interpreter": {"sitecustomize.py": PATCHES, "src/sitecustomize.py": PATCHES},
    "patches pytest": {"src/calc/core.py": CORE.encode() + PATCHES},
    "leaves when imported": {"src/calc/__init__.py": b"import os; os._exit(0)\n"},
    "skips everything": {"src/calc/core.py": b"import pytest\npytest.skip('no', allow_module_level=True)\n"},
    "forges the report": {
        "src/calc/core.py": b'import os\nline = b\'["tests/test_core.py::test_scale", "passed"]\\n\'\n'
        b"for fd in range(3, 64):\n    try: os.write(fd, line)\n    except OSError: pass\ndef add(a, b): return a + b\n"
    },
}


def test_cheats_fail(mined):
    """All of them beside each other; what of one never counts is beside a right solution in the next test."""
    tasks, task = opened(mined)

    async def all_of_them() -> list[Verdict]:
        gate = asyncio.Semaphore(3)

        async def one(changes: dict[str, bytes | None]) -> Verdict:
            async with gate:
                return await tasks.judge(task, changes)

        return await asyncio.gather(*[one(changes) for changes in CHEATS.values()])

    found = dict(zip(CHEATS, asyncio.run(all_of_them()), strict=True))
    assert {name: (one.passed, one.fault) for name, one in found.items()} == dict.fromkeys(CHEATS, (False, "model"))
    assert "tampering" in found["patches pytest"].reason


def test_what_does_not_count_does_not_hurt_either(mined):
    idle = {name: changes for name, changes in CHEATS.items() if not any("calc" in path for path in changes)}
    assert len(idle) == 8
    together = {path: content for changes in idle.values() for path, content in changes.items()}
    assert {path for path in together if counts(path)} == {
        *("pytest.py", "src/pytest.py", "json.py", "src/json.py", "src/evil.py")
    }
    verdict = judged(mined, {**together, "src/calc/core.py": WITH_SCALE.encode()})
    assert verdict.passed, verdict.reason


def test_mining_again_gives_equal_files_and_goes_on_behind_a_kill(mined, tmp_path, monkeypatch):
    config = mine.MineConfig(repository=str(mined[0].parent / "calc"), cache=mined[1])
    proved: list[str] = []
    real = mine.prove

    def dies_at_third(job):
        if len(proved) == 2:
            raise KeyboardInterrupt
        proved.append(job.name)
        return real(job)

    monkeypatch.setattr(mine, "prove", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        make_tasks(config, tmp_path / "tasks")
    assert len(list((tmp_path / "tasks" / PROGRESS).glob("*.json"))) == 2
    monkeypatch.setattr(mine, "prove", lambda job: proved.append(job.name) or real(job))
    make_tasks(config, tmp_path / "tasks")
    assert len(proved) == len(set(proved)) == 3  # no candidate twice
    assert read_manifest(tmp_path / "tasks").files == read_manifest(mined[0]).files


def test_merged_branches_are_described_by_their_commits(tmp_path):
    history = History(tmp_path / "merged")
    history.commit("Start", {"a.py": "", "tests/test_a.py": ""})
    history.git("checkout", "--quiet", "-b", "topic")
    history.commit("First half", {"a.py": "x = 1\n"})
    history.commit("Second half", {"tests/test_a.py": "from a import x\n"})
    history.git("checkout", "--quiet", "main")
    history.git("merge", "--quiet", "--no-ff", "-m", "Merge pull request #1 from topic\n\nTwo halves", "topic")
    repository = locate(str(tmp_path / "merged"), tmp_path / "cache")
    [found] = candidates(repository, 10, 3, Counter())
    assert described(repository, found) == "First half\n\nSecond half\n\nTwo halves"
    assert [path for path, _ in found.sources] == ["a.py"]


@pytest.mark.parametrize(
    ("files", "words"),
    [({"a.py": "x = 1\n"}, "no commit that changes sources and tests"), ({}, "empty")],
)
def test_repositories_without_tasks(tmp_path, files, words):
    history = History(tmp_path / "bare")
    if files:
        history.commit("Start", files)
    with pytest.raises(UserError, match=words):
        make_tasks(
            mine.MineConfig(repository=str(tmp_path / "bare"), cache=str(tmp_path / "cache")), tmp_path / "tasks"
        )


def test_data_round_trip(mined):
    _, task = opened(mined)
    assert RepositoryTask.of(task).as_data() == task.data
    assert "\\u" not in json.dumps(json.loads(task.data)["tests"])


def test_requirements_without_wheels_are_left_out_one_by_one(tmp_path, monkeypatch):
    asked: list[list[str]] = []

    def index(requirements, cache, without):
        asked.append(list(requirements))
        if "rare>=2" in requirements:
            raise environments.NoEnvironmentError("ERROR: No matching distribution found for rare>=2")
        if "broken" in requirements:
            raise environments.NoEnvironmentError("ERROR: ResolutionImpossible: see the documentation")
        return environments.Environment(tmp_path, ("pytest==8",))

    monkeypatch.setattr(environments, "prepare", index)
    config = mine.MineConfig(repository="x", requirements=("rare>=2", "-e .", "pytest-mock"))
    job = mine.Job("0", tmp_path, FakeRepository(), None, config, tmp_path)  # type: ignore[arg-type]
    project = mine.read_project({})
    assert mine._environment(job, project).lock == ("pytest==8",)
    assert asked == [["pytest", "pytest-mock", "rare>=2"], ["pytest", "pytest-mock"]]
    with pytest.raises(mine._DroppedError, match="no environment"):
        mine._environment(replace(job, config=config.model_copy(update={"requirements": ("broken",)})), project)


class FakeRepository:
    """What `_environment` says remarks with."""

    name = "fake"
