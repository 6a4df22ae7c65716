"""A chain of stages: what would run and why, and running it.

A stage names the function that makes it (`module:function`, imported only when it runs), its configuration and its
inputs by the names of earlier stages. Its artifact is the folder `<run folder>/<stage name>`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from codeflow.core.config import Config
from codeflow.core.errors import InfrastructureError, Preempted, UserError
from codeflow.core.freed_memory import give_back
from codeflow.core.manifest import (
    BEGIN,
    MANIFEST,
    RUN,
    InputRecord,
    Manifest,
    begin,
    check_files,
    input_record,
    read_begun,
    work_key,
)
from codeflow.core.progress import say
from codeflow.core.storage import remove_tree, write_text
from codeflow.execute.local import THIS_MACHINE, default_workers, process_pool
from codeflow.execute.pool import Pool

EVERY_CORE = sys.maxsize  # for `Stage.cores`: all there are, but in a process of its own, which gives its memory back
_LOOK_SECONDS = 0.2  # between two looks for SIGTERM
Run = Callable[[Any, Mapping[str, Path], Path], Manifest]


@dataclass(frozen=True)
class Stage:
    """One step of a chain."""

    name: str  # the folder of its artifact, unique in the chain
    kind: str  # of the artifact it makes
    run: str  # "package.module:function" with the signature run(config, inputs, output) -> Manifest
    config: Config
    inputs: Mapping[str, str] = field(default_factory=dict)  # argument name -> name of an earlier stage
    world: str = ""  # "package.module:function" of (config) -> str: a fingerprint of what a source reads outside
    cores: int | None = None  # that it computes on, in a process of its own; None: all there are, in this process
    pooled: bool = False  # `run` takes a fourth argument: the pool that its shards run in


@dataclass(frozen=True)
class Step:
    """A stage with what will be done about it."""

    stage: Stage
    action: Literal["reuse", "resume", "run"]
    reason: str
    key: str  # "" while an input has yet to be made


def resolve(reference: str) -> Callable[..., Any]:
    """Import `package.module:function`."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def plan(stages: Sequence[Stage], folder: Path, remake: Sequence[str] = ()) -> list[Step]:
    """Say for every stage whether its artifact in `folder` can be reused, resumed, or must be made, and why."""
    unknown = [name for name in remake if name not in {stage.name for stage in stages}]
    if unknown:
        raise UserError(f"no stage '{unknown[0]}' to remake; stages: {', '.join(s.name for s in stages)}")
    steps: list[Step] = []
    pending: set[str] = set()
    for stage in stages:
        waits = [source for source in stage.inputs.values() if source in pending]
        if stage.name in remake:
            step = Step(stage, "run", "asked to be made again", "" if waits else stage_key(stage, folder))
        elif waits:
            step = Step(stage, "run", f"waits for {', '.join(dict.fromkeys(waits))}", "")
        else:
            step = compare(stage, folder / stage.name, stage_key(stage, folder))
        if step.action != "reuse":
            pending.add(stage.name)
        steps.append(step)
    return steps


def stage_key(stage: Stage, folder: Path) -> str:
    """Return the identity of the stage's work, given its finished inputs and the outside world."""
    extra = resolve(stage.world)(stage.config) if stage.world else ""
    return work_key(stage.kind, stage.config, _input_records(stage, folder), extra)


def _input_records(stage: Stage, folder: Path) -> dict[str, InputRecord]:
    return {argument: input_record(folder / source) for argument, source in stage.inputs.items()}


def compare(stage: Stage, output: Path, key: str) -> Step:
    """Say what is to be done about one stage whose work has the identity `key`."""
    if (output / MANIFEST).exists():
        manifest = check_files(output)
        if manifest.key == key:
            return Step(stage, "reuse", "unchanged", key)
        return Step(stage, "run", "configuration or inputs changed", key)
    begun = read_begun(output)
    if begun is None:
        return Step(stage, "run", "new", key)
    if begun.key == key:
        return Step(stage, "resume", "unfinished", key)
    return Step(stage, "run", "unfinished, and configuration or inputs changed", key)


def run_chain(
    stages: Sequence[Stage],
    folder: Path,
    remake: Sequence[str] = (),
    n_cores: int | None = None,
    pool: Pool = THIS_MACHINE,
) -> dict[str, Manifest]:
    """Make every stage's artifact in `folder` (the caller holds its lock); return the manifests by stage name.

    Stages start in order. Those that say how many cores they compute on run in a process each, which gives its memory
    back, and beside each other as far as `n_cores` (default: all that this process may use) go and their inputs are
    finished. What they make is the same either way, and wherever their shards run (`pool`). The first error ends the
    run; stages beside it go on from where they were next time.
    """
    for name in remake:
        remove_tree(folder / name)
    run = _Run(stages, folder, n_cores or default_workers(), pool)
    try:
        run.to_the_end()
    except BaseException:
        run.abandon()
        raise
    return {stage.name: run.manifests[stage.name] for stage in stages}


_Made = Future[tuple[Manifest, dict[str, Any]]]


@dataclass(frozen=True)
class _Lane:
    """A stage that runs in a process of its own."""

    number: int
    stage: Stage
    process: Executor
    pid: Future[int]


class _Run:
    """The state of one run over a chain: which stages are finished, running in lanes, waiting."""

    def __init__(self, stages: Sequence[Stage], folder: Path, n_cores: int, pool: Pool) -> None:
        self.folder, self.n_cores, self.pool = folder, n_cores, pool
        self.waiting = dict(enumerate(stages, 1))
        self.lanes: dict[_Made, _Lane] = {}
        self.manifests: dict[str, Manifest] = {}
        self.n_stages = len(stages)
        self.asked = False  # to end, by SIGTERM

    def to_the_end(self) -> None:
        """Run every stage. SIGTERM kills this process as ever, but while lanes run: then see `_end_lanes`."""
        with self._sigterm_noted():
            while self.waiting or self.lanes:
                self._start_what_can()
                finished, _ = wait(self.lanes, _LOOK_SECONDS, FIRST_COMPLETED)
                if self.asked:
                    self._end_lanes()
                for future in finished:
                    lane = self.lanes[future]
                    self._finish(lane.number, lane.stage, *self._made(future))
                    lane.process.shutdown()
                    del self.lanes[future]

    @contextmanager
    def _sigterm_noted(self) -> Iterator[None]:
        """Note SIGTERM while lanes run. Signals reach the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGTERM)

        def note(*_: object) -> None:
            self.asked = bool(self.lanes)
            if not self.asked:
                signal.signal(signal.SIGTERM, before)
                os.kill(os.getpid(), signal.SIGTERM)

        signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _end_lanes(self) -> None:
        """Hand SIGTERM on to all lanes and wait: a phase saves and ends, other stages end where they are.

        Raises Preempted, or what went wrong in a lane.
        """
        for lane in self.lanes.values():
            with contextlib.suppress(ProcessLookupError, BrokenProcessPool):
                os.kill(lane.pid.result(), signal.SIGTERM)
        wait(self.lanes)
        errors = {lane.stage.name: future.exception() for future, lane in self.lanes.items()}
        for error in errors.values():
            if error and not isinstance(error, (Preempted, BrokenProcessPool)):
                raise error
        saved = [str(error) for error in errors.values() if isinstance(error, Preempted)]
        raise Preempted("; ".join(saved) or f"{', '.join(errors)} ended; the same command goes on from there")

    def _made(self, future: _Made) -> tuple[Manifest, dict[str, Any]]:
        try:
            return future.result()
        except BrokenProcessPool:
            raise InfrastructureError(
                f"the process of {self.lanes[future].stage.name} died (out of memory?); "
                "the same command goes on from its last good state"
            ) from None

    def abandon(self) -> None:
        """Let go of running lanes without waiting; they die with this process."""
        for lane in self.lanes.values():
            lane.process.shutdown(wait=False, cancel_futures=True)

    def _start_what_can(self) -> None:
        """Start waiting stages in order, until one needs cores that others still use."""
        for number, stage in list(self.waiting.items()):
            if any(source not in self.manifests for source in stage.inputs.values()):
                continue
            step = compare(stage, self.folder / stage.name, stage_key(stage, self.folder))
            if step.action == "reuse":
                del self.waiting[number]
                self.manifests[stage.name] = check_files(self.folder / stage.name)
                say(f"{self._label(number, stage)}: reused")
                continue
            here = stage.cores is None or self.n_cores == 1
            used = sum(lane.stage.cores or 0 for lane in self.lanes.values())
            if self.lanes and (here or used + (stage.cores or 0) > self.n_cores):
                return
            del self.waiting[number]
            say(f"{self._label(number, stage)}: {'resuming' if step.action == 'resume' else step.reason}")
            if here:
                self._finish(number, stage, *make(stage, self.folder, step.key, self.pool))
                _give_back_memory()  # this process stays beside all stages that follow
            else:
                process = process_pool(1)
                pid = process.submit(os.getpid)
                made = process.submit(make, stage, self.folder, step.key, self.pool, os.getpid())
                self.lanes[made] = _Lane(number, stage, process, pid)

    def _finish(self, number: int, stage: Stage, manifest: Manifest, run: Mapping[str, Any]) -> None:
        self.manifests[stage.name] = manifest
        counts = manifest.counts
        say(
            f"{self._label(number, stage)}: done in {run['seconds']:.1f} s, "
            f"peak {run['peak_memory_bytes'] / 2**20:,.0f} MiB"
            + (f", kept {counts.kept:,} of {counts.read:,}" if counts.read else "")
        )

    def _label(self, number: int, stage: Stage) -> str:
        return f"[{number:>2}/{self.n_stages}] {stage.name}"


def make(
    stage: Stage, folder: Path, key: str, pool: Pool = THIS_MACHINE, measured: int | None = None
) -> tuple[Manifest, dict[str, Any]]:
    """Run one stage into `folder/stage.name`, resuming what is there; return its manifest and `run.json`.

    Its shards run in `pool`, if it has any. The memory recorded is that of the process `measured` (default: this one)
    with all its children.
    """
    output = folder / stage.name
    resumed = begin(output, stage.kind, stage.config, _input_records(stage, folder), key)
    inputs = {argument: folder / source for argument, source in stage.inputs.items()}
    for path in inputs.values():
        check_files(path)
    with _Meter(measured or os.getpid()) as meter:
        more = (pool,) if stage.pooled else ()
        manifest = resolve(stage.run)(stage.config, inputs, output, *more)
    run = {**meter.reading(), "resumed": resumed}
    write_text(output / RUN, json.dumps(run, indent=2))
    assert not (output / BEGIN).exists(), f"{stage.run} did not seal {output}"
    return manifest, run


def _give_back_memory() -> None:
    """Give memory that this process has freed back to the system, as far as its libraries can."""
    import pyarrow

    pyarrow.default_memory_pool().release_unused()
    give_back()


class _Meter:
    """Wall seconds and the peak resident memory of a process and its children together."""

    _EVERY_SECONDS = 0.25

    def __init__(self, process: int) -> None:
        self._process = process

    def __enter__(self) -> _Meter:
        self._stop = threading.Event()
        self._peak_bytes = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._started, self._wall = time.monotonic(), time.time()
        self._thread.start()
        return self

    def _watch(self) -> None:
        root = psutil.Process(self._process)
        while True:
            total = 0
            for process in [root, *root.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            self._peak_bytes = max(self._peak_bytes, total)
            if self._stop.wait(self._EVERY_SECONDS):
                return

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def reading(self) -> dict[str, Any]:
        """Return what `run.json` records."""
        return {
            "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._wall)),
            "seconds": round(time.monotonic() - self._started, 3),
            "peak_memory_bytes": self._peak_bytes,
            "n_cores": len(psutil.Process().cpu_affinity()),
        }
