"""What deduplication remembers of each document after one pass over the texts.

Per shard, in the scratch folder:

    keys-NNNNN.parquet   number, two 16-byte digests, id and what the keep rule looks at; sorted by `hash`
    bands-NNNNN.*.npy    keys (n_bands, D) uint64, sorted within each band, and their document numbers int64

A document's number is its row in the corpus, counted over the shards in order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts
from codeflow.core.records import shards
from codeflow.core.storage import atomic_path, atomic_paths
from codeflow.transform.dedup import DedupConfig, KeepConfig, NearConfig

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]

ROWS_PER_GROUP = 1024
_READING = ("sign", "sets", "write")  # steps of a corpus that read its texts
_POOL_FROM_BYTES = 16 * 2**20  # of compressed Parquet
_WHITE_SPACE = b" \t\n\r\f\v"
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class ShardJob:
    """One shard of the corpus and the numbers of its documents, [start, stop)."""

    step: str
    source: Path
    index: int
    start: int
    stop: int
    config: DedupConfig
    scratch: Path
    output: Path

    @property
    def name(self) -> str:
        return f"{self.step}-{self.index:05d}"

    @property
    def n_bytes(self) -> int:
        """Bytes of the shard where the step reads its texts."""
        return self.source.stat().st_size if self.step in _READING else 0


def shard_jobs(step: str, source: Path, config: DedupConfig, scratch: Path, output: Path) -> list[ShardJob]:
    """Return one job per document shard of `source`. Raises UserError when there is none or one is broken."""
    jobs: list[ShardJob] = []
    start = 0
    for index, path in enumerate(shards(source, "documents")):
        try:
            stop = start + pq.read_metadata(path).num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} is not a readable Parquet file ({error}); make it again") from None
        jobs.append(ShardJob(step, path, index, start, stop, config, scratch, output))
        start = stop
    save_arrays(scratch / "layout", stops=np.array([job.stop for job in jobs], np.int64))
    if not jobs:
        raise UserError(f"{source} has no documents-*.parquet; run the stage that makes it first")
    return jobs


def is_small(source: Path) -> bool:
    """Say whether a corpus is so small that it is done before a pool of processes has started."""
    n_bytes = sum(path.stat().st_size for path in shards(source, "documents"))
    return n_bytes < _POOL_FROM_BYTES


def text_batches(path: Path, columns: list[str]) -> Iterator[tuple[dict[str, Any], UInt8, Int64]]:
    """Yield (columns other than the text, bytes, offsets) of each row group: text i is bytes[offsets[i]:offsets[i+1]].

    The bytes are Arrow's own buffer: no Python string is made of a text.
    """
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_PER_GROUP, columns=["text", *columns]):
            data, offsets = string_buffers(batch.column("text"))
            yield {name: batch.column(name) for name in columns}, data, offsets


def string_buffers(column: Any) -> tuple[UInt8, Int64]:
    """Return the bytes and offsets of an Arrow string array, without copying the bytes."""
    width = np.int64 if pa.types.is_large_string(column.type) else np.int32
    _, offsets, data = column.buffers()
    if offsets is None or data is None:
        return np.empty(0, np.uint8), np.zeros(len(column) + 1, np.int64)
    marks = np.frombuffer(offsets, width)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(data, np.uint8), marks.astype(np.int64)


def digest(text: memoryview | bytes, ignore_white_space: bool) -> bytes:
    """Return 16 bytes that identify a text, or the text without its ASCII white space."""
    seen = bytes(text).translate(None, _WHITE_SPACE) if ignore_white_space else text
    return hashlib.blake2b(seen, digest_size=_DIGEST_BYTES).digest()


def sign_shard(job: ShardJob) -> Counts:
    """Write the fingerprints of one shard (pass 1 over the texts)."""
    config = job.config
    loose = config.exact is not None and config.exact.ignore_white_space
    rows: list[Any] = []
    bands: list[Any] = []
    number = job.start
    for columns, data, offsets in text_batches(job.source, ["id", "origin", "tags"]):
        view = data.data
        spans = list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))
        exact = [digest(view[a:b], False) for a, b in spans]
        normal = [digest(view[a:b], True) for a, b in spans] if loose else exact
        rows.append(_key_table(np.arange(number, number + len(spans)), exact, normal, columns, config.keep))
        if config.near is not None:
            bands.append(_bands_of(data, offsets, number, config.near))
        number += len(spans)
    table = pa.concat_tables(rows) if rows else _key_table(np.arange(0), [], [], None, config.keep)
    table = table.sort_by([("hash", "ascending"), ("number", "ascending")])
    with atomic_path(job.scratch / f"keys-{job.index:05d}.parquet") as temporary:
        pq.write_table(table, temporary, row_group_size=16_384, compression="zstd")
    if config.near is not None:
        _write_bands(job.scratch / f"bands-{job.index:05d}", bands, config.near)
    return Counts(read=number - job.start, kept=number - job.start)


def _key_table(
    numbers: Int64, exact: list[bytes], normal: list[bytes], columns: dict[str, Any] | None, keep: KeepConfig
) -> Any:
    if columns is None:
        ids, repositories, paths, times, revisions, qualities = [], [], [], [], [], []
    else:
        origin = columns["origin"]
        ids = columns["id"]
        names = ("repository", "path", "fetched_at", "revision")
        repositories, paths, times, revisions = (origin.field(name) for name in names)
        qualities = [dict(tags).get(keep.quality_tag) for tags in columns["tags"].to_pylist()]
    return pa.table(
        {
            "number": pa.array(numbers, pa.int64()),
            "hash": pa.array([int.from_bytes(d[:8], "little") for d in normal], pa.uint64()),
            "normal": pa.array(normal, pa.binary(_DIGEST_BYTES)),
            "exact": pa.array(exact, pa.binary(_DIGEST_BYTES)),
            "id": pa.array(ids, pa.string()),
            "repository": pa.array(repositories, pa.string()),
            "path": pa.array(paths, pa.string()),
            "fetched_at": pa.array(times, pa.string()),
            "revision": pa.array(revisions, pa.string()),
            "quality": pa.array(qualities, pa.float64()),
        }
    )


def _bands_of(data: UInt8, offsets: Int64, number: int, near: NearConfig) -> tuple[Any, Int64]:
    from codeflow.transform import minhash

    n_bands, n_rows = minhash.bands_for(near.threshold, near.n_permutations, near.band_recall)
    functions = minhash.permutations(n_bands * n_rows)
    signatures = minhash.signatures(data, offsets, functions, near.n_tokens)
    numbers = np.arange(number, number + len(signatures))
    has_shingles = (signatures != np.iinfo(np.uint32).max).any(axis=1)
    return minhash.band_keys(signatures[has_shingles], n_bands, n_rows), numbers[has_shingles]


def _write_bands(path: Path, bands: list[tuple[Any, Int64]], near: NearConfig) -> None:
    from codeflow.transform import minhash

    n_bands, _ = minhash.bands_for(near.threshold, near.n_permutations, near.band_recall)
    keys = np.concatenate([k for k, _ in bands], axis=1) if bands else np.empty((n_bands, 0), np.uint64)
    numbers = np.concatenate([n for _, n in bands]) if bands else np.empty(0, np.int64)
    order = np.argsort(keys, axis=1, kind="stable")
    save_arrays(path, keys=np.take_along_axis(keys, order, axis=1), numbers=numbers[order])


def save_arrays(path: Path, **arrays: npt.NDArray[Any]) -> None:
    """Write each array to `<stem>.<name>.npy`, whole or not at all, so that readers can map them."""
    with atomic_paths([array_path(path, name) for name in arrays]) as temporaries:
        for temporary, array in zip(temporaries, arrays.values(), strict=True):
            with open(temporary, "wb") as file:
                np.save(file, array, allow_pickle=False)


def load_array(path: Path, name: str, mapped: bool = True) -> npt.NDArray[Any]:
    """Return one array of `save_arrays`, by default mapped: only what is touched is read."""
    return np.load(array_path(path, name), mmap_mode="r" if mapped else None, allow_pickle=False)


def array_path(path: Path, name: str) -> Path:
    """Return the file that holds the array `name` of `path`."""
    return path.with_name(f"{path.stem}.{name}.npy")


def keep_order(row: dict[str, Any], keep: KeepConfig, forks: Container[str] = ()) -> tuple[Any, ...]:
    """Return what documents are compared by: the least of several alike ones is kept. Those of `forks` come last."""
    parts: dict[str, tuple[Any, ...]] = {
        "quality": (row["quality"] is None, -(row["quality"] or 0.0)),
        "age": (row["fetched_at"] == "", row["fetched_at"]),
        "path": (row["repository"], row["path"]),
    }
    return (row["repository"] in forks, *(part for name in keep.order for part in parts[name]), row["number"])


KEY_COLUMNS = ("number", "id", "repository", "path", "fetched_at", "quality")


def key_tables(numbers: Int64, scratch: Path, columns: Sequence[str] = KEY_COLUMNS) -> Iterator[Any]:
    """Yield the keys of some documents as tables, one per shard that has any. `numbers` is sorted."""
    stops = load_array(scratch / "layout", "stops", mapped=False)
    ends = np.searchsorted(numbers, stops)
    for index in np.flatnonzero(np.diff(ends, prepend=0)).tolist():
        table = pq.read_table(scratch / f"keys-{index:05d}.parquet", columns=list(columns))
        here = numbers[ends[index - 1] if index else 0 : ends[index]]
        yield table.filter(pa.array(np.isin(table["number"].to_numpy(), here)))


def keys_of(numbers: Int64, scratch: Path) -> dict[int, dict[str, Any]]:
    """Return the keys (id and what the keep rule looks at) of some documents, by number. `numbers` is sorted."""
    return {row["number"]: row for table in key_tables(numbers, scratch) for row in table.to_pylist()}
