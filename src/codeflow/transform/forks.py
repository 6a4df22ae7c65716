"""Repositories that are forks of each other, found from the documents they share, and the origin of each family.

    describe  per shard      keys -> what each repository holds: documents, quality, earliest time, commits
    share     per hash range equal documents at equal paths -> how many each pair of repositories shares
    find      at once        families: same commit, or enough shared documents -> the origin of each fork

What is held at once is one range of hashes, and a few numbers for each repository and each pair of repositories that
shares anything. The outcome is `forks.json` in the scratch folder: {fork: origin}.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from codeflow.core.manifest import Counts
from codeflow.core.records import read_records, write_records
from codeflow.core.storage import write_text
from codeflow.execute.pool import Pool
from codeflow.execute.shards import run_shards
from codeflow.transform.dedup import DedupConfig, ForkConfig
from codeflow.transform.fingerprints import ShardJob

FORKS = "forks.json"
_HASHES = 1 << 64
_LISTED = 100  # forks named in the manifest


@dataclass(frozen=True, slots=True)
class Holding:
    """What one repository holds in one shard, or in all of them."""

    repository: str
    n_documents: int
    n_quality: int  # documents that have a quality
    quality: float  # sum over those
    earliest: str  # time of its earliest document; "" where none is known
    revisions: tuple[str, ...]  # distinct


@dataclass(frozen=True, slots=True)
class Shared:
    """How many equal documents two repositories hold at equal paths."""

    left: str
    right: str
    n_documents: int


@dataclass(frozen=True)
class DescribeJob:
    """The keys of one shard."""

    shard: ShardJob

    @property
    def name(self) -> str:
        return f"describe-{self.shard.index:05d}"


@dataclass(frozen=True)
class ShareJob:
    """One range of hashes, the `part`-th of `parts` equal ones."""

    part: int
    parts: int
    max_repositories: int
    scratch: Path

    @property
    def name(self) -> str:
        return f"share-{self.part:05d}"


@functools.lru_cache(maxsize=1)
def _read(path: Path, modified: int) -> Mapping[str, str]:
    return json.loads(path.read_text())


def origins_of(scratch: Path) -> Mapping[str, str]:
    """Return {fork: origin}; empty where forks were not looked for."""
    path = scratch / FORKS
    return _read(path, path.stat().st_mtime_ns) if path.exists() else {}


def find(config: DedupConfig, shards: Sequence[ShardJob], pool: Pool, small: bool) -> dict[str, Any]:
    """Find the forks among the signed documents and write them down; return what the manifest says of them."""
    assert config.forks
    scratch, output = shards[0].scratch, shards[0].output
    parts = max(1, -(-shards[-1].stop // config.partition_documents))
    jobs = [ShareJob(part, parts, config.forks.max_repositories, scratch) for part in range(parts)]
    run_shards(describe, [DescribeJob(shard) for shard in shards], output, "repositories", pool, small)
    run_shards(share, jobs, output, "shared documents", pool, small or parts < 2)
    holdings = _merged(_records(scratch, "holdings", Holding))
    shared: Counter[tuple[str, str]] = Counter()
    for record in _records(scratch, "shared", Shared):
        shared[record.left, record.right] += record.n_documents
    found = forks(holdings, shared, config.forks)
    write_text(scratch / FORKS, json.dumps(found, sort_keys=True))
    return {"n_forks": len(found), "forks": dict(sorted(found.items())[:_LISTED])} if found else {}


def _records(scratch: Path, name: str, kind: type[Any]) -> Iterator[Any]:
    for path in sorted(scratch.glob(f"{name}-*.parquet")):
        yield from read_records(path, kind)


def describe(job: DescribeJob) -> Counts:
    """Write what each repository holds in one shard."""
    columns = ["repository", "fetched_at", "revision", "quality"]
    with pq.ParquetFile(job.shard.scratch / f"keys-{job.shard.index:05d}.parquet") as file:
        rows = (row for batch in file.iter_batches(columns=columns) for row in batch.to_pylist())
        holdings = _merged(
            Holding(
                row["repository"],
                1,
                int(row["quality"] is not None),
                row["quality"] or 0.0,
                row["fetched_at"],
                (row["revision"],),
            )
            for row in rows
        )
    ordered = [holdings[name] for name in sorted(holdings)]
    write_records(job.shard.scratch / f"holdings-{job.shard.index:05d}.parquet", ordered, Holding)
    n_documents = sum(holding.n_documents for holding in ordered)
    return Counts(read=n_documents, kept=n_documents)


def _merged(holdings: Iterable[Holding]) -> dict[str, Holding]:
    found: dict[str, Holding] = {}
    for one in holdings:
        known = found.get(one.repository)
        if known is None:
            found[one.repository] = one
            continue
        times = [time for time in (known.earliest, one.earliest) if time]
        found[one.repository] = Holding(
            one.repository,
            known.n_documents + one.n_documents,
            known.n_quality + one.n_quality,
            known.quality + one.quality,
            min(times, default=""),
            known.revisions if one.revisions == known.revisions else tuple(sorted({*known.revisions, *one.revisions})),
        )
    return found


def share(job: ShareJob) -> Counts:
    """Write which repositories share documents of one range of hashes, and how many."""
    low, high = job.part * _HASHES // job.parts, (job.part + 1) * _HASHES // job.parts - 1
    inside = (pc.field("hash") >= pa.scalar(low, pa.uint64())) & (pc.field("hash") <= pa.scalar(high, pa.uint64()))
    paths = sorted(job.scratch.glob("keys-*.parquet"))
    hashes = [pq.read_table(path, columns=["hash"], filters=inside)["hash"].to_numpy() for path in paths]
    distinct, counts = np.unique(np.concatenate(hashes), return_counts=True)
    repeated = distinct[counts > 1]
    holders: defaultdict[tuple[bytes, str], set[str]] = defaultdict(set)
    for path in paths if repeated.size else []:
        table = pq.read_table(path, columns=["hash", "normal", "repository", "path"], filters=inside)
        table = table.filter(pa.array(np.isin(table["hash"].to_numpy(), repeated)))
        for row in table.to_pylist():
            holders[row["normal"], row["path"]].add(row["repository"])
    shared: Counter[tuple[str, str]] = Counter()
    for held in holders.values():
        if len(held) <= job.max_repositories:
            shared.update(itertools.combinations(sorted(held), 2))
    records = [Shared(*pair, n) for pair, n in sorted(shared.items())]
    write_records(job.scratch / f"shared-{job.part:05d}.parquet", records, Shared)
    n_documents = sum(map(len, hashes))
    return Counts(read=n_documents, kept=n_documents)


def forks(holdings: Mapping[str, Holding], shared: Mapping[tuple[str, str], int], config: ForkConfig) -> dict[str, str]:
    """Return {fork: origin} of the repositories that are of one family."""
    parent = {name: name for name in holdings}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for left, right in itertools.chain(_of_one_commit(holdings), _alike(holdings, shared, config)):
        first, second = sorted((root(left), root(right)))
        parent[second] = first
    families: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(holdings):
        families[root(name)].append(name)
    found: dict[str, str] = {}
    for family in families.values():
        origin = min(family, key=lambda name: _order(holdings[name], config))
        found.update((name, origin) for name in family if name != origin)
    return found


def _alike(
    holdings: Mapping[str, Holding], shared: Mapping[tuple[str, str], int], config: ForkConfig
) -> Iterator[tuple[str, str]]:
    for (left, right), n in shared.items():
        smaller = min(holdings[left].n_documents, holdings[right].n_documents)
        if n >= config.min_documents and n >= config.min_share * smaller:
            yield left, right


def _of_one_commit(holdings: Mapping[str, Holding]) -> Iterator[tuple[str, str]]:
    """Yield pairs of repositories that hold the same commit (a hexadecimal name of 40 or 64 digits)."""
    first: dict[str, str] = {}
    for name in sorted(holdings):
        for revision in holdings[name].revisions:
            if len(revision) in (40, 64) and all(c in "0123456789abcdef" for c in revision):
                yield first.setdefault(revision, name), name


def _order(holding: Holding, config: ForkConfig) -> tuple[Any, ...]:
    mean = round(holding.quality / holding.n_quality, 1) if holding.n_quality else 0.0
    parts: dict[str, tuple[Any, ...]] = {
        "quality": (holding.n_quality == 0, -mean),
        "age": (holding.earliest == "", holding.earliest),
        "path": (holding.repository,),
    }
    return (*(part for name in config.order for part in parts[name]), holding.repository)
