"""Contents of files for the commits of a log: asked for some commits ahead, each content read about once.

Git reads them while the commits before are put together. What comes is kept for a while, as the content after a commit
is mostly the content before the file's next one. Memory is bounded by the sizes here and by `max_commit_bytes`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from codeflow.corpus.git_files import LFS_PREFIX, BlobReader, blob_reader
from codeflow.corpus.git_log import ABSENT, RawEntry
from codeflow.corpus.plain_text import utf16_text

_SNIFF_BYTES = 8000  # git's own test for binary files: a NUL in the first 8,000 bytes
_OBJECT_BYTES = 100  # of memory, about, besides the text


class OddContent(NamedTuple):
    """What is no text, or a text that is not the bytes decoded as UTF-8."""

    text: str | None
    fault: str  # "", "binary", "lfs_pointer", "huge", "invalid_utf8", "missing", "commit_too_large"
    note: str = ""


Content = str | OddContent


def _n_bytes(content: Content) -> int:
    text = content if isinstance(content, str) else content.text or ""
    return len(text) + _OBJECT_BYTES


class _Slot:
    """One content: on its way, in the cache, kept beyond it, or lost."""

    __slots__ = ("asked_for", "content", "in_cache", "kept_bytes", "sha", "wanted_by")

    def __init__(self, sha: str, number: int) -> None:
        self.sha = sha
        self.asked_for = self.wanted_by = number  # of the first and of the last commit asked for that needs it
        self.content: Content | None = None
        self.in_cache = False
        self.kept_bytes = 0


class ContentReader:
    """Contents by object id, commit by commit in the order asked for; counts in `notes` those that were converted."""

    CACHE_BYTES = 32_000_000

    def __init__(
        self,
        repository: Path,
        reader: BlobReader,
        max_change_bytes: int,
        max_commit_bytes: int,
        encoding_errors: Literal["skip", "replace"],
        notes: Counter[str],
    ) -> None:
        self._repository, self._reader, self._notes = repository, reader, notes
        self._max_bytes, self._max_commit_bytes = max_change_bytes, max_commit_bytes
        self._replace = encoding_errors == "replace"
        self._commits: deque[list[_Slot]] = deque()
        self._n_asked = self._n_taken = 0  # commits
        self._slots: dict[str, _Slot] = {}
        self._cache: deque[tuple[_Slot, int]] = deque()  # with their bytes, oldest first
        self._cached_bytes = self._kept_bytes = 0

    def ask(self, entries: Iterable[RawEntry]) -> int:
        """Ask for the contents of both sides of a commit's changes; return their number."""
        number, known = self._n_asked, self._slots
        self._n_asked += 1
        needed: list[_Slot] = []
        asked: list[str] = []
        for entry in entries:
            for sha in entry[3:5]:
                slot = known.get(sha)
                if slot is None:
                    if sha not in ABSENT:
                        slot = known[sha] = _Slot(sha, number)
                        needed.append(slot)
                        asked.append(sha)
                elif slot.wanted_by != number:
                    slot.wanted_by = number
                    needed.append(slot)
        self._commits.append(needed)
        self._reader.ask(asked)
        return len(needed)

    def take(self) -> dict[str, Content]:
        """Return the contents of the next commit that was asked for."""
        needed = self._commits.popleft()
        contents: dict[str, Content] = {}
        late = []
        for slot in needed:
            if slot.in_cache:
                contents[slot.sha] = slot.content  # type: ignore[assignment]
            else:
                late.append(slot)
        if late:
            self._take_late(late, contents)
        number = self._n_taken
        self._n_taken += 1
        for slot in needed:
            if slot.wanted_by == number and (slot.kept_bytes or not slot.in_cache):
                self._kept_bytes -= slot.kept_bytes
                slot.kept_bytes = 0
                if not slot.in_cache:
                    del self._slots[slot.sha]
        return contents

    def _take_late(self, late: list[_Slot], contents: dict[str, Content]) -> None:
        """Add what the cache does not hold: what git gives now, and what has left the cache since it was asked for."""
        n_characters, number = 0, self._n_taken
        for slot in late:
            content = slot.content
            if content is None:
                content = self._content(slot.sha, self._reader if slot.asked_for == number else None)
            if isinstance(content, str):
                n_characters += len(content)
            else:
                n_characters += len(content.text or "")
                if content.note:
                    self._notes[content.note] += 1
            if n_characters > 4 * self._max_commit_bytes:  # far beyond what the commit may hold: do not keep it
                contents[slot.sha] = OddContent(None, "commit_too_large")
                if slot.wanted_by != number:
                    self._keep(slot, content)
            else:
                contents[slot.sha] = slot.content = content
                self._remember(slot, content)

    def _content(self, sha: str, reader: BlobReader | None) -> Content:
        if reader is None:  # it left the cache after the commit was asked for, and was too much to keep: rare
            with blob_reader(self._repository) as other:
                other.ask([sha])
                return self._content(sha, other)
        found, n_bytes, data = reader.answer(self._max_bytes)
        assert found == sha
        if data is None:
            return OddContent(None, "missing" if n_bytes < 0 else "huge")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            if (converted := utf16_text(data)) is not None:
                return OddContent(converted, "", "content_utf16")
            text = None
        if data.find(b"\0", 0, _SNIFF_BYTES) >= 0:
            return OddContent(None, "binary")
        if data.startswith(LFS_PREFIX):
            return OddContent(None, "lfs_pointer")
        if text is not None:
            return text
        if not self._replace:
            return OddContent(None, "invalid_utf8")
        return OddContent(data.decode("utf-8", "replace"), "", "content_invalid_utf8_replaced")

    def _remember(self, slot: _Slot, content: Content) -> None:
        n_bytes = _n_bytes(content)
        slot.in_cache = True
        self._cache.append((slot, n_bytes))
        self._cached_bytes += n_bytes
        while self._cached_bytes > self.CACHE_BYTES:
            old, n_bytes = self._cache.popleft()
            self._cached_bytes -= n_bytes
            old.in_cache = False
            left, old.content = old.content, None
            assert left is not None
            if old.wanted_by >= self._n_taken:
                self._keep(old, left)
            else:
                del self._slots[old.sha]

    def _keep(self, slot: _Slot, content: Content) -> None:
        n_bytes = slot.kept_bytes or _n_bytes(content)
        if slot.kept_bytes or self._kept_bytes + n_bytes <= self.CACHE_BYTES:
            slot.content = content
            self._kept_bytes += n_bytes - slot.kept_bytes
            slot.kept_bytes = n_bytes
