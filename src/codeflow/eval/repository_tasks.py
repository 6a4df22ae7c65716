"""A model as an agent on the repository tasks of `codeflow mine-tasks`: episodes, and scores of them.

    episodes/                         one file for each (task, sample), as it is done: a later call goes on from them
    episodes-00000.parquet            all `Episode`s of this run, with every turn, patch and verdict
    scores.json, scores-00000.parquet
    provenance.json

An episode is kept while model, task, settings and seed are the same. Those that failed for reasons of the surroundings
are done again by the next call; they are counted and never scored.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from codeflow import __version__
from codeflow.core.config import Config, canonical_json
from codeflow.core.manifest import Counts, Manifest, input_record, seal
from codeflow.core.progress import say
from codeflow.core.records import read_records, to_row, write_records
from codeflow.core.storage import make_folder, sha256_text, write_text
from codeflow.core.types import Episode, Score, Task
from codeflow.endpoint.transport import ServerConfig
from codeflow.eval.benchmark import Judgement, Metric
from codeflow.eval.benchmarks_artifact import open_again
from codeflow.eval.metrics import Share
from codeflow.eval.records import Scorer
from codeflow.eval.task_metrics import mean, pass_at, pass_hat
from codeflow.solve.agent.loop import AgentConfig, run_episode
from codeflow.solve.agent.samplers import Sampler
from codeflow.solve.repository.tasks import RepositoryTasks

NAME = "repository_tasks"
SCORER = "repository_tests-1"


class SolveConfig(Config):
    """How tasks are worked on."""

    limit: PositiveInt | None = None  # the first so many tasks; None: all
    samples: PositiveInt = 1  # episodes of each task
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0
    agent: AgentConfig = AgentConfig()
    server: ServerConfig = ServerConfig(timeout_seconds=600.0)  # of a model behind a url
    server_tools: bool = True  # tools in the fields of such a server's API; false: as text
    server_context_tokens: PositiveInt = 32768
    cache: str = ""  # of trees and environments; "": CODEFLOW_CACHE, else ~/.cache/codeflow/repositories
    bootstrap_resamples: PositiveInt = 1000


@dataclass(frozen=True)
class Solver:
    """A model as an agent; `fingerprint` changes when it does."""

    sampler: Sampler
    fingerprint: str


def run(config: SolveConfig, tasks: RepositoryTasks, solver: Solver, output: Path) -> tuple[Manifest, list[Score]]:
    """Let the model work on the tasks, and write the artifact; what is there already is gone on from.

    The caller holds the folder's lock. Raises UserError when a task's packages cannot be had here; a server or sandbox
    that fails makes infrastructure faults.
    """
    name = solver.sampler.name
    inputs = {"tasks": input_record(tasks.folder)}
    open_again(config, inputs, solver.fingerprint, output)
    wanted = [(task, sample) for task in tasks.tasks[: config.limit] for sample in range(config.samples)]
    kept = make_folder(output / "episodes")
    places = [kept / f"{_identity(config, solver, *pair)}.parquet" for pair in wanted]
    waiting = [(pair, path) for pair, path in zip(wanted, places, strict=True) if not _is_done(path)]
    if waiting:
        say(f"{NAME}: {name}: {len(waiting):,} episodes to do, {len(wanted) - len(waiting):,} there")
        asyncio.run(_work(config, tasks, solver, waiting))
    episodes = [next(iter(read_records(path, Episode))) for path in places]
    scores = score(episodes, config, name)
    write_records(output / "episodes-00000.parquet", episodes, Episode)
    write_records(output / "scores-00000.parquet", scores, Score)
    write_text(output / "scores.json", json.dumps([to_row(one) for one in scores], indent=1))
    write_text(output / "provenance.json", json.dumps(_provenance(config, tasks, solver, episodes), indent=1))
    n_faults = sum(one.verdict.fault == "infrastructure" for one in episodes)
    counts = Counts(read=len(episodes), kept=len(episodes), notes={"infrastructure faults": n_faults})
    return seal(output, counts, {"model": name, "tasks": len({one.task_id for one in episodes})}), scores


def _identity(config: SolveConfig, solver: Solver, task: Task, sample: int) -> str:
    """Return the name of an episode: the hash of whatever it depends on."""
    agent = config.agent.model_dump(exclude={"at_once"})
    asked = [config.temperature, config.top_p, config.seed, config.server_tools, config.server_context_tokens]
    tree = [SCORER, solver.fingerprint, solver.sampler.name, agent, asked, task.id, task.prompt, task.data, sample]
    return sha256_text(canonical_json(tree))[:32]


def _is_done(path: Path) -> bool:
    return path.exists() and all(one.verdict.fault != "infrastructure" for one in read_records(path, Episode))


async def _work(
    config: SolveConfig, tasks: RepositoryTasks, solver: Solver, waiting: Sequence[tuple[tuple[Task, int], Path]]
) -> None:
    """Do the episodes, `agent.at_once` at a time; each is on the disk when it is done."""
    gate, n_done = asyncio.Semaphore(config.agent.at_once), 0

    async def one(task: Task, sample: int, path: Path) -> None:
        nonlocal n_done
        async with gate:
            episode = await run_episode(tasks, task, solver.sampler, config.agent, sample, config.seed)
        write_records(path, [episode], Episode)
        n_done += 1
        verdict = episode.verdict
        said = verdict.fault if verdict.fault == "infrastructure" else f"reward {verdict.reward:.2f}"
        turns = sum(turn.sampled for turn in episode.turns)
        say(
            f"  {n_done:,} of {len(waiting):,}: {task.id} {sample}: {said}, {episode.stop_reason}, "
            f"{turns} turns, {episode.seconds:.0f} s"
        )

    await asyncio.gather(*[one(task, sample, path) for (task, sample), path in waiting])


def score(episodes: Sequence[Episode], config: SolveConfig, checkpoint: str) -> list[Score]:
    """Return pass@k and pass^k by the verdicts, the mean reward, and how the episodes went; clustered by task."""
    settings = {
        "temperature": str(config.temperature),
        "top_p": str(config.top_p),
        "samples": str(config.samples),
        "max_turns": str(config.agent.max_turns),
        "tasks": str(len({one.task_id for one in episodes})),
        "scorer": SCORER,
        "seed": str(config.seed),
    }
    scorer = Scorer(NAME, checkpoint, settings, config.bootstrap_resamples, config.seed)
    by_task: dict[str, list[Judgement]] = {}
    for one in episodes:
        if one.verdict.fault != "infrastructure":
            by_task.setdefault(one.task_id, []).append(_judgement(one))
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= config.samples]
    metrics: list[Metric] = [pass_at(k) for k in ks] + [pass_hat(k) for k in ks[1:]]
    metrics += [mean(key) for key in ("reward", "submitted", "turns", "seconds")]
    n_faults = sum(one.verdict.fault == "infrastructure" for one in episodes)
    found: list[Score] = []
    for metric in metrics:
        shares = [share for share in map(metric.share, by_task.values()) if isinstance(share, Share)]
        found += [scorer.score(metric.name, "", shares, n_faults)] if shares else []
    return found


def _judgement(episode: Episode) -> Judgement:
    values: Mapping[str, float] = {
        "reward": episode.verdict.reward,
        "submitted": float(episode.stop_reason == "submitted"),
        "turns": float(sum(turn.sampled for turn in episode.turns)),
        "seconds": episode.seconds,
    }
    return Judgement(episode.verdict.passed, episode.verdict.reason, episode.verdict.fault, values)


def _provenance(
    config: SolveConfig, tasks: RepositoryTasks, solver: Solver, episodes: Sequence[Episode]
) -> dict[str, Any]:
    stops: dict[str, int] = {}
    for one in episodes:
        stops[one.stop_reason] = stops.get(one.stop_reason, 0) + 1
    return {
        "codeflow_version": __version__,
        "model": solver.sampler.name,
        "fingerprint": solver.fingerprint,
        "scorer": SCORER,
        "tasks": str(tasks.folder),
        "agent": config.agent.model_dump(),
        "stop_reasons": dict(sorted(stops.items())),
    }
