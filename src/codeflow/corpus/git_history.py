"""Histories of git repositories -> commits with the contents of both sides of every changed file.

One `git log --raw` and one `git cat-file --batch` per stretch of history (most repositories are one stretch), read as
streams side by side: contents are asked for some commits ahead, so that git reads them while the commits before are put
together. Memory is bounded by the limits in the configuration, not by the repository. Merges are compared with their
first parent, so the commits are the steps of the main line (Code-Flow §2, repository evolution).

Not covered: copies (they appear as additions) and branches other than the head's.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.progress import say
from codeflow.core.types import Change, Commit
from codeflow.corpus.git_files import GITLINK_MODE, LFS_PREFIX, SYMLINK_MODE, BlobReader, blob_reader
from codeflow.corpus.git_program import git, stream, tokens
from codeflow.corpus.git_repository import Repository, fingerprint, iso_time, locate_all
from codeflow.corpus.plain_text import utf16_text
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool
from codeflow.execute.shards import run_shards

_FORMAT = "%H%x00%P%x00%at%x00%B%x00"
_SNIFF_BYTES = 8000  # git's own test for binary files: a NUL in the first 8,000 bytes
_YOUNG_COMMITS = 20
_ABSENT = frozenset(("0" * 40, "0" * 64))
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


class RawEntry(NamedTuple):
    """One line of `git log --raw`."""

    status: str  # A, M, D, R, T
    modes: tuple[str, str]
    shas: tuple[str, str]
    old_path: bytes
    path: bytes


class RawCommit(NamedTuple):
    """One commit of `git log --raw`, without contents."""

    sha: str
    parents: tuple[str, ...]
    author_seconds: int
    message: bytes
    entries: tuple[RawEntry, ...]


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
        n_life = _count(repository, config.first_parent)
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


def _count(repository: Repository, first_parent: bool) -> int:
    flags = ["--first-parent"] if first_parent else []
    status, output, complaint = git(
        ["rev-list", "--count", *flags, repository.head], repository.folder, timeout_seconds=None
    )
    if status:
        raise UserError(f"the history of {repository.name} is damaged ({complaint}); clone it again")
    return int(output)


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

    reader = _CommitReader(stretch)
    n = write_records(stretch.output / f"commits-{stretch.name}.parquet", reader.commits(), Commit)
    dropped = dict(sorted(reader.dropped.items()))
    return Counts(read=n + sum(dropped.values()), kept=n, dropped=dropped, notes=dict(sorted(reader.notes.items())))


def commits(config: HistoryConfig, cache: Path) -> Iterator[Commit]:
    """Yield the commits of the repositories one after the other, oldest first; `cache` is for those named by a URL.

    Raises UserError for a repository that is missing, empty or unreadable, unless it is optional.
    """
    for repository in locate_all(config.repositories, config.optional_repositories, cache)[0]:
        n_life = _count(repository, config.first_parent)
        for stretch in _stretches(repository, config, cache, n_life, 0):
            yield from _CommitReader(stretch).commits()


def raw_commits(stretch: Stretch) -> Iterator[RawCommit]:
    """Yield the commits of a stretch, oldest first, as `git log --raw` prints them."""
    arguments = ["log", "--raw", "-z", "--no-abbrev", "--reverse", f"-M{stretch.config.rename_similarity}%"]
    arguments += ["-l2000", "--diff-merges=first-parent", "--no-ext-diff", "--no-textconv", "--no-color"]
    arguments += ["--encoding=UTF-8", "--no-notes", "--no-mailmap", "--no-decorate", f"--format={_FORMAT}"]
    arguments += ["--first-parent"] if stretch.config.first_parent else ["--topo-order"]
    arguments += [f"--skip={stretch.skip}", f"--max-count={stretch.n}", stretch.repository.head, "--"]
    with stream(arguments, stretch.repository.folder) as process:
        assert process.stdout
        yield from parse_log(tokens(process.stdout))
        if process.wait():
            raise UserError(f"git log failed on {stretch.repository.name}; check it with 'git fsck'")


def parse_log(parts: Iterator[bytes]) -> Iterator[RawCommit]:
    """Parse the NUL-separated tokens of `git log --raw -z` in our format."""
    sha = next(parts, b"")
    while sha:
        parents, seconds, message = next(parts), next(parts), next(parts)
        next(parts, b"")  # the end of the header
        entries: list[RawEntry] = []
        while (token := next(parts, b"").removeprefix(b"\n")).startswith(b":"):
            old_mode, mode, old_sha, new_sha, status = token[1:].decode("ascii").split()
            old_path = next(parts)
            path = next(parts) if status[0] in "RC" else old_path
            entries.append(RawEntry(status[0], (old_mode, mode), (old_sha, new_sha), old_path, path))
        yield RawCommit(
            sha.decode("ascii"),
            tuple(parents.decode("ascii").split()),
            int(seconds) if seconds.lstrip(b"-").isdigit() else 0,
            message,
            tuple(entries),
        )
        sha = token


class _Content(NamedTuple):
    """A blob as text, or why it is not text."""

    text: str | None
    fault: str  # "", "binary", "lfs_pointer", "huge", "invalid_utf8", "missing", "commit_too_large"
    note: str = ""  # of a text that is not the bytes decoded as UTF-8

    @property
    def n_bytes(self) -> int:
        """Its part of a cache, about."""
        return len(self.text or "") + 100


class _Asked(NamedTuple):
    """A commit whose contents are on their way."""

    raw: RawCommit
    place: int
    entries: Sequence[RawEntry]
    shas: Sequence[str]  # of its contents, each once
    asked: frozenset[str]  # those that git gives for it; the others were there, or on their way for a commit before


class _CommitReader:
    """Joins the log with the contents; counts what it leaves out."""

    _CACHE_BYTES = 32_000_000  # the content after a commit is mostly the content before the file's next one

    def __init__(self, stretch: Stretch) -> None:
        self.stretch, self.config = stretch, stretch.config
        self.dropped: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self._cache: OrderedDict[str, _Content] = OrderedDict()
        self._cached_bytes = 0
        self._wanted: Counter[str] = Counter()  # contents -> number of commits on their way that need them
        self._kept: dict[str, _Content] = {}  # contents that have left the cache but are wanted
        self._kept_bytes = 0

    def commits(self) -> Iterator[Commit]:
        """Yield the commits of the stretch, oldest first."""
        ahead: deque[_Asked] = deque()
        n_ahead = 0
        with blob_reader(self.stretch.repository.folder) as reader:
            for place, raw in enumerate(raw_commits(self.stretch), self.stretch.first):
                if raw.sha in self.stretch.boundary:
                    self.dropped["shallow_boundary"] += 1  # its parent is not here: it would seem to add every file
                    continue
                ahead.append(self._ask(raw, place, reader))
                n_ahead += 1 + len(ahead[-1].shas)
                while n_ahead > _AHEAD:
                    n_ahead -= 1 + len(ahead[0].shas)
                    yield self._commit(ahead.popleft(), reader)
            while ahead:
                yield self._commit(ahead.popleft(), reader)

    def _ask(self, raw: RawCommit, place: int, reader: BlobReader) -> _Asked:
        entries = [entry for entry in raw.entries if self._is_regular(entry)]
        shas = list(dict.fromkeys(sha for entry in entries for sha in entry.shas if sha not in _ABSENT))
        asked = [sha for sha in shas if sha not in self._cache and sha not in self._wanted]
        for sha in shas:
            self._wanted[sha] += 1
        reader.ask(asked)
        return _Asked(raw, place, entries, shas, frozenset(asked))

    def _commit(self, asked: _Asked, reader: BlobReader) -> Commit:
        raw = asked.raw
        return Commit(
            self.stretch.repository.name,
            raw.sha,
            raw.parents[0] if raw.parents else "",
            iso_time(raw.author_seconds),
            self._message(raw.message),
            self._changes(asked.entries, self._contents(asked, reader)),
            asked.place / max(1, self.stretch.n_life - 1),
        )

    def _message(self, message: bytes) -> str:
        try:
            text = message.decode("utf-8")
        except UnicodeDecodeError:
            self.notes["message_invalid_utf8"] += 1
            text = message.decode("utf-8", "replace")
        if not text.strip():
            self.notes["message_empty"] += 1
        return text.rstrip("\n")

    def _changes(self, entries: Sequence[RawEntry], contents: Mapping[str, _Content]) -> tuple[Change, ...]:
        left_bytes = self.config.max_commit_bytes
        changes = []
        nothing = _Content(None, "")
        for status, (old_mode, mode), (old_sha, sha), old_path, path in entries:
            before, after = contents.get(old_sha, nothing), contents.get(sha, nothing)
            fault = before.fault or after.fault
            n_bytes = len(before.text or "") + len(after.text or "")
            if not fault and n_bytes > left_bytes:
                fault = "commit_too_large"
            if fault:  # neither side then: one alone would look like an addition or a deletion
                self.notes[f"change_{fault}"] += 1
                before = after = nothing
            else:
                left_bytes -= n_bytes
            new_path = path.decode("utf-8")
            changes.append(
                Change(
                    new_path,
                    new_path if old_path is path else old_path.decode("utf-8"),
                    status,
                    before.text,
                    after.text,
                    fault in ("binary", "lfs_pointer"),
                    "" if old_sha in _ABSENT else old_mode,
                    "" if sha in _ABSENT else mode,
                )
            )
        if changes:
            self.notes["changes"] += len(changes)
        return tuple(changes)

    def _is_regular(self, entry: RawEntry) -> bool:
        if GITLINK_MODE in entry.modes:
            reason = "change_submodule_skipped"
        elif SYMLINK_MODE in entry.modes:
            reason = "change_symlink_skipped"
        elif not (_is_utf8(entry.path) and (entry.old_path is entry.path or _is_utf8(entry.old_path))):
            reason = "change_path_invalid_utf8_skipped"
        else:
            return True
        self.notes[reason] += 1
        return False

    def _contents(self, asked: _Asked, reader: BlobReader) -> dict[str, _Content]:
        contents = {sha: self._cache[sha] for sha in asked.shas if sha in self._cache}
        n_bytes = 0
        for sha in asked.shas:
            if sha in contents:
                continue
            content = self._arrived(sha, asked, reader)
            if content.note:
                self.notes[content.note] += 1
            n_bytes += len(content.text or "")
            if n_bytes > 4 * self.config.max_commit_bytes:  # far beyond what the commit may hold: do not keep it
                contents[sha] = _Content(None, "commit_too_large")
                if self._wanted[sha] > 1:
                    self._keep(sha, content)
            else:
                contents[sha] = content
                self._remember(sha, content)
        for sha in asked.shas:
            self._wanted[sha] -= 1
            if not self._wanted[sha]:
                del self._wanted[sha]
                if sha in self._kept:
                    self._kept_bytes -= self._kept.pop(sha).n_bytes
        return contents

    def _arrived(self, sha: str, asked: _Asked, reader: BlobReader) -> _Content:
        if sha in asked.asked:
            found, size, data = reader.answer(self.config.max_change_bytes)
            assert found == sha
            return self._content(size, data)
        if sha in self._kept:
            return self._kept[sha]
        # It left the cache after the commit was asked for, and was too much to keep: rare.
        with blob_reader(self.stretch.repository.folder) as other:
            other.ask([sha])
            return self._content(*other.answer(self.config.max_change_bytes)[1:])

    def _content(self, size: int, data: bytes | None) -> _Content:
        if data is None:
            return _Content(None, "missing" if size < 0 else "huge")
        if (text := utf16_text(data)) is not None:
            return _Content(text, "", "content_utf16")
        if data.find(b"\0", 0, _SNIFF_BYTES) >= 0:
            return _Content(None, "binary")
        if data.startswith(LFS_PREFIX):
            return _Content(None, "lfs_pointer")
        try:
            return _Content(data.decode("utf-8"), "")
        except UnicodeDecodeError:
            if self.config.encoding_errors == "skip":
                return _Content(None, "invalid_utf8")
        return _Content(data.decode("utf-8", "replace"), "", "content_invalid_utf8_replaced")

    def _remember(self, sha: str, content: _Content) -> None:
        self._cache[sha] = content
        self._cached_bytes += content.n_bytes
        while self._cached_bytes > self._CACHE_BYTES:
            old_sha, old = self._cache.popitem(last=False)
            self._cached_bytes -= old.n_bytes
            if old_sha in self._wanted:
                self._keep(old_sha, old)

    def _keep(self, sha: str, content: _Content) -> None:
        if sha not in self._kept and self._kept_bytes + content.n_bytes <= self._CACHE_BYTES:
            self._kept[sha] = content
            self._kept_bytes += content.n_bytes


def _is_utf8(path: bytes) -> bool:
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
