"""A profiler trace of some training steps: `.profile/steps_A_B.json`, for Perfetto or chrome://tracing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from codeflow.core.progress import say
from codeflow.core.storage import atomic_path
from codeflow.train.watch_config import WatchConfig


class ProfiledSteps:
    """Records operations, memory and shapes from one step to another, on this process."""

    def __init__(self, config: WatchConfig, output: Path, steps: int) -> None:
        """`steps` of the phase: a trace ends with the last of them."""
        self._folder = output / ".profile"
        self._first = config.profile_from_step
        self._last = min((self._first or 0) + config.profile_steps - 1, steps)
        self._running: profile | None = None

    @contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Compute one step, within the trace if it is one of its steps."""
        if self._first is not None and self._running is None and self._first <= step <= self._last:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._running = profile(activities=activities, profile_memory=True, record_shapes=True)
            self._running.start()
            self._first = step  # later than asked for where a phase goes on after a kill
        yield
        if self._running and step == self._last:
            self._running.stop()
            self._folder.mkdir(exist_ok=True)
            path = self._folder / f"steps_{self._first}_{step}.json"
            with atomic_path(path) as temporary:
                self._running.export_chrome_trace(str(temporary))
            say(f"  profile of steps {self._first} to {step}: {path}")
            self._running, self._first = None, None
