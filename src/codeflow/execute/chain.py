"""A chain of stages: what would run and why, and running it.

A stage names the function that makes it (`module:function`, imported only when it runs), its configuration and its
inputs by the names of earlier stages. Its artifact is the folder `<run folder>/<stage name>`.
"""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from codeflow.core.config import Config
from codeflow.core.errors import UserError
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


def run_chain(stages: Sequence[Stage], folder: Path, remake: Sequence[str] = ()) -> dict[str, Manifest]:
    """Make every stage's artifact in `folder` (the caller holds its lock); return the manifests by stage name."""
    for name in remake:
        remove_tree(folder / name)
    manifests: dict[str, Manifest] = {}
    for number, stage in enumerate(stages, 1):
        output = folder / stage.name
        step = compare(stage, output, stage_key(stage, folder))
        label = f"[{number:>2}/{len(stages)}] {stage.name}"
        if step.action == "reuse":
            manifests[stage.name] = check_files(output)
            say(f"{label}: reused")
            continue
        say(f"{label}: {step.reason}" if step.action == "run" else f"{label}: resuming")
        manifests[stage.name], run = make(stage, folder, step.key)
        counts = manifests[stage.name].counts
        say(
            f"{label}: done in {run['seconds']:.1f} s, peak {run['peak_memory_bytes'] / 2**20:,.0f} MiB"
            + (f", kept {counts.kept:,} of {counts.read:,}" if counts.read else "")
        )
    return manifests


def make(stage: Stage, folder: Path, key: str) -> tuple[Manifest, dict[str, Any]]:
    """Run one stage into `folder/stage.name`, resuming what is there; return its manifest and `run.json`."""
    output = folder / stage.name
    resumed = begin(output, stage.kind, stage.config, _input_records(stage, folder), key)
    inputs = {argument: folder / source for argument, source in stage.inputs.items()}
    for path in inputs.values():
        check_files(path)
    with _Meter() as meter:
        manifest = resolve(stage.run)(stage.config, inputs, output)
    run = {**meter.reading(), "resumed": resumed}
    write_text(output / RUN, json.dumps(run, indent=2))
    assert not (output / BEGIN).exists(), f"{stage.run} did not seal {output}"
    return manifest, run


class _Meter:
    """Wall seconds, CPU seconds and the peak resident memory of this process and its children together."""

    _EVERY_SECONDS = 0.25

    def __enter__(self) -> _Meter:
        self._stop = threading.Event()
        self._peak_bytes = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._started, self._wall = time.monotonic(), time.time()
        self._thread.start()
        return self

    def _watch(self) -> None:
        me = psutil.Process()
        while True:
            total = 0
            for process in [me, *me.children(recursive=True)]:
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
