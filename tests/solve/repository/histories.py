"""A small repository with a history, made by git, and packages for its tests without an index."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from codeflow.execute.chain import Stage, make, stage_key
from codeflow.solve.hidden_tests import pytest_packages
from codeflow.solve.repository import mine

PYPROJECT = """\
[project]
name = "calc"
version = "1.2"
dependencies = ["no-such-package-of-ours; python_version < '3'"]

[project.entry-points."calc.plugins"]
plain = "calc.core:add"

[dependency-groups]
tests = ["pytest"]

[tool.pytest.ini_options]
addopts = "--cov"
"""
CORE = "def add(a, b):\n    return a + b\n"
TEST_CORE = "from calc.core import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
WITH_SCALE = CORE + "\n\ndef scale(values, factor):\n    return [value * factor for value in values]\n"
TEST_SCALE = (
    "import importlib.metadata\nimport os\nimport time\n\nfrom calc import core\nfrom calc.core import add\n\n\n"
    "def test_add():\n    assert add(1, 2) == 3\n\n\n"
    "def test_scale():\n    assert core.scale([1, 2], 3) == [3, 6]\n    assert core.scale((), 3) == []\n\n\n"
    "def test_flaky():\n    assert os.environ['PYTHONHASHSEED'] == '0'\n\n\n"
    "def test_never():\n    assert False\n\n\n"
    "def test_metadata():\n    assert importlib.metadata.version('calc') == '1.2'\n"
    "    [point] = importlib.metadata.entry_points(group='calc.plugins')\n    assert point.load() is add\n\n\n"
    "def test_no_history():\n    assert not os.path.exists('/work/.git')\n"
)


class History:
    """A repository that commits are added to."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._seconds = folder, 1_700_000_000
        folder.mkdir(parents=True)
        self.git("init", "--quiet", "-b", "main")

    def git(self, *arguments: str) -> str:
        """Run git there; return what it says."""
        names = {f"GIT_{who}_{what}": "someone" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        dates = {f"GIT_{who}_DATE": f"{self._seconds} +0000" for who in ("AUTHOR", "COMMITTER")}
        environment = {**os.environ, **names, **dates, "GIT_CONFIG_GLOBAL": "/dev/null"}
        done = subprocess.run(
            ["git", "-C", str(self.folder), *arguments], check=True, capture_output=True, text=True, env=environment
        )
        return done.stdout.strip()

    def commit(self, message: str, files: dict[str, str | bytes | None]) -> str:
        """Write or delete files and commit them; return the hash."""
        for path, content in files.items():
            place = self.folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                place.unlink()
            else:
                place.write_bytes(content.encode() if isinstance(content, str) else content)
        self._seconds += 60
        self.git("add", "-A")
        self.git("commit", "--quiet", "-m", message)
        return self.git("rev-parse", "HEAD")


def calc(folder: Path) -> tuple[History, str]:
    """Make the repository; return it with the hash of the one commit that is a task."""
    history = History(folder)
    start = {"pyproject.toml": PYPROJECT, "src/calc/__init__.py": "", "src/calc/core.py": CORE}
    history.commit("Start", {**start, "tests/test_core.py": TEST_CORE, "tests/conftest.py": "", "README.md": "calc\n"})
    history.commit("Say more", {"README.md": "calc adds.\n", "src/calc/__init__.py": "# calc\n"})
    history.commit("Only a test", {"tests/test_core.py": TEST_CORE + "\n"})
    sha = history.commit(
        "Scale lists of values\n\n`scale(values, factor)` in calc.core returns a list.\n\nSigned-off-by: someone",
        {"src/calc/core.py": WITH_SCALE, "tests/test_core.py": TEST_SCALE, "README.md": "calc adds and scales.\n"},
    )
    history.commit(
        "Tests that pass before as well",
        {"src/calc/core.py": WITH_SCALE + "\n", "tests/test_more.py": "def test_it():\n    assert True\n"},
    )
    picture: dict[str, str | bytes | None] = {"src/calc/core.py": WITH_SCALE, "tests/x.png": b"\0\1"}
    history.commit("A picture for the tests", {**picture, "tests/test_core.py": TEST_SCALE + "#"})
    return history, sha


def packages(folder: Path) -> Path:
    """Copy pytest and what it needs from this interpreter's packages to `folder`."""
    folder.mkdir(parents=True)
    for source, inside in pytest_packages():
        target = folder / Path(inside).name
        if Path(source).is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    return folder


def make_tasks(config: mine.MineConfig, output: Path) -> None:
    """Mine tasks in this process."""
    stage = Stage(output.name, mine.KIND, "tests.solve.repository.histories:run_here", config, {})
    make(stage, output.parent, stage_key(stage, output.parent))


def run_here(config, inputs, output):
    """Mine with one worker, which is this process."""
    return mine.run(config, inputs, output, workers=1)
