"""SIGKILL a training phase at 50 moments; it must go on from its last good checkpoint to the same bytes every time.

A tiny phase saves after every second step, in the background. Three kinds of kills:

* at a kill point (before and after every rename, within and around a save), the whole process group, one process;
* at a random time, the whole process group, two processes;
* at a random time, one of two ranks alone: the run must say which one died and end within a minute.

After each kill the same command is given again, until the phase is finished; then metrics, state and model must equal
those of an undisturbed run. Kills of two processes follow each other within one run as long as it lasts.

    python -m campaigns training_kills --seed 0 --table docs/campaigns/training_kills.md
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import math
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import psutil
import torch

from codeflow.core.manifest import begin
from codeflow.core.storage import CRASH_AT, CRASH_LOG
from codeflow.parallel.config import MeshConfig
from codeflow.train.config import TrainConfig

_RECORD_BYTES = 128
_MINUTE = 60.0
_CHILD = """
import os, sys
from pathlib import Path
from codeflow.core.errors import CodeFlowError
from codeflow.train.config import TrainConfig
from codeflow.train.pretrain import run
if __name__ == "__main__":
    config, tokens, tokenizer, output = sys.argv[1:]
    inputs = {"tokens": Path(tokens), "tokenizer": Path(tokenizer)}
    try:
        run(TrainConfig.model_validate_json(config), inputs, Path(output))
    except CodeFlowError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(3)
"""


@dataclass
class Outcome:
    """What the kills of one kind did."""

    kind: str
    kills: int = 0
    finished: int = 0  # runs that were compared
    unequal: int = 0
    failed: int = 0  # starts that ended badly without a kill, or deaths that were not told
    end_seconds: list[float] = field(default_factory=list)  # from a rank's death to the end of the run


@dataclass
class Phase:
    """The phase under test: its configuration, its inputs, and where it works."""

    config: TrainConfig
    inputs: dict[str, Path]
    folder: Path
    seconds: float = math.inf  # for the kills of one kind; those that would need longer are left out

    def __post_init__(self) -> None:
        self.script = self.folder / "child.py"
        self.script.write_text(_CHILD)

    def in_time(self, numbers: Iterable[int]) -> Iterator[int]:
        """Yield `numbers` until the time is over."""
        end = time.monotonic() + self.seconds
        for number in numbers:
            if time.monotonic() > end:
                return
            yield number

    def start(self, output: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start the phase, or go on with it, in a process group of its own."""
        arguments = [self.config.model_dump_json(), str(self.inputs["tokens"]), str(self.inputs["tokenizer"])]
        if not output.exists():
            begin(output, "checkpoint", self.config, {}, "key")
        return subprocess.Popen(
            [sys.executable, str(self.script), *arguments, str(output)],
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, output: Path) -> bool:
        """Run to the end; say whether it came there."""
        process = self.start(output)
        _, errors = process.communicate()
        if process.returncode:
            print(errors[-2000:], file=sys.stderr)
        return process.returncode == 0

    def contents(self, output: Path) -> dict[str, bytes]:
        """Return what must be equal: metrics, state and model."""
        files = [output / "metrics.jsonl", *(output / "state").iterdir(), *(output / "model").iterdir()]
        return {str(file.relative_to(output)): file.read_bytes() for file in sorted(files)}


def kill_at_points(phase: Phase, reference: Path, points: Sequence[int], log: Path) -> Outcome:
    """Kill a fresh run at each of its kill points `points`; each goes on to its end."""
    outcome = Outcome("at a kill point")
    for point in phase.in_time(points):
        output = phase.folder / "points"
        shutil.rmtree(output, ignore_errors=True)
        log.unlink(missing_ok=True)
        process = phase.start(output, {CRASH_LOG: str(log), CRASH_AT: str(point)})
        process.communicate()
        outcome.kills += process.returncode == -signal.SIGKILL
        outcome.failed += process.returncode not in (0, -signal.SIGKILL)
        _compare(phase, output, reference, outcome)
    return outcome


def kill_at_times(phase: Phase, reference: Path, n: int, one_rank: bool, rng: random.Random) -> Outcome:
    """Kill runs of several processes at random times, one after the other in the same output until it is finished."""
    outcome = Outcome("one rank, at random" if one_rank else "all, at random")
    output = phase.folder / ("rank" if one_rank else "all")
    for _ in phase.in_time(itertools.count()):
        if outcome.kills >= n:
            break
        before = _newest(output)
        process = phase.start(output)
        ranks = _ranks(process, phase.config.mesh.n_processes)
        early = rng.random() < 0.2  # the other kills fall between the first sign of life and the end
        while not early and process.poll() is None and _newest(output) == before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 1.5))
        victim = rng.randrange(len(ranks)) if ranks else 0
        if process.poll() is None and ranks:
            outcome.kills += 1
            _kill(process, ranks[victim] if one_rank else None, victim, outcome)
        else:
            process.communicate()
            outcome.failed += process.returncode != 0
        if (output / "manifest.json").exists():
            _compare(phase, output, reference, outcome)
            shutil.rmtree(output)
    if output.exists():
        _compare(phase, output, reference, outcome)
    return outcome


def _kill(process: subprocess.Popen[str], rank: psutil.Process | None, number: int, outcome: Outcome) -> None:
    """Kill the group, or one rank, of which the run must tell."""
    if rank is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return
    started = time.monotonic()
    rank.kill()
    try:
        _, errors = process.communicate(timeout=2 * _MINUTE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
    if process.returncode == 0:
        outcome.kills -= 1  # it had finished its work before
        return
    outcome.end_seconds.append(time.monotonic() - started)
    told = re.search(rf"rank {number} of \d+ died \(SIGKILL\)", errors) is not None
    outcome.failed += not told or outcome.end_seconds[-1] > _MINUTE


def _newest(folder: Path) -> int:
    """Return when something in the output was last written."""
    return max((path.stat().st_mtime_ns for path in folder.glob("*") if path.exists()), default=0)


def _ranks(process: subprocess.Popen[str], n: int) -> list[psutil.Process]:
    """Wait until the ranks are there; return them in order."""
    while process.poll() is None:
        children = [c for c in psutil.Process(process.pid).children() if "spawn_main" in " ".join(c.cmdline())]
        if len(children) == n:
            return sorted(children, key=lambda child: child.pid)
        time.sleep(0.02)
    return []


def _compare(phase: Phase, output: Path, reference: Path, outcome: Outcome) -> None:
    if not (output / "manifest.json").exists() and not phase.finish(output):
        outcome.failed += 1
        return
    outcome.finished += 1
    outcome.unequal += phase.contents(output) != phase.contents(reference)


def make_phase(folder: Path, mesh: MeshConfig, seconds: float) -> Phase:
    """Return the tiny phase: 12 steps, a save after every second one."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
    golden = importlib.import_module("make_golden_curve")

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = golden.make_tokenizer(folder / "tokenizer")
    golden.make_tokens(folder / "tokens", tokenizer, n_rows=64, context_tokens=64)
    changes = {"steps": 12, "checkpoint_every_steps": 2, "precision": "bf16", "mesh": mesh}
    config = golden.golden_config(2).model_copy(update=changes)
    return Phase(config, {"tokens": folder / "tokens", "tokenizer": folder / "tokenizer"}, folder, seconds)


def table(outcomes: Sequence[Outcome], n_points: int) -> str:
    """Return the Markdown table of a campaign."""
    lines = [
        "| killed | kills | finished runs | unequal | failed | longest end after a rank's death |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for o in outcomes:
        longest = f"{max(o.end_seconds):.1f} s" if o.end_seconds else ""
        lines.append(f"| {o.kind} | {o.kills} | {o.finished} | {o.unequal} | {o.failed} | {longest} |")
    kills, bad = sum(o.kills for o in outcomes), sum(o.unequal + o.failed for o in outcomes)
    lines.append(f"\nThe undisturbed run has {n_points} kill points. {kills} kills, {bad} with another outcome.")
    return "\n".join(lines)


def run(
    points: int, n_random: int, n_ranks: int, seed: int, folder: Path, minutes: float = math.inf
) -> tuple[list[Outcome], int]:
    """Run the campaign; return its outcomes and the number of kill points of the undisturbed run."""
    seconds = 60 * minutes / 4  # half of the time for kill points, a quarter for each of the others
    rng, outcomes = random.Random(seed), []
    alone = make_phase(folder / "alone", MeshConfig(), 2 * seconds)
    log = folder / "points.log"
    process = alone.start(alone.folder / "reference", {CRASH_LOG: str(log)})
    process.communicate()
    assert process.returncode == 0, "the undisturbed run failed"
    there = log.stat().st_size // _RECORD_BYTES
    chosen = [1 + round(i * (there - 1) / max(points - 1, 1)) for i in range(min(points, there))]
    rng.shuffle(chosen)
    outcomes.append(kill_at_points(alone, alone.folder / "reference", chosen, log))
    print(outcomes[-1], file=sys.stderr)
    if n_random or n_ranks:
        together = make_phase(folder / "together", MeshConfig(data=1, shard=2), seconds)
        assert together.finish(together.folder / "reference"), "the undisturbed run failed"
        for n, one_rank in ((n_random, False), (n_ranks, True)):
            outcomes.append(kill_at_times(together, together.folder / "reference", n, one_rank, rng))
            print(outcomes[-1], file=sys.stderr)
    return outcomes, there


def main() -> int:
    """Run the campaign; exit with 1 when any kill changed an outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=30, help="kill points, evenly spread over those there are")
    parser.add_argument("--random", type=int, default=10, help="kills of two processes at random times")
    parser.add_argument("--ranks", type=int, default=10, help="kills of one of two processes at random times")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="kills that would need longer are left out")
    parser.add_argument("--table", type=Path, help="write the table, with date and machine, to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="training-kills-") as folder:
        outcomes, n_points = run(
            options.points, options.random, options.ranks, options.seed, Path(folder), options.minutes
        )
    text = table(outcomes, n_points)
    print(text)
    if options.table:
        command = f"python -m campaigns training_kills --points {options.points} --random {options.random}"
        command += f" --ranks {options.ranks} --seed {options.seed} --minutes {options.minutes:g}"
        machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, torch {torch.__version__}"
        head = f"# Kills of a training phase\n\n{date.today().isoformat()}, {machine}; `{command}`"
        options.table.write_text(f"{head}\n\n{text}\n")
    return int(any(outcome.unequal or outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
