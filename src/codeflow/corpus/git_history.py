"""Histories of git repositories -> commits with the contents of both sides of every changed file.

One `git log --raw` (`git_log.py`) and one `git cat-file --batch` (`git_contents.py`) per stretch of history (most
repositories are one stretch), read as streams side by side: contents are asked for some commits ahead, so that git
reads them while the commits before are put together. Memory is bounded by the limits in the configuration, not by the
repository. Merges are compared with their first parent, so the commits are the steps of the main line (Code-Flow §2,
repository evolution).

Not covered: copies (they appear as additions) and branches other than the head's.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.progress import say
from codeflow.core.types import Change, Commit
from codeflow.corpus.git_contents import Content, ContentReader, OddContent
from codeflow.corpus.git_files import GITLINK_MODE, SYMLINK_MODE, blob_reader
from codeflow.corpus.git_log import ABSENT, RawCommit, RawEntry, is_utf8, raw_commits, readable
from codeflow.corpus.git_program import git, stream
from codeflow.corpus.git_repository import Repository, fingerprint, iso_time, locate_all
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool
from codeflow.execute.shards import run_shards

_YOUNG_COMMITS = 20
_BINARY = frozenset(("binary", "lfs_pointer"))
_AHEAD = 1000  # contents, and commits, that are asked for before they are needed


class HistoryConfig(Config):
    """Which histories to read, and how much of them."""

    repositories: tuple[str, ...] = ()  # paths or URLs (https, ssh, file)
    optional_repositories: tuple[str, ...] = ()  # likewise, but a missing or empty one is a remark, not an error
    first_parent: bool = True  # False: the commits of merged branches too
    max_commits: int = Field(default=100_000, ge=1)  # the newest ones of each repository
    max_change_bytes: int = Field(default=400_000, ge=1)  # of one side of one file; larger ones come without content
    max_commit_bytes: int = Field(
        default=4_000_000, ge=1
    )  # of all contents of one commit; the rest comes without content
    encoding_errors: Literal["skip", "replace"] = "skip"  # for contents that are not UTF-8
    rename_similarity: int = Field(default=50, ge=1, le=100)  # per cent
    commits_per_shard: int = Field(default=2000, ge=1)
    cache: str = ""  # folder for fetched repositories; "" puts it beside the artifact


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of consecutive commits of one repository: the work of one shard."""

    name: str
    output: Path
    repository: Repository
    config: HistoryConfig
    skip: int  # commits newer than the stretch
    n: int
    first: int  # place of its first commit in the repository's life
    n_life: int
    boundary: frozenset[str]  # commits at which a shallow clone was cut

    @property
    def reads(self) -> str:
        """Say what it reads, for messages."""
        return f"{self.n} commits of {self.repository.name} from number {self.first}"


def world(config: HistoryConfig) -> str:
    """Return the heads of the repositories: what the history depends on besides its configuration."""
    return fingerprint(config.repositories, config.optional_repositories)


def run(config: HistoryConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Read the histories of the repositories into `commits-*.parquet`.

    Raises UserError for a repository that is missing, empty or unreadable; an optional one is a remark in the
    manifest's metrics, and the artifact may hold no commits at all.
    """
    cache = Path(config.cache).expanduser() if config.cache else output.parent / "cache" / "git"
    repositories, remarks = locate_all(config.repositories, config.optional_repositories, cache)
    if not config.repositories and not config.optional_repositories:
        remarks.append("no repository was named: there are no commits")
    stretches: list[Stretch] = []
    described: dict[str, dict[str, object]] = {}
    left_out = 0
    for repository in repositories:
        with _counting(repository, config.first_parent) as count:
            n_life = count()
        parts = _stretches(repository, config, output, n_life, len(stretches))
        n = sum(part.n for part in parts)
        stretches += parts
        left_out += n_life - n
        described[repository.name] = {
            "head": repository.head,
            "head_time": repository.head_time,
            "n_commits": n,
            "n_commits_in_life": n_life,
            "shallow": repository.shallow,
            "synthetic": repository.synthetic,
        }
        if n_life < _YOUNG_COMMITS:
            remarks.append(f"{repository.name} is young: {n_life} commits")
    for remark in remarks:
        say(f"  history: {remark}")
    counts = run_shards(read_stretch, stretches, output, "history", pool)
    if left_out:
        counts = counts + Counts(read=left_out, dropped={"older_than_max_commits": left_out})
    return seal(output, counts, {"repositories": described, "remarks": remarks})


@contextmanager
def _counting(repository: Repository, first_parent: bool) -> Iterator[Callable[[], int]]:
    """Start to count the commits of a repository; the function given waits for their number."""
    flags = ["--first-parent"] if first_parent else []
    with stream(["rev-list", "--count", *flags, repository.head], repository.folder) as process:

        def count() -> int:
            assert process.stdout
            output = process.stdout.read()
            if process.wait():
                raise UserError(f"the history of {repository.name} is damaged; check it with 'git fsck'")
            return int(output)

        yield count


def _stretches(repository: Repository, config: HistoryConfig, output: Path, n_life: int, number: int) -> list[Stretch]:
    boundary = _shallow_boundary(repository)
    parts = []
    first = max(0, n_life - config.max_commits)
    for start in range(first, n_life, config.commits_per_shard):
        n = min(config.commits_per_shard, n_life - start)
        name = f"{number + len(parts):05d}"
        parts.append(Stretch(name, output, repository, config, n_life - start - n, n, start, n_life, boundary))
    return parts


def _shallow_boundary(repository: Repository) -> frozenset[str]:
    if not repository.shallow:
        return frozenset()
    _, output, _ = git(["rev-parse", "--git-path", "shallow"], repository.folder)
    path = repository.folder / output.decode().strip()
    return frozenset(path.read_text().split()) if path.exists() else frozenset()


def read_stretch(stretch: Stretch) -> Counts:
    """Write one stretch of history to its shard; return what was read, kept and left out."""
    from codeflow.core.records import write_records

    config, repository = stretch.config, stretch.repository
    reader = _CommitReader(repository, config, stretch.boundary)
    log = raw_commits(repository, stretch.n, stretch.skip, config.first_parent, config.rename_similarity)
    commits = reader.commits(log, lambda: (stretch.first, stretch.n_life))
    n = write_records(stretch.output / f"commits-{stretch.name}.parquet", commits, Commit)
    dropped = dict(sorted(reader.dropped.items()))
    return Counts(read=n + sum(dropped.values()), kept=n, dropped=dropped, notes=dict(sorted(reader.notes.items())))


def commits(config: HistoryConfig, cache: Path) -> Iterator[Commit]:
    """Yield the commits of the repositories one after the other, oldest first; `cache` is for those named by a URL.

    Raises UserError for a repository that is missing, empty or unreadable, unless it is optional.
    """
    for repository in locate_all(config.repositories, config.optional_repositories, cache)[0]:
        with _counting(repository, config.first_parent) as count:  # git counts while the log begins
            reader = _CommitReader(repository, config, _shallow_boundary(repository))
            log = raw_commits(repository, config.max_commits, 0, config.first_parent, config.rename_similarity)
            yield from reader.commits(log, lambda: _life(count(), config.max_commits))


def _life(n_life: int, max_commits: int) -> tuple[int, int]:
    return max(0, n_life - max_commits), n_life


class _CommitReader:
    """Joins a log with the contents; counts what it leaves out."""

    def __init__(self, repository: Repository, config: HistoryConfig, boundary: frozenset[str]) -> None:
        self.repository, self.config, self.boundary = repository, config, boundary
        self.dropped: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()

    def commits(self, log: Iterator[RawCommit], life: Callable[[], tuple[int, int]]) -> Iterator[Commit]:
        """Yield the commits of a log. `life` tells where in the repository's life the first is, and how long that is;
        it is asked once, when git has given the first commits."""
        config, boundary = self.config, self.boundary
        ahead: deque[tuple[float, RawCommit, list[RawEntry]]] = deque()
        n_ahead = first = last = 0
        with blob_reader(self.repository.folder) as reader:
            limits = (config.max_change_bytes, config.max_commit_bytes, config.encoding_errors)
            contents = ContentReader(self.repository.folder, reader, *limits, self.notes)
            for number, raw in enumerate(log):
                if not number:
                    first, n_life = life()
                    last = max(1, n_life - 1)
                if raw.sha in boundary:
                    self.dropped["shallow_boundary"] += 1  # its parent is not here: it would seem to add every file
                    continue
                entries = self._regular(raw.entries)
                n_ahead += 1 + contents.ask(entries)
                ahead.append(((first + number) / last, raw, entries))
                while n_ahead > _AHEAD:
                    texts = contents.take()
                    n_ahead -= 1 + len(texts)
                    yield self._commit(*ahead.popleft(), texts)
            while ahead:
                yield self._commit(*ahead.popleft(), contents.take())

    def _commit(
        self, position: float, raw: RawCommit, entries: list[RawEntry], contents: Mapping[str, Content]
    ) -> Commit:
        sha, parents, author_seconds, message, _ = raw
        return Commit(
            self.repository.name,
            sha,
            parents[0] if parents else "",
            iso_time(author_seconds),
            self._message(message),
            self._changes(entries, contents),
            position,
        )

    def _message(self, message: str) -> str:
        if not is_utf8(message):
            self.notes["message_invalid_utf8"] += 1
            message = readable(message)
        if not message or message.isspace():
            self.notes["message_empty"] += 1
        return message.rstrip("\n")

    def _changes(self, entries: list[RawEntry], contents: Mapping[str, Content]) -> tuple[Change, ...]:
        left_bytes = self.config.max_commit_bytes
        changes = []
        for status, old_mode, mode, old_sha, sha, old_path, path in entries:
            before, after = contents.get(old_sha), contents.get(sha)
            fault = ""
            if isinstance(before, OddContent) or isinstance(after, OddContent):
                before, after, fault = _sides(before, after)
            n_bytes = (len(before) if before else 0) + (len(after) if after else 0)
            if not fault and n_bytes > left_bytes:
                fault = "commit_too_large"
            if fault:  # neither side then: one alone would look like an addition or a deletion
                self.notes[f"change_{fault}"] += 1
                before = after = None
            else:
                left_bytes -= n_bytes
            changes.append(
                Change(
                    path,
                    old_path,
                    status,
                    before,
                    after,
                    fault in _BINARY,
                    "" if old_sha in ABSENT else old_mode,
                    "" if sha in ABSENT else mode,
                )
            )
        if changes:
            self.notes["changes"] += len(changes)
        return tuple(changes)

    def _regular(self, entries: list[RawEntry]) -> list[RawEntry]:
        """Return the entries of regular files with readable paths; count the others."""
        regular = []
        for entry in entries:
            _, old_mode, mode, _, _, old_path, path = entry
            if GITLINK_MODE in (old_mode, mode):
                self.notes["change_submodule_skipped"] += 1
            elif SYMLINK_MODE in (old_mode, mode):
                self.notes["change_symlink_skipped"] += 1
            elif not (is_utf8(path) and (old_path is path or is_utf8(old_path))):
                self.notes["change_path_invalid_utf8_skipped"] += 1
            else:
                regular.append(entry)
        return regular


def _sides(before: Content | None, after: Content | None) -> tuple[str | None, str | None, str]:
    """Return the texts of a change's sides, and why they cannot be given."""
    fault = ""
    if isinstance(after, OddContent):
        after, fault = after.text, after.fault
    if isinstance(before, OddContent):
        before, fault = before.text, before.fault or fault
    return before, after, fault
