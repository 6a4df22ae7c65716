"""Repository tasks: what a task holds, and the verdict on changed files.

The candidate is a set of changed files. Whatever of it is a test, or steers one, never counts: the task's own test
files and settings are written over it in a sandbox of the verifier's own. All Fail-to-Pass and all Pass-to-Pass tests
must be reported, each once, and pass. The reward is 0 when a Pass-to-Pass test fails, else the share of Fail-to-Pass
tests that pass.

Residual risk: that of `solve/hidden_tests.py`: candidate and tests share a process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

from codeflow.core.config import canonical_json
from codeflow.core.types import Task, Verdict
from codeflow.solve.repository.runs import Changes, Place, TestRun, run_tests

VERIFIER = "repository_tests"
_TEST_FOLDERS = ("test", "tests")
_TEST_NAME = re.compile(r"test_.*\.py|.*_tests?\.py|conftest\.py")
STEERING = (
    "conftest.py",
    "pytest.ini",
    ".pytest.ini",
    "pytest.toml",
    ".pytest.toml",
    "tox.ini",
    "setup.cfg",
    "pyproject.toml",
)
_NEVER = ("sitecustomize.py", "usercustomize.py")


@dataclass(frozen=True, slots=True)
class RepositoryTask:
    """`Task.data` of the verifier `repository_tests`."""

    tree: str  # of the commit before the change
    lock: tuple[str, ...]  # NAME==VERSION of every package
    without: str  # the repository's own distribution
    test_files: tuple[str, ...]  # what pytest is given
    tests: dict[str, str | None]  # the test side of the commit: texts by path, None where it deletes a file
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    gold: dict[str, str | None]  # the source side of the commit
    wall_seconds: float  # of a run of the tests

    def as_data(self) -> str:
        """Return the JSON text."""
        return canonical_json(asdict(self))

    @classmethod
    def of(cls, task: Task) -> RepositoryTask:
        """Read a task's data."""
        tree = json.loads(task.data)
        lists = ("lock", "test_files", "fail_to_pass", "pass_to_pass")
        return cls(**{**tree, **{name: tuple(tree[name]) for name in lists}})

    @property
    def gold_changes(self) -> dict[str, bytes | None]:
        """The changes that the commit made to the sources: they must pass."""
        return encoded(self.gold)


def encoded(texts: Mapping[str, str | None]) -> dict[str, bytes | None]:
    """Return contents of texts by path."""
    return {path: None if text is None else text.encode("utf-8", "surrogateescape") for path, text in texts.items()}


def is_test_path(path: str) -> bool:
    """Say whether a path is that of a test, of data of tests, or steers how tests run."""
    pure = PurePosixPath(path)
    in_folder = any(part in _TEST_FOLDERS for part in pure.parts[:-1])
    return in_folder or bool(_TEST_NAME.fullmatch(pure.name)) or pure.name in STEERING


def counts(path: str) -> bool:
    """Say whether a candidate may change this path: no test, nothing that steers tests, interpreter or git."""
    pure = PurePosixPath(path)
    odd = any(part == ".git" or part.endswith((".dist-info", ".egg-info", ".pth", ".egg-link")) for part in pure.parts)
    return not (odd or is_test_path(path) or pure.name in _NEVER)


def counted(changes: Changes) -> dict[str, bytes | None]:
    """Return what of a candidate's changes counts."""
    return {path: content for path, content in changes.items() if counts(path)}


async def judge(task: RepositoryTask, place: Place, changes: Changes) -> tuple[Verdict, TestRun]:
    """Run the task's own tests on the candidate's changes, in a sandbox of their own."""
    files = {**counted(changes), **encoded(task.tests)}
    run = await run_tests(place, files, task.test_files, task.wall_seconds)
    return _verdict(task, run), run


def _verdict(task: RepositoryTask, run: TestRun) -> Verdict:
    n = len(task.fail_to_pass) + len(task.pass_to_pass)
    if run.problem:
        return Verdict(False, 0.0, run.problem[:300], run.fault, 0, n)
    passing = {name for name, outcome in run.outcomes.items() if outcome == "passed"}
    broken = [name for name in task.pass_to_pass if name not in passing]
    open_ = [name for name in task.fail_to_pass if name not in passing]
    n_passed = n - len(broken) - len(open_)
    if not broken and not open_:
        return Verdict(True, 1.0, "passed", "", n, n)
    reward = 0.0 if broken else 1 - len(open_) / len(task.fail_to_pass)
    reason = f"breaks {broken[0]}" if broken else f"still fails {open_[0]}"
    return Verdict(False, reward, reason[:300], "model", n_passed, n)
