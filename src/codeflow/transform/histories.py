"""Reading one repository's history from a commits artifact, and what the corpus says of its files.

Everything that walks over histories uses this: the choice of triplets and their renderings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from codeflow.core.storage import sha256_text
from codeflow.core.types import Change, Commit
from codeflow.transform import commit_message

_ROWS_AT_ONCE = 64  # commits in memory while a shard is read

Clock = Literal["order", "time"]


def holders(commits: Path) -> dict[str, tuple[Path, ...]]:
    """Return by repository the shards of a commits artifact that hold its commits, in order."""
    import pyarrow.parquet as pq

    from codeflow.core.records import shards

    found: dict[str, list[Path]] = {}
    for path in shards(commits, "commits"):
        for name in pq.read_table(path, columns=["repository"])["repository"].unique().to_pylist():
            found.setdefault(name, []).append(path)
    return {name: tuple(paths) for name, paths in sorted(found.items())}


@dataclass(frozen=True, slots=True)
class Life:
    """What is known of a history before its commits are read with their contents."""

    reverted: frozenset[str]  # ids, possibly shortened, of commits that later ones revert
    first_second: float  # of the earliest and the latest commit, since 1970
    last_second: float


def life_of(paths: tuple[Path, ...], repository: str) -> Life:
    """Read messages and times of a repository's commits."""
    from codeflow.core.records import read_records

    reverted: set[str] = set()
    seconds: list[float] = []
    for path in paths:
        rows: Iterator[Any] = read_records(path, Commit, ["repository", "message", "author_time"])
        for row in rows:
            if row["repository"] == repository:
                reverted.update(commit_message.reverted(row["message"]))
                seconds.append(_second(row["author_time"]))
    return Life(frozenset(reverted), min(seconds, default=0.0), max(seconds, default=0.0))


def _second(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def commits_of(paths: tuple[Path, ...], repository: str, life: Life | None = None) -> Iterator[Commit]:
    """Yield the repository's commits, oldest first, a few at a time.

    With `life` their positions are shares of the time of the project's life instead of its commits. Clocks of authors
    differ, so the position never falls: a commit dated before an earlier one has the earlier one's.
    """
    import pyarrow.parquet as pq

    from codeflow.core.records import from_row

    latest = 0.0
    for path in paths:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                names = batch.column("repository").to_pylist()
                for place in (place for place, name in enumerate(names) if name == repository):
                    commit = from_row(Commit, batch.slice(place, 1).to_pylist()[0])
                    if life is not None:
                        span = max(life.last_second - life.first_second, 1.0)
                        latest = max(latest, (_second(commit.author_time) - life.first_second) / span)
                        commit = replace(commit, position=latest)
                    yield commit


def documents_of(documents: Path | None, repository: str) -> tuple[Callable[[Change], bool], str]:
    """Return a test for changes that touch held-out documents, and the commonest licence of the repository's files."""
    from codeflow.core.records import read_records, shards
    from codeflow.core.types import Document

    if documents is None:
        return lambda change: False, ""
    licences: Counter[str] = Counter()
    paths: set[str] = set()
    ids: set[str] = set()
    for kind in ("documents", "heldout"):
        for shard in shards(documents, kind):
            rows: Iterator[Any] = read_records(shard, Document, ["id", "origin"])
            for row in rows:
                origin = row["origin"]
                if origin["repository"] == repository:
                    licences[origin["licence"]] += 1
                    if kind == "heldout":
                        paths.add(origin["path"])
                if kind == "heldout":
                    ids.add(row["id"])

    def is_held_out(change: Change) -> bool:
        if change.path in paths or change.old_path in paths:
            return True
        return any(sha256_text(text) in ids for text in (change.before, change.after) if text)

    del licences[""]
    return is_held_out, min(licences, key=lambda name: (-licences[name], name)) if licences else ""
