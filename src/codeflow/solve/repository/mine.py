"""Stage `mine_tasks`: commits of a Python repository -> Fail-to-Pass tasks, each proved by running it.

A commit that changes source and tests together gives a task: the repository before it, its tests with its own changes
held back, its message as the description. Tests run twice before and twice after the change, under different hash
seeds: Fail-to-Pass tests fail or are missing both times before and pass both times after, Pass-to-Pass tests pass all
four times, and what differs between two equal runs is flaky and dropped (SWE-bench, Jimenez et al. 2024). So every
task's own solution passes, and the untouched repository fails.

    tasks-00000.parquet      Task with verifier `repository_tests` (verdict.py)
    trees-00000.parquet      the files of every base: path, mode, blob
    blobs-00000.parquet      contents, each once
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.manifest import PROGRESS, Counts, Manifest, seal
from codeflow.core.progress import say
from codeflow.core.storage import write_text
from codeflow.core.types import Task
from codeflow.corpus.git_files import blob_reader
from codeflow.corpus.git_repository import Repository, fingerprint, locate
from codeflow.execute.local import LocalPool
from codeflow.execute.shards import run_shards
from codeflow.sandbox.local import probe
from codeflow.solve.repository import environment as environments
from codeflow.solve.repository.candidates import Candidate, candidates, described, nearest_version, texts, tree_id
from codeflow.solve.repository.project import Project, read_project, safe_requirements
from codeflow.solve.repository.runs import Changes, Place, TestRun, run_tests
from codeflow.solve.repository.tree import Tree, export, list_tree, read_blobs, write_trees
from codeflow.solve.repository.verdict import VERIFIER, RepositoryTask, encoded, is_test_path

KIND = "repository_tasks"
CACHE_VARIABLE = "CODEFLOW_CACHE"
_ROUND = 16  # candidates at most between two looks at whether there are enough tasks
_MOST_LEFT_OUT = 8  # requirements that no wheel is found for
_PROMPT = """\
The current folder holds the sources of {name}. Make this change:

{message}

Change the sources so that it works as described. Tests that are not shown to you will judge it; tests that you \
write or change do not count."""


class MineConfig(Config):
    """Which commits are looked at, and what makes a task."""

    repository: str = ""  # path or URL
    max_commits: int = Field(default=1000, ge=1)  # the newest of the main line
    max_tasks: int = Field(default=50, ge=1)
    max_source_files: int = Field(default=8, ge=1)
    max_side_bytes: int = Field(default=400_000, ge=1)  # of one changed file
    least_message: int = Field(default=12, ge=0)  # characters of a description
    scope: Literal["changed", "all"] = "changed"  # which test files run: those of the commit, or all that there are
    requirements: tuple[str, ...] = ()  # of the tests, beside what the repository declares
    wall_seconds: float = Field(default=120.0, gt=0)  # of one run of the tests
    cache: str = (
        ""  # folder for clones, trees and environments; "": CODEFLOW_CACHE, else ~/.cache/codeflow/repositories
    )


@dataclass(frozen=True, slots=True)
class Job:
    """One candidate to be proved."""

    name: str
    output: Path
    repository: Repository
    candidate: Candidate
    config: MineConfig
    cache: Path


class _DroppedError(Exception):
    """A candidate is no task; the message is the reason that is counted."""


def cache_folder(named: str) -> Path:
    """Return the folder of clones, trees and environments."""
    return Path(named or os.environ.get(CACHE_VARIABLE) or "~/.cache/codeflow/repositories").expanduser()


def world(config: MineConfig) -> str:
    """Return the repository's head: what tasks depend on besides the configuration."""
    return fingerprint((config.repository,), ()) if config.repository else ""


def run(config: MineConfig, inputs: Mapping[str, Path], output: Path, workers: int | None = None) -> Manifest:
    """Mine tasks. No inputs. Goes on behind the candidates that an interrupted run has proved.

    Raises UserError for a repository that is missing or holds no candidate, InfrastructureError where no sandbox works.
    """
    if not config.repository:
        raise UserError("repository is empty; give the path or URL of a git repository")
    if not probe().backend:
        raise UserError(probe().problem)
    cache = cache_folder(config.cache)
    repository = locate(config.repository, cache / "git")
    dropped: Counter[str] = Counter()
    waiting = candidates(repository, config.max_commits, config.max_source_files, dropped)
    found: list[tuple[Task, Tree]] = []
    counts, n_proved = Counts(), 0
    while part := list(islice(waiting, max(0, min(_ROUND, 2 * (config.max_tasks - len(found)))))):
        jobs = [Job(one.sha, output, repository, one, config, cache) for one in part]
        n_proved += len(jobs)
        label = (
            f"{repository.name}: {len(found):,} tasks, proving candidates {n_proved - len(jobs) + 1:,} to {n_proved:,}"
        )
        counts = counts + run_shards(prove, jobs, output, label, LocalPool(workers))
        found += [_read(job) for job in jobs if _path(job).exists()]
    if not n_proved:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in dropped.most_common()) or "it has no commits"
        raise UserError(
            f"{repository.name} has no commit that changes sources and tests together ({reasons}); raise max_commits"
        )
    kept, surplus = found[: config.max_tasks], len(found) - config.max_tasks
    return _finish(
        output, repository, kept, counts + Counts(read=sum(dropped.values()), dropped=dict(dropped)), surplus
    )


def _finish(
    output: Path, repository: Repository, found: Sequence[tuple[Task, Tree]], counts: Counts, surplus: int
) -> Manifest:
    from codeflow.core.records import write_records

    write_records(output / "tasks-00000.parquet", [task for task, _ in found], Task)
    trees = list({tree.id: tree for _, tree in found}.values())
    n_bytes = write_trees(output, trees, repository.folder)
    if surplus > 0:
        more = Counts(dropped={"more than max_tasks": surplus})
        counts = (counts + more).model_copy(update={"kept": len(found)})
    data = [RepositoryTask.of(task) for task, _ in found]
    metrics = {
        "repository": repository.name,
        "head": repository.head,
        "trees": len(trees),
        "blob_bytes": n_bytes,
        "environments": len({one.lock for one in data}),
        "fail_to_pass": sum(len(one.fail_to_pass) for one in data),
        "pass_to_pass": sum(len(one.pass_to_pass) for one in data),
    }
    return seal(output, counts, metrics)


def _path(job: Job) -> Path:
    return job.output / PROGRESS / f"{job.name}.task"


def _read(job: Job) -> tuple[Task, Tree]:
    from codeflow.core.records import from_row

    row = json.loads(_path(job).read_text(encoding="utf-8"))
    return Task(**row["task"]), from_row(Tree, row["tree"])


def prove(job: Job) -> Counts:
    """Make a task of one candidate, or count why it is none."""
    try:
        task, tree, notes = _proved(job)
    except _DroppedError as error:
        say(f"  {job.repository.name} {job.name[:10]}: {error}")
        return Counts(read=1, dropped={str(error).partition(":")[0]: 1})
    write_text(_path(job), json.dumps({"task": asdict(task), "tree": asdict(tree)}))
    return Counts(read=1, kept=1, notes=notes)


def _proved(job: Job) -> tuple[Task, Tree, dict[str, int]]:
    candidate, repository = job.candidate, job.repository
    message = described(repository, candidate)
    if len(message) < job.config.least_message:
        raise _DroppedError("no description")
    with blob_reader(repository.folder) as reader:
        sides = [texts(side, reader, job.config.max_side_bytes) for side in (candidate.sources, candidate.tests)]
    for side in sides:
        if isinstance(side, str):
            raise _DroppedError(side)
    gold, tests = (dict(side) for side in sides if not isinstance(side, str))
    version = nearest_version(repository, candidate.parent)
    tree = list_tree(repository.folder, candidate.parent, tree_id(repository, candidate.parent), version)
    contents = dict(read_blobs(repository.folder, [file.sha for file in tree.files]))
    after = {file.path: contents[file.sha] for file in tree.files if file.sha in contents}
    for path, content in {**encoded(gold), **encoded(tests)}.items():
        after.pop(path, None)
        after |= {path: content} if content is not None else {}
    project = read_project(after)
    made = _environment(job, project)
    place = Place(export(tree, contents, job.cache), made.folder)
    files = candidate.test_files if job.config.scope == "changed" else _all_tests(after)
    data = RepositoryTask(tree.id, made.lock, project.name, files, tests, (), (), gold, job.config.wall_seconds)
    proved, notes = asyncio.run(_outcomes(place, data, job.config))
    name = project.name or repository.name
    task = Task(
        id=f"{name}/{candidate.sha[:12]}",
        benchmark=f"mined/{name}",
        prompt=_PROMPT.format(name=name, message=message),
        verifier=VERIFIER,
        data=proved.as_data(),
        origin=f"{repository.name}@{candidate.sha}",
    )
    return task, tree, notes


def _all_tests(files: Mapping[str, bytes]) -> tuple[str, ...]:
    names = (path for path in files if is_test_path(path) and path.endswith(".py"))
    return tuple(
        sorted(path for path in names if path.rpartition("/")[2].startswith("test_") or path.endswith("_test.py"))
    )


def _environment(job: Job, project: Project) -> environments.Environment:
    """Return the environment; requirements that the index has no wheel for are left out one by one."""
    wanted = {*project.requirements, *safe_requirements(job.config.requirements)}
    wanted |= set() if any(re.match(r"pytest(?![\w.-])", line) for line in wanted) else {"pytest"}
    for _ in range(_MOST_LEFT_OUT):
        try:
            return environments.prepare(sorted(wanted), job.cache, project.name)
        except environments.NoEnvironmentError as error:
            named = str(error).replace("(", " ").split()
            out = {line for line in wanted if line.split(";")[0].strip() in str(error) or line in named}
            if not out:
                raise _DroppedError(f"no environment: {error}") from None
            say(f"  {job.repository.name} {job.name[:10]}: left out, no wheel: {', '.join(sorted(out))}")
            wanted -= out
    raise _DroppedError("no environment: too many requirements without wheels")


async def _outcomes(place: Place, task: RepositoryTask, config: MineConfig) -> tuple[RepositoryTask, dict[str, int]]:
    """Run the tests twice on both sides; return the task with its tests sorted out, and what was counted."""
    old, new = encoded(task.tests), {**task.gold_changes, **encoded(task.tests)}
    after = [await _run(place, new, task, config, 0)]
    if "passed" not in after[0].outcomes.values():
        raise _DroppedError("no test passes after the change")
    before = [await _run(place, old, task, config, 0, may_fail=True)]
    first = _split(before, after)
    if not first[0]:
        raise _DroppedError("no test fails before the change")
    after.append(await _run(place, new, task, config, 1))
    before.append(await _run(place, old, task, config, 1, may_fail=True))
    failing, passing = _split(before, after)
    n_flaky = sum(map(len, first)) - len(failing) - len(passing)
    if not failing:
        raise _DroppedError("only flaky tests fail before the change")
    notes = {"fail_to_pass": len(failing), "pass_to_pass": len(passing), "flaky": n_flaky}
    return replace(task, fail_to_pass=failing, pass_to_pass=passing), notes


async def _run(
    place: Place, files: Changes, task: RepositoryTask, config: MineConfig, seed: int, may_fail: bool = False
) -> TestRun:
    run = await run_tests(place, files, task.test_files, config.wall_seconds, seed)
    if run.fault == "infrastructure":
        raise RuntimeError(f"the sandbox failed: {run.problem}")  # tried again by the shard's runner
    if run.problem and not may_fail:
        raise _DroppedError(f"tests do not run: {run.problem}")
    return run


def _split(before: Sequence[TestRun], after: Sequence[TestRun]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the Fail-to-Pass and Pass-to-Pass tests of runs; those whose outcomes differ are in neither."""
    failing: list[str] = []
    passing: list[str] = []
    for name in sorted(set[Any]().union(*(run.outcomes for run in after))):
        if any(run.outcomes.get(name) != "passed" for run in after):
            continue
        seen = {run.outcomes.get(name, "missing") for run in before}
        if seen == {"passed"}:
            passing.append(name)
        elif len(seen) == 1 and seen <= {"failed", "missing"}:
            failing.append(name)
    return tuple(failing), tuple(passing)
