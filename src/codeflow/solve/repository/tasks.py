"""An artifact of repository tasks: where each of them lies on this machine, and verdicts on attempts."""

from __future__ import annotations

from pathlib import Path

from codeflow.core.errors import UserError
from codeflow.core.manifest import require_kind
from codeflow.core.records import read_shards
from codeflow.core.types import Task, Verdict
from codeflow.solve.repository import environment as environments
from codeflow.solve.repository.mine import KIND, cache_folder
from codeflow.solve.repository.runs import Changes, Place
from codeflow.solve.repository.tree import export, read_contents, read_trees
from codeflow.solve.repository.verdict import RepositoryTask, judge


class RepositoryTasks:
    """The tasks of one artifact. Trees and environments are made in the cache when a task is first used."""

    def __init__(self, folder: Path, cache: str = "") -> None:
        """Raises UserError when `folder` holds no finished artifact of repository tasks."""
        require_kind(folder, [KIND])
        self.folder, self.cache = folder, cache_folder(cache)
        self.tasks = list(read_shards(folder, "tasks", Task))
        self._trees = read_trees(folder)
        self._places: dict[str, Place] = {}

    def place(self, task: Task) -> Place:
        """Return the tree and the packages of a task. Raises UserError when its packages cannot be had here."""
        data = RepositoryTask.of(task)
        key = f"{data.tree} {data.lock}"
        if key not in self._places:
            tree = self._trees[data.tree]
            there = (self.cache / "trees" / tree.id).is_dir()
            exported = export(tree, {} if there else read_contents(self.folder, tree), self.cache)
            try:
                made = environments.prepare(data.lock, self.cache, data.without, locked=True)
            except environments.NoEnvironmentError as error:
                raise UserError(f"the packages of task {task.id} cannot be installed here: {error}") from None
            self._places[key] = Place(exported, made.folder)
        return self._places[key]

    async def judge(self, task: Task, changes: Changes) -> Verdict:
        """Return the verdict on an attempt, a set of changed files."""
        verdict, _ = await judge(RepositoryTask.of(task), self.place(task), changes)
        return verdict
