"""Progress on standard error: a bar on a terminal, a line now and then elsewhere, nothing for work under a second.

Both say how much is done, how long the rest will take, and what the caller remarks.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, soft_wrap=True)
_QUIET_SECONDS = 1.0
_LINE_EVERY_SECONDS = 15.0


def say(text: str) -> None:
    """Print one line for the user, above any progress bar."""
    console.print(text, markup=False)


def visible(text: str) -> str:
    """Return text from documents or models with control characters spelt out: a terminal would obey them."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def duration(seconds: float) -> str:
    """Return a duration in words, to the second below a minute, to the minute from an hour on."""
    n = round(seconds)
    if n < 60:
        return f"{n} s"
    return f"{n // 60} min {n % 60} s" if n < 3600 else f"{n // 3600} h {n % 3600 // 60} min"


class Bar:
    """Counts finished units of known or unknown total. Use as a context manager; call `advance`."""

    def __init__(self, label: str, total: int | None, unit: str = "") -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self._before = 0
        self._started = self._printed = time.monotonic()
        self._progress: Progress | None = None

    def __enter__(self) -> Bar:
        return self

    def already(self, n: int) -> None:
        """Count `n` units that were finished before: they say nothing about the time that is left."""
        self.done += n
        self._before += n

    @property
    def seconds(self) -> float:
        """How long the work has taken."""
        return time.monotonic() - self._started

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at the pace so far; None where nothing tells."""
        fresh = self.done - self._before
        return self.seconds / fresh * (self.total - self.done) if self.total and fresh else None

    def advance(self, n: int = 1, remark: str = "") -> None:
        """Count `n` more units; `remark` is shown behind the bar."""
        self.done += n
        now = time.monotonic()
        if now - self._started < _QUIET_SECONDS:
            return
        if sys.stderr.isatty():
            self._draw(remark)
        elif now - self._printed > _LINE_EVERY_SECONDS:
            self._printed = now
            left = self.seconds_left
            parts = [self._fraction(), f"{duration(left)} left" if left else "", remark]
            say(f"  {self.label}: {', '.join(filter(None, parts))}")

    def _fraction(self) -> str:
        return f"{self.done:,}" + (f"/{self.total:,}" if self.total else "") + f" {self.unit}".rstrip()

    def _draw(self, remark: str) -> None:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("  {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[remark]}"),
                console=console,
                transient=True,
            )
            self._progress.add_task(self.label, total=self.total, completed=self._before, remark=remark)
            self._progress.start()
        self._progress.update(self._progress.task_ids[0], completed=self.done, remark=remark)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
