"""Kill every stage at every kind of moment; the next run must end with the same data and the same loss curve.

A small undisturbed run is the reference. Then, for each stage: a run that records the stage's kill points (before each
fsync, before and after each rename, before and after the manifest), and one run per chosen point in which the whole
process group gets SIGKILL exactly there (on Ray a worker is a group of its own: it dies alone, and the run goes on);
besides, kills at random times, runs in which only workers are killed: single processes that work on shards, drawn anew
at random times, while the run itself lives; and runs of which the driver alone is killed while a worker is at a shard.
After each kill the same command is given again, and the stage's fingerprint, counts and metrics must equal the
reference, which is made on this machine's own pool of processes.

    python -m campaigns kills --points 8 --random 3 --workers 2 --seed 0 --table docs/campaigns/kills.md
    python -m campaigns kills --drivers 3 --on ray --stages collect clean --table docs/campaigns/kills_ray.md
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path

import psutil

from codeflow.core.config import apply_overrides
from codeflow.core.manifest import read_manifest
from codeflow.core.storage import CRASH_AT, CRASH_LOG
from codeflow.execute.chain import resolve
from codeflow.recipes.runner import recipes

_RECORD_BYTES = 128
_LOOK_SECONDS = 0.02
_REPORTED = 3  # the exit code of a run that names a shard which failed twice


@dataclass
class Outcome:
    """What one stage's kills did."""

    stage: str
    points: int = 0
    kills: int = 0
    random_kills: int = 0
    worker_kills: int = 0
    gave_up: int = 0  # of the runs with killed workers: those that named the shard and ended; the others went on
    driver_kills: int = 0
    unequal: int = 0
    failed: int = 0

    def and_also(self, other: Outcome) -> Outcome:
        """Return this outcome with that of other kills of the same stage."""
        counted = [f.name for f in fields(self) if f.name not in ("stage", "points")]
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in counted})


class Hunt:
    """Kills single processes that work on shards, each after so many seconds in which there was one.

    Or, `driver`, the run itself and nothing else of it, after that many.
    """

    def __init__(self, moments: Sequence[float], rng: random.Random, driver: bool = False) -> None:
        self._waits, self._rng, self._driver = list(moments), rng, driver
        self.n_killed = 0

    def go(self, process: subprocess.Popen[str]) -> None:
        """Hunt until all are killed or the run has ended."""
        seen = 0.0
        while self._waits and process.poll() is None:
            workers = [child for child in _children(process.pid) if _is_worker(child)]
            if workers and seen >= self._waits[0]:
                with contextlib.suppress(psutil.Error):
                    (psutil.Process(process.pid) if self._driver else self._rng.choice(workers)).kill()
                    self.n_killed += 1
                self._waits.pop(0)
                seen = 0.0
            time.sleep(_LOOK_SECONDS)
            seen += _LOOK_SECONDS if workers else 0.0


def _children(identity: int) -> list[psutil.Process]:
    try:
        return psutil.Process(identity).children(recursive=True)
    except psutil.Error:
        return []


def _is_worker(process: psutil.Process) -> bool:
    """Say whether a process works on shards: one that the pool has spawned, or Ray's while it is at a task."""
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "spawn_main" in command or command.startswith("ray::_run")


@dataclass(frozen=True)
class Campaign:
    """The command under test and where it works."""

    arguments: tuple[str, ...]  # of `codeflow run`, without options
    folder: Path
    on: str = "local"  # where shards run

    def run(
        self,
        output: Path,
        until: str,
        environment: dict[str, str] | None = None,
        limit: float | None = None,
        hunt: Hunt | None = None,
    ) -> int:
        """Run up to a stage; return the exit code, or -9 after a kill (ours after `limit` seconds, or its own)."""
        command = [sys.executable, "-m", "codeflow", "run", *self.arguments, "--output", str(output), "--until", until]
        command += ["--on", self.on]
        process = subprocess.Popen(
            command,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        try:
            if hunt:
                hunt.go(process)
            _, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return -9
        if process.returncode not in (0, -9) and not (hunt and process.returncode == _REPORTED):
            print(errors, file=sys.stderr)
        return process.returncode

    def copy(self, reference: Path, without: Sequence[str], name: str) -> Path:
        """Return a copy of the reference run without some stages (hard links: files are only ever replaced)."""
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(["cp", "-al", str(reference), str(target)], check=True)
        for stage in without:
            shutil.rmtree(target / stage, ignore_errors=True)
        return target


def order(arguments: Sequence[str]) -> list[str]:
    """Return the names of a recipe's stages in order, without the report, which shows wall times."""
    recipe, *overrides = arguments
    chain = apply_overrides(resolve(recipes()[recipe])(), overrides).chain()
    return [stage.name for stage in chain if stage.kind != "report"]


def identity(folder: Path) -> tuple[str, str, str]:
    """Return what must be equal after a kill: fingerprint, counts and metrics of an artifact."""
    manifest = read_manifest(folder)
    return manifest.fingerprint, manifest.counts.model_dump_json(), json.dumps(manifest.metrics, sort_keys=True)


def kill_stage(
    campaign: Campaign,
    reference: Path,
    stages: Sequence[str],
    stage: str,
    points: int,
    n_random: int,
    rng: random.Random,
) -> Outcome:
    """Kill one stage at `points` of its kill points and at `n_random` random times; compare with the reference."""
    outcome = Outcome(stage)
    missing = stages[stages.index(stage) :]
    log = campaign.folder / "points.log"
    log.unlink(missing_ok=True)
    trial = campaign.copy(reference, missing, "trial")
    started = time.monotonic()
    assert campaign.run(trial, stage, {CRASH_LOG: str(log)}) == 0
    seconds = time.monotonic() - started
    outcome.points = _reached(log)
    chosen = sorted(rng.sample(range(1, outcome.points + 1), min(points, outcome.points)))
    assert not points or chosen
    moments: list[tuple[dict[str, str], float | None]] = [
        ({CRASH_LOG: str(log), CRASH_AT: str(n)}, None) for n in chosen
    ]
    moments += [({}, rng.uniform(0.2, seconds)) for _ in range(n_random)]
    for environment, limit in moments:
        log.unlink(missing_ok=True)
        trial = campaign.copy(reference, missing, "trial")
        code = campaign.run(trial, stage, environment, limit)
        outcome.kills += limit is None and _reached(log) >= int(environment[CRASH_AT])
        outcome.random_kills += limit is not None and code == -9
        if campaign.run(trial, stage) != 0:
            outcome.failed += 1
        elif identity(trial / stage) != identity(reference / stage):
            outcome.unequal += 1
    return outcome


def _reached(log: Path) -> int:
    """Return how many kill points a run came to."""
    return log.stat().st_size // _RECORD_BYTES if log.exists() else 0


def kill_drivers(
    campaign: Campaign, reference: Path, stages: Sequence[str], stage: str, trials: int, rng: random.Random
) -> Outcome:
    """Kill the run while a worker is at a shard, and give the command again at once; compare what it ends with."""
    outcome = Outcome(stage)
    for _ in range(trials):
        trial = campaign.copy(reference, stages[stages.index(stage) :], "trial")
        hunt = Hunt([rng.uniform(0, 0.5)], rng, driver=True)
        campaign.run(trial, stage, hunt=hunt)
        outcome.driver_kills += hunt.n_killed
        if campaign.run(trial, stage) != 0:
            outcome.failed += 1
        elif identity(trial / stage) != identity(reference / stage):
            outcome.unequal += 1
    return outcome


def kill_workers(
    campaign: Campaign, reference: Path, stages: Sequence[str], stage: str, trials: int, rng: random.Random
) -> Outcome:
    """Kill one to three workers of a stage per trial; compare what the run, or the next one, ends with."""
    outcome = Outcome(stage)
    for _ in range(trials):
        trial = campaign.copy(reference, stages[stages.index(stage) :], "trial")
        hunt = Hunt([rng.uniform(0, 0.5) for _ in range(rng.randint(1, 3))], rng)
        code = campaign.run(trial, stage, hunt=hunt)
        outcome.worker_kills += hunt.n_killed
        if code == _REPORTED:
            outcome.gave_up += 1
            code = campaign.run(trial, stage)
        if code != 0:
            outcome.failed += 1
        elif identity(trial / stage) != identity(reference / stage):
            outcome.unequal += 1
    return outcome


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the Markdown table of a campaign."""
    lines = [
        "| stage | kill points | killed at points | killed at random | workers killed | of these runs, gave up "
        "| drivers killed | unequal after | failed after |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {o.stage} | {o.points} | {o.kills} | {o.random_kills} | {o.worker_kills} | {o.gave_up} "
        f"| {o.driver_kills} | {o.unequal} | {o.failed} |"
        for o in outcomes
    ]
    kills = sum(o.kills + o.random_kills + o.worker_kills + o.driver_kills for o in outcomes)
    bad = sum(o.unequal + o.failed for o in outcomes)
    lines.append(f"\n{kills} kills, {bad} with another outcome than the undisturbed run.")
    return "\n".join(lines)


def main() -> int:
    """Run the campaign; exit with 1 when any kill changed an outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=6, help="kill points per stage, drawn without repetition")
    parser.add_argument("--random", type=int, default=2, help="kills at random times per stage")
    parser.add_argument("--workers", type=int, default=1, help="runs per stage in which workers are killed")
    parser.add_argument("--drivers", type=int, default=0, help="runs per stage of which the driver alone is killed")
    parser.add_argument("--on", default="local", help="where shards run: local or ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="*", help="only these stages")
    parser.add_argument("--table", type=Path, help="write the table, with date and machine, to this file")
    parser.add_argument("run", nargs="*", default=["smoke"], help="recipe and overrides of the run under test")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        campaign = Campaign(tuple(options.run), Path(folder), options.on)
        reference = Path(folder) / "reference"
        stages = order(options.run)
        last = max(options.stages or stages, key=stages.index)
        assert Campaign(campaign.arguments, campaign.folder).run(reference, last) == 0, "the undisturbed run failed"
        rng = random.Random(options.seed)
        outcomes = []
        for stage in options.stages or stages:
            whole = kill_stage(campaign, reference, stages, stage, options.points, options.random, rng)
            single = kill_workers(campaign, reference, stages, stage, options.workers, rng)
            driver = kill_drivers(campaign, reference, stages, stage, options.drivers, rng)
            outcomes.append(whole.and_also(single).and_also(driver))
            print(outcomes[-1], file=sys.stderr)
    text = table(outcomes)
    print(text)
    if options.table:
        options.table.parent.mkdir(parents=True, exist_ok=True)
        command = f"python -m campaigns kills --seed {options.seed} --points {options.points} --random {options.random}"
        command += f" --workers {options.workers} --drivers {options.drivers} --on {options.on}"
        command += f" --stages {' '.join(options.stages)}" if options.stages else ""
        command += " -- " + " ".join(options.run)
        machine = (
            f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
        )
        options.table.write_text(f"# Kill campaign\n\n{date.today().isoformat()}, {machine}; `{command}`\n\n{text}\n")
    return int(any(outcome.unequal or outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
