"""What a stage found beside its documents: clusters of near-duplicates and hits of benchmark text, a sample of each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from codeflow.core.records import shards
from codeflow.report.side_by_side import MAX_LINES, Row, difference, shared_words
from codeflow.report.specimens import (
    InspectConfig,
    Reservoir,
    Source,
    Specimen,
    batches,
    find,
    priorities,
    text_of,
)

_MEMBERS = 3  # shown of a cluster: the most similar ones, and the least similar one
_CLUSTER_TEXT = 3  # times the characters of a sample: a difference needs more than a glance


@dataclass(frozen=True)
class Member:
    """A dropped document of a cluster beside the kept one."""

    path: str
    similarity: float
    found: Specimen | None  # None: the artifact no longer holds it
    rows: list[Row]
    cut: bool


@dataclass(frozen=True)
class ShownCluster:
    """One cluster; `n_members` counts all dropped documents, `members` are some."""

    kept_path: str
    kept: Specimen | None
    n_members: int
    members: list[Member]


@dataclass(frozen=True)
class Clusters:
    """The clusters of an artifact: how many, and some of them."""

    n: int
    n_members: int
    sizes: list[tuple[str, int]]  # dropped documents in a cluster -> clusters
    shown: list[ShownCluster]


@dataclass(frozen=True)
class _Picked:
    id: str
    path: str
    n_members: int
    members: tuple[tuple[str, str, float], ...]  # id, path, similarity


@dataclass(frozen=True)
class ShownHit:
    """A passage of a document beside the benchmark text that it matches."""

    where: str
    benchmark: str
    prompt: str
    part: str
    method: str
    score: float
    matched: Markup
    reference: Markup
    cut: bool


@dataclass(frozen=True)
class Hits:
    """The hits of an artifact: how many by method and benchmark, and some of each."""

    n: int
    counts: list[tuple[str, int]]
    shown: list[ShownHit]


def clusters(folder: Path, source: Source, config: InspectConfig) -> Clusters | None:
    """Return a sample of the clusters, half of it the largest ones; None where the stage makes none."""
    paths = shards(folder, "clusters")
    if not paths:
        return None
    largest: Reservoir[_Picked] = Reservoir((config.clusters + 1) // 2)
    others: Reservoir[_Picked] = Reservoir(config.clusters)
    sizes = np.zeros(len(_SIZES), np.int64)
    n = n_members = 0
    for path in paths:
        for batch in batches(path):
            counts = batch.column("members").value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
            rows, load = np.arange(len(batch)), _picker(batch)
            largest.offer("", (np.int64(2**62) - counts).astype(np.uint64), rows, load)
            others.offer("", priorities(config.seed, n, len(batch)), rows, load)
            sizes += np.bincount(np.searchsorted(_SIZES, counts, "right") - 1, minlength=len(_SIZES))
            n, n_members = n + len(batch), n_members + int(counts.sum())
    picked = {one.id: one for group in (largest, others) for items in group.groups().values() for one in items}
    chosen = sorted(list(picked.values())[: config.clusters], key=lambda one: -one.n_members)
    ids = {one.id for one in chosen} | {member[0] for one in chosen for member in one.members}
    texts = find(source, ids, _CLUSTER_TEXT * config.characters) if ids else {}
    named = [(f"{low}" if low < 4 else f"{low} or more", int(count)) for low, count in zip(_SIZES, sizes, strict=True)]
    return Clusters(n, n_members, [row for row in named if row[1]], [_shown(one, texts) for one in chosen])


_SIZES = np.array([0, 1, 2, 3, 4, 10, 100, 1000])


def _picker(batch: Any) -> Callable[[int], _Picked]:
    similarity = "similarities" if "similarities" in batch.schema.names else "jaccards"

    def load(row: int) -> _Picked:
        members, paths, values = (batch.column(name)[row].values for name in ("members", "paths", similarity))
        n = len(members)
        places = [*range(min(n, _MEMBERS - 1)), *([n - 1] if n >= _MEMBERS else [])]
        shown = tuple((text_of(members[i]), text_of(paths[i]), float(values[i].as_py())) for i in places)
        return _Picked(text_of(batch.column("id")[row]), text_of(batch.column("kept")[row]), n, shown)

    return load


def _shown(one: _Picked, texts: dict[str, Specimen]) -> ShownCluster:
    kept = texts.get(one.id)
    members = []
    for identity, path, similarity in one.members:
        other = texts.get(identity)
        pair = [side for side in (kept, other) if side is not None]
        rows = difference(pair[0].text, pair[1].text) if len(pair) == 2 else []
        cut = any(len(s.text) < s.n_characters or s.text.count("\n") >= MAX_LINES for s in pair)
        members.append(Member(path, similarity, other, rows, cut))
    return ShownCluster(one.path, kept, one.n_members, members)


def hits(folder: Path, config: InspectConfig) -> Hits | None:
    """Return a sample of the hits of benchmark text for each method and benchmark; None where the stage has none."""
    paths = shards(folder, "hits")
    if not paths:
        return None
    kept: Reservoir[ShownHit] = Reservoir(config.hits)
    counts: dict[str, int] = {}
    n = 0
    for path in paths:
        for batch in batches(path):
            priority = priorities(config.seed, n, len(batch))
            n += len(batch)
            for name, rows in _by_method(batch):
                counts[name] = counts.get(name, 0) + rows.size
                kept.offer(name, priority[rows], rows, functools.partial(_hit, batch, characters=config.characters))
    shown = [one for group in kept.groups().values() for one in group] if config.hits else []
    return Hits(n, sorted(counts.items(), key=lambda item: (-item[1], item[0])), shown)


def _by_method(batch: Any) -> list[tuple[str, Any]]:
    """Return the rows of a batch of hits by method and benchmark."""
    pairs = zip(batch.column("method"), batch.column("benchmark"), strict=True)
    names = np.array([f"{text_of(method)} · {text_of(benchmark)}" for method, benchmark in pairs], object)
    return [(name, np.flatnonzero(names == name)) for name in sorted(set(names.tolist()))]


def _hit(batch: Any, row: int, *, characters: int) -> ShownHit:
    def of(name: str, limit: int = 300) -> str:
        return text_of(batch.column(name)[row], limit)

    matched, reference = of("matched", characters + 1), of("reference", characters + 1)
    left, right = shared_words(matched[:characters], reference[:characters])
    return ShownHit(
        where=f"{of('repository')} / {of('path')}",
        benchmark=of("benchmark"),
        prompt=of("prompt"),
        part=of("part"),
        method=of("method"),
        score=float(batch.column("score")[row].as_py()),
        matched=left,
        reference=right,
        cut=max(len(matched), len(reference)) > characters,
    )
