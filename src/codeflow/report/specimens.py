"""One pass over the documents of an artifact: a sample of them, and how all of them are distributed.

The sample is the documents with the lowest priorities, a hash of the seed and the row's number: it depends on nothing
else, whatever the number of files. Memory is bounded whatever the artifact: a reader holds one batch of rows, a sample
so many documents for each of a bounded number of groups, cut to so many characters; distributions have fixed bins, and
of a tag's values a sample is kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.progress import Bar
from codeflow.core.records import schema_of
from codeflow.core.types import Document, DroppedDocument

T = TypeVar("T")
UInt64 = npt.NDArray[np.uint64]
BATCH_ROWS = 256
MAX_GROUPS, MAX_NAMES, MAX_TAGS, MAX_VALUES = 48, 1000, 60, 5000
OTHERS = "(others)"
NAME_CHARACTERS = 300
_MOST_CHARACTERS = 400_000
LENGTH_BINS = np.concatenate([[0], np.logspace(1, 7, 37)])  # characters; the last bin takes what is longer


class InspectConfig(Config):
    """How much of an artifact is shown."""

    samples: int = Field(default=6, ge=1, le=200)  # documents for each reason, and for each language of the kept ones
    clusters: int = Field(default=12, ge=0, le=200)  # half of them the largest
    hits: int = Field(default=6, ge=0, le=200)  # for each method and benchmark
    characters: int = Field(default=2000, ge=80, le=100_000)  # of a text; the page says how long it was
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _page_is_readable(self) -> InspectConfig:
        if max(self.samples, self.clusters, self.hits) * self.characters > _MOST_CHARACTERS:
            raise ValueError(
                f"samples={self.samples}, clusters={self.clusters}, hits={self.hits} of characters={self.characters} "
                f"make a page that no browser shows; keep products below {_MOST_CHARACTERS:,}"
            )
        return self


@dataclass(frozen=True, slots=True)
class Specimen:
    """A document as it is shown; `text` is cut, `n_characters` counts all of it."""

    kept: bool
    id: str
    text: str
    n_characters: int
    language: str
    repository: str
    revision: str
    path: str
    licence: str
    tags: Mapping[str, float]
    reason: str = ""  # operator/reason
    detail: str = ""


class Reservoir(Generic[T]):
    """For each group the `size` things of lowest priority. Beyond `MAX_GROUPS` groups, the rest share one."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._groups: dict[str, list[tuple[int, int, T]]] = {}

    def offer(self, group: str, priorities: UInt64, rows: npt.NDArray[np.int64], load: Callable[[int], T]) -> None:
        """Consider the things at `rows`, whose priorities are given; `load` is called for those that enter."""
        if group not in self._groups and len(self._groups) >= MAX_GROUPS:
            group = OTHERS
        heap = self._groups.setdefault(group, [])
        for at in np.argsort(priorities, kind="stable")[: self.size].tolist():
            priority, row = int(priorities[at]), int(rows[at])
            if len(heap) < self.size:
                heapq.heappush(heap, (-priority, -len(heap), load(row)))
            elif priority < -heap[0][0]:
                heapq.heapreplace(heap, (-priority, heap[0][1], load(row)))
            else:
                break

    def groups(self) -> dict[str, list[T]]:
        """Return what was kept, by group in order of name, lowest priority first."""
        return {
            name: [item for _, _, item in sorted(heap, key=lambda entry: -entry[0])]
            for name, heap in sorted(self._groups.items())
        }


def priorities(seed: int, first: int, n: int) -> UInt64:
    """Return the priorities of rows first..first+n: the output function of splitmix64 (Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        z = np.arange(first + 1, first + n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = z + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


@dataclass(slots=True)
class Values:
    """The values of one tag: exact count, least and greatest; a sample of the values themselves."""

    n: int = 0
    n_not_finite: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    sample: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    _priorities: UInt64 = field(default_factory=lambda: np.empty(0, np.uint64))

    def add(self, values: npt.NDArray[np.float64], priority: UInt64) -> None:
        """Take in the values of some rows with the rows' priorities."""
        finite = np.isfinite(values)
        self.n_not_finite += int((~finite).sum())
        values, priority = values[finite], priority[finite]
        if values.size:
            self.n += values.size
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
            everything = np.concatenate([self._priorities, priority])
            lowest = np.argsort(everything, kind="stable")[:MAX_VALUES]
            self.sample = np.concatenate([self.sample, values])[lowest]
            self._priorities = everything[lowest]


@dataclass
class Side:
    """What is known of all kept, or all dropped documents."""

    n: int = 0
    n_characters: int = 0
    lengths: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(LENGTH_BINS), np.int64))
    languages: dict[str, list[int]] = field(default_factory=dict)  # name -> [documents, characters]
    licences: dict[str, list[int]] = field(default_factory=dict)
    tags: dict[str, Values] = field(default_factory=dict)


@dataclass(frozen=True)
class Survey:
    """The outcome of the pass."""

    kept: Side
    dropped: Side
    kept_samples: dict[str, list[Specimen]]  # by language
    dropped_samples: dict[str, list[Specimen]]  # by operator/reason
    reasons: dict[str, int]


class Source:
    """The Parquet files of an artifact that hold documents, kept and dropped, told by their columns."""

    def __init__(self, folder: Path) -> None:
        self.kept, self.dropped = [], []
        for path in sorted(folder.glob("*.parquet")):
            names = set(_open(path).schema_arrow.names)
            if set(schema_of(DroppedDocument).names) <= names:
                self.dropped.append(path)
            elif set(schema_of(Document).names) <= names:
                self.kept.append(path)
        if not self.kept:
            raise UserError(f"{folder} has no documents in it; run the stage that makes it again")


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]}); make it again")


def batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield a file's rows, at most `BATCH_ROWS` at a time. Raises UserError on a broken file."""
    try:
        with _open(path) as file:
            for group in range(file.num_row_groups):
                yield from file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(path, error) from None


def text_of(scalar: Any, limit: int = NAME_CHARACTERS) -> str:
    """Return an Arrow string cut to `limit` characters; what is not UTF-8 is replaced."""
    buffer = scalar.as_buffer() if scalar.is_valid else None
    return bytes(buffer[: 4 * limit]).decode("utf-8", "replace")[:limit] if buffer is not None else ""


class _Surveyor:
    def __init__(self, config: InspectConfig) -> None:
        self.config = config
        self.sides = {True: Side(), False: Side()}
        self.samples: dict[bool, Reservoir[Specimen]] = {
            True: Reservoir(config.samples),
            False: Reservoir(config.samples),
        }
        self.reasons: dict[str, int] = {}
        self.n_rows = 0

    def look_at(self, batch: pa.RecordBatch, kept: bool) -> None:
        """Take in one batch of rows."""
        documents = batch if kept else pa.RecordBatch.from_struct_array(batch.column("document"))
        priority = priorities(self.config.seed, self.n_rows, len(batch))
        self.n_rows += len(batch)
        lengths = _lengths(documents.column("text")).to_numpy(zero_copy_only=False).astype(np.int64)
        side = self.sides[kept]
        side.n += len(batch)
        side.n_characters += int(lengths.sum())
        bins = np.searchsorted(LENGTH_BINS, lengths, "right") - 1
        side.lengths += np.bincount(bins, minlength=len(LENGTH_BINS))
        languages = _groups(documents.column("language"))
        _tally(side.languages, languages, lengths)
        _tally(side.licences, _groups(documents.column("origin").field("licence")), lengths)
        _note_tags(side.tags, documents.column("tags"), priority)
        groups = languages if kept else _groups_of_pairs(batch.column("operator"), batch.column("reason"))
        for name, rows in groups:
            if not kept:
                self._count_reason(name, rows.size)

            def load(row: int) -> Specimen:
                return specimen(batch, row, kept, self.config.characters)

            self.samples[kept].offer(name, priority[rows], rows, load)

    def _count_reason(self, name: str, n: int) -> None:
        name = name if name in self.reasons or len(self.reasons) < MAX_NAMES else OTHERS
        self.reasons[name] = self.reasons.get(name, 0) + n


def _lengths(column: Any) -> Any:
    return pc.call_function("utf8_length", [column])


def _groups(column: Any) -> list[tuple[str, npt.NDArray[np.int64]]]:
    """Return each distinct value of a string column, cut, with its rows."""
    encoded = column.dictionary_encode("encode")
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    return [(text_of(value), np.flatnonzero(codes == code)) for code, value in enumerate(encoded.dictionary)]


def _groups_of_pairs(left: Any, right: Any) -> list[tuple[str, npt.NDArray[np.int64]]]:
    found = []
    for name, rows in _groups(left):
        for other, inner in _groups(right.take(pa.array(rows))):
            found.append((f"{name}/{other}", rows[inner]))
    return found


def _tally(
    table: dict[str, list[int]], groups: list[tuple[str, npt.NDArray[np.int64]]], lengths: npt.NDArray[np.int64]
) -> None:
    for name, rows in groups:
        name = name if name in table or len(table) < MAX_NAMES else OTHERS
        entry = table.setdefault(name, [0, 0])
        entry[0] += rows.size
        entry[1] += int(lengths[rows].sum())


def _note_tags(table: dict[str, Values], column: Any, priority: UInt64) -> None:
    offsets = column.offsets.to_numpy()
    rows = np.repeat(np.arange(len(column)), np.diff(offsets))
    keys = column.keys.slice(offsets[0], offsets[-1] - offsets[0])
    items = column.items.slice(offsets[0], offsets[-1] - offsets[0])
    values = items.to_numpy(zero_copy_only=False).astype(np.float64)
    for name, places in _groups(keys):
        if name in table or len(table) < MAX_TAGS:
            table.setdefault(name, Values()).add(values[places], priority[rows[places]])


def specimen(batch: pa.RecordBatch, row: int, kept: bool, characters: int) -> Specimen:
    """Return the document in a row of a batch of documents, or of dropped documents."""
    here = batch.slice(row, 1)
    documents = here if kept else pa.RecordBatch.from_struct_array(here.column("document"))
    origin = documents.column("origin")

    def of(name: str) -> str:
        return text_of(origin.field(name)[0])

    text = documents.column("text")
    pairs = documents.column("tags")[0].as_py() or []
    return Specimen(
        kept=kept,
        id=text_of(documents.column("id")[0]),
        text=text_of(text[0], characters),
        n_characters=_lengths(text)[0].as_py() or 0,
        language=text_of(documents.column("language")[0]),
        repository=of("repository"),
        revision=of("revision"),
        path=of("path"),
        licence=of("licence"),
        tags={name[:NAME_CHARACTERS]: value for name, value in pairs[:MAX_TAGS]},
        reason="" if kept else f"{text_of(here.column('operator')[0])}/{text_of(here.column('reason')[0])}",
        detail="" if kept else text_of(here.column("detail")[0], 500),
    )


def survey(source: Source, config: InspectConfig) -> Survey:
    """Read every document of an artifact once."""
    surveyor = _Surveyor(config)
    with Bar("inspect", len(source.kept) + len(source.dropped), "files") as bar:
        for paths, kept in ((source.kept, True), (source.dropped, False)):
            for path in paths:
                for batch in batches(path):
                    if len(batch):
                        surveyor.look_at(batch, kept)
                bar.advance()
    return Survey(
        surveyor.sides[True],
        surveyor.sides[False],
        surveyor.samples[True].groups(),
        surveyor.samples[False].groups(),
        dict(sorted(surveyor.reasons.items(), key=lambda item: (-item[1], item[0]))),
    )


def find(source: Source, ids: set[str], characters: int) -> dict[str, Specimen]:
    """Return documents by id, kept ones before dropped ones; those that are nowhere are left out.

    Of each row group the ids are read first, and the texts only where one of them is wanted.
    """
    found: dict[str, Specimen] = {}
    for paths, kept in ((source.kept, True), (source.dropped, False)):
        for path in paths:
            wanted = pa.array(sorted(ids - found.keys()), pa.string())
            if len(wanted) == 0:
                return found
            for group, rows in _rows_with(path, "id" if kept else "document.id", wanted):
                try:
                    with _open(path) as file:
                        start = 0
                        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group]):
                            for row in rows[(rows >= start) & (rows < start + len(batch))].tolist():
                                one = specimen(batch, row - start, kept, characters)
                                found.setdefault(one.id, one)
                            start += len(batch)
                except (pa.ArrowInvalid, OSError) as error:
                    raise _damaged(path, error) from None
    return found


def _rows_with(path: Path, column: str, wanted: Any) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    with _open(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=[column])
            ids = (table if column == "id" else table.flatten()).column(0)
            rows = np.flatnonzero(pc.call_function("is_in", [ids], options=pc.SetLookupOptions(wanted)).to_numpy())
            if rows.size:
                yield group, rows
