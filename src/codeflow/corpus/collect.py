"""The outside world -> documents: the standard library, installed packages and git repositories (Code-Flow §2).

Everything is listed, every listed file is looked at once, and a sample is drawn by content hash: equal worlds give
equal samples, and a larger cap adds to the sample (where no repository is favoured). What is read is data: nothing is
imported, compiled or executed, and git repositories are read at their head, not from their work tree.

A document's tags are "generated", "vendored" and "test" (1 where it holds).
"""

from __future__ import annotations

import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from codeflow.core.config import Config
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.progress import say
from codeflow.corpus.git_repository import Repository, fingerprint, locate_all
from codeflow.corpus.installed import (
    Candidate,
    distributions,
    git_candidates,
    package_candidates,
    stdlib_candidates,
)
from codeflow.corpus.licence_files import LicenceFolder, folders_of
from codeflow.corpus.survey import Found, Limits, Look, Reading, look, looked, read_documents
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool
from codeflow.execute.shards import run_shards

_CANDIDATES_PER_LOOK = 2000


class CollectConfig(Config):
    """What is collected, and how much of it."""

    include_stdlib: bool = True
    include_packages: bool = True
    excluded_packages: tuple[str, ...] = ()  # names of installed packages that are left out
    repositories: tuple[str, ...] = ()  # paths or URLs; the files at their heads
    optional_repositories: tuple[str, ...] = ()  # likewise, but a missing or empty one is a remark, not an error
    domains: tuple[Literal["code", "general", "data"], ...] = ("code", "general")
    cap_bytes: int = Field(default=40_000_000, ge=1)  # of text, over all domains
    general_cap_bytes: int = Field(default=10_000_000, ge=0)  # of prose, within the cap
    repository_share: float = Field(default=0.5, ge=0, le=1)  # of either cap, for repositories ahead of everything else
    max_file_bytes: int = Field(default=400_000, ge=1)
    min_docstring_characters: int = Field(default=500, ge=1)  # of a module's docstrings together
    shard_bytes: int = Field(default=4_000_000, ge=1)
    cache: str = ""  # folder for fetched repositories; "" puts it beside the artifact

    @model_validator(mode="after")
    def _caps_fit(self) -> CollectConfig:
        if self.general_cap_bytes > self.cap_bytes:
            raise ValueError("general_cap_bytes must not exceed cap_bytes; lower it or raise cap_bytes")
        return self


def world(config: CollectConfig) -> str:
    """Return what the collection depends on besides its configuration: interpreter, packages, heads. Cheap."""
    lines = []
    if config.include_stdlib:
        lines.append(f"cpython {platform.python_version()}")
    if config.include_packages:
        lines += [f"{item.metadata['Name']} {item.version}" for item in distributions(config.excluded_packages)]
    return "\n".join([*lines, fingerprint(config.repositories, config.optional_repositories)])


def run(config: CollectConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Collect documents into `documents-*.parquet`.

    Counts: `read` is every listed file plus one document per module with enough docstrings; what is not kept is
    dropped by reason, `over_cap` being what the sample leaves out. Raises UserError for repositories like `locate_all`.
    """
    from codeflow.core.records import write_records

    cache = Path(config.cache).expanduser() if config.cache else output.parent / "cache" / "git"
    repositories, remarks = locate_all(config.repositories, config.optional_repositories, cache)
    for remark in remarks:
        say(f"  collect: {remark}")
    unlisted: Counter[str] = Counter()
    candidates = list(_candidates(config, repositories, unlisted))
    limits = Limits(config.domains, config.max_file_bytes, config.min_docstring_characters)
    looks = [
        Look(f"look-{number:05d}", output, tuple(candidates[number :: _n_looks(candidates)]), limits)
        for number in range(_n_looks(candidates))
    ]
    counts = run_shards(look, looks, output, "collect: looking", pool)
    chosen, over_cap = choose((found for shard in looks for found in looked(shard)), config)
    readings = [
        Reading(f"{number:05d}", output, tuple(part), limits)
        for number, part in enumerate(_shards(chosen, config.shard_bytes))
    ]
    owners = ((found.candidate.collection.repository, found.candidate.own) for found in chosen)
    write_records(output / "licences-00000.parquet", folders_of(owners), LicenceFolder)
    counts = counts + run_shards(read_documents, readings, output, "collect: reading", pool)
    n_unlisted = sum(unlisted.values())
    counts = counts + Counts(read=n_unlisted, dropped={**dict(sorted(unlisted.items())), "over_cap": over_cap})
    return seal(output, counts, _metrics(chosen, repositories, remarks))


def _n_looks(candidates: list[Candidate]) -> int:
    return -(-len(candidates) // _CANDIDATES_PER_LOOK)


def _candidates(config: CollectConfig, repositories: list[Repository], dropped: Counter[str]) -> Iterable[Candidate]:
    for repository in repositories:
        yield from git_candidates(repository, dropped)
    if config.include_stdlib:
        yield from stdlib_candidates(dropped)
    if config.include_packages:
        yield from package_candidates(dropped, config.excluded_packages)


def choose(found: Iterable[Found], config: CollectConfig) -> tuple[list[Found], int]:
    """Return the sample, ordered by source, repository and path, and the number of documents left out.

    Documents are ranked by the SHA-256 of their file. Repositories come first, up to their share of a cap. Prose fills
    its cap with files before docstrings; those are ranked from the far end, so that they come from modules that the
    code sample has left out, as long as there are such.
    """
    ranked: dict[str, list[Found]] = defaultdict(list)
    for item in found:
        prose = "docstrings" if item.kind == "docstrings" else "prose"
        ranked[prose if item.domain == "general" else "code"].append(item)
    for items in ranked.values():
        items.sort(key=_rank)
    ranked["docstrings"].reverse()
    prose = [*ranked["prose"], *ranked["docstrings"]]
    chosen_prose, prose_bytes = _take(prose, config.general_cap_bytes, config.repository_share)
    chosen_code, _ = _take(ranked["code"], config.cap_bytes - prose_bytes, config.repository_share)
    chosen = sorted([*chosen_prose, *chosen_code], key=_place)
    return chosen, len(prose) + len(ranked["code"]) - len(chosen)


def _rank(item: Found) -> tuple[str, ...]:
    return (item.file_sha256, *_place(item))


def _place(item: Found) -> tuple[str, ...]:
    collection = item.candidate.collection
    return (collection.source, collection.repository, item.candidate.path, item.kind)


def _take(items: list[Found], cap_bytes: int, repository_share: float) -> tuple[list[Found], int]:
    """Take items in order until one does not fit: first those of repositories, up to their share, then the rest."""
    first = [item for item in items if item.candidate.collection.is_git]
    n_first, n_bytes = _n_fitting(first, int(cap_bytes * repository_share))
    taken = set(map(id, first[:n_first]))
    rest = [item for item in items if id(item) not in taken]
    n_rest, rest_bytes = _n_fitting(rest, cap_bytes - n_bytes)
    return [*first[:n_first], *rest[:n_rest]], n_bytes + rest_bytes


def _n_fitting(items: list[Found], cap_bytes: int) -> tuple[int, int]:
    """Return how many items from the first on fit into `cap_bytes`, and their bytes."""
    n_bytes = 0
    for n, item in enumerate(items):
        if n_bytes + item.n_bytes > cap_bytes:
            return n, n_bytes
        n_bytes += item.n_bytes
    return len(items), n_bytes


def _shards(chosen: list[Found], shard_bytes: int) -> Iterable[list[Found]]:
    part: list[Found] = []
    n_bytes = 0
    for item in chosen:
        if part and n_bytes + item.n_bytes > shard_bytes:
            yield part
            part, n_bytes = [], 0
        part.append(item)
        n_bytes += item.n_bytes
    if part:
        yield part


def _metrics(chosen: list[Found], repositories: list[Repository], remarks: list[str]) -> dict[str, Any]:
    by_language: Counter[str] = Counter()
    by_source: Counter[str] = Counter()
    by_domain: Counter[str] = Counter()
    for item in chosen:
        by_language[item.language] += item.n_bytes
        by_source[item.candidate.collection.source] += item.n_bytes
        by_domain[item.domain] += item.n_bytes
    return {
        "n_bytes": sum(by_domain.values()),
        "n_bytes_by_domain": by_domain,
        "n_bytes_by_language": by_language,
        "n_bytes_by_source": by_source,
        "repositories": {
            repository.name: {
                "head": repository.head,
                "head_time": repository.head_time,
                "shallow": repository.shallow,
                "synthetic": repository.synthetic,
            }
            for repository in repositories
        },
        "remarks": remarks,
    }
