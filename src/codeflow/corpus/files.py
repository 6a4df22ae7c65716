"""Files anywhere -> documents: folders of source files, notebooks, Parquet and JSON lines tables.

Places are paths, globs, folders or URLs of any fsspec protocol (`locations.py`). A table is a shard of work of its own,
other files go together into shards of some megabytes. Nothing that is read is executed, and links are not followed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.languages import BY_NAME, domain_of
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin
from codeflow.corpus import detect
from codeflow.corpus.licence_files import MAX_BYTES, is_licence_file, licences_of_folders, nearest
from codeflow.corpus.locations import Location, fingerprint, located, opened
from codeflow.corpus.notebooks import NotebookForm, notebook_text
from codeflow.corpus.plain_text import Refused, text_of
from codeflow.corpus.tables import (
    JSON_LINES_NAMES,
    PARQUET_NAMES,
    TableSettings,
    json_rows,
    parquet_rows,
    row_documents,
)
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool
from codeflow.execute.shards import run_shards

_SHARD_BYTES = 8_000_000
_VERSION_CONTROL = {".git", ".hg", ".svn", ".bzr"}


class FilesConfig(Config):
    """Which files are read, and how they become documents."""

    files: tuple[str, ...] = ()  # paths, folders, globs or URLs of any fsspec protocol
    domains: tuple[Literal["code", "general", "data"], ...] = ("code", "general")
    max_file_bytes: int = Field(default=1_000_000, ge=1)  # of a source file or notebook, and of a row's text
    repository: str = ""  # what origins name as the repository; "" for the last folder of each place
    licence: str = ""  # SPDX expression for files that state none and have no LICENSE file in a folder above them
    notebooks: NotebookForm = "script"
    tables: TableSettings = TableSettings()


@dataclass(frozen=True, slots=True)
class FilesShard:
    """Some files: the work of one shard."""

    name: str
    output: Path
    locations: tuple[Location, ...]
    config: FilesConfig
    licences: Mapping[str, Mapping[str, str]]  # place -> folder -> licence, where there are licence files

    @property
    def reads(self) -> str:
        """Say what it reads, for messages."""
        first, *others = self.locations
        return f"{first.url} and {len(others)} more files" if others else first.url


def world(config: FilesConfig) -> str:
    """Return what the documents depend on besides the configuration: the files, their sizes and versions."""
    return fingerprint(located(config.files))


def run(config: FilesConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Read the files into `documents-*.parquet`.

    Counts: `read` is every file that is no table and every row of those; what gives no document is dropped by reason.
    Raises UserError when no place is named or one holds no files, and for a table that is damaged as a whole.
    """
    if not config.files:
        raise UserError("no file is named; set files, as in files='[\"~/src/project\"]'")
    locations = located(config.files)
    licences = _licences(locations)
    shards = [FilesShard(f"{n:05d}", output, part, config, licences) for n, part in enumerate(_parts(locations))]
    counts = run_shards(read_files, shards, output, "files", pool)
    return seal(output, counts, {"n_files": len(locations)})


def _place(location: Location) -> str:
    return location.url.removesuffix(location.path)


def _licences(locations: list[Location]) -> dict[str, dict[str, str]]:
    """Read the licence files; return the licence of each folder that has some, by place."""
    texts: dict[str, list[tuple[str, bytes]]] = {}
    for location in locations:
        if is_licence_file(location.path):
            try:
                content = _content(location, MAX_BYTES)
            except Refused:
                continue
            texts.setdefault(_place(location), []).append((location.path, content))
    return {place: licences_of_folders(found) for place, found in texts.items()}


def _is_table(location: Location) -> bool:
    return location.path.lower().endswith((*PARQUET_NAMES, *JSON_LINES_NAMES))


def _parts(locations: list[Location]) -> Iterator[tuple[Location, ...]]:
    part: list[Location] = []
    n_bytes = 0
    for location in locations:
        if _is_table(location):
            yield (location,)
            continue
        if part and n_bytes + location.n_bytes > _SHARD_BYTES:
            yield tuple(part)
            part, n_bytes = [], 0
        part.append(location)
        n_bytes += max(0, location.n_bytes)
    if part:
        yield tuple(part)


def read_files(shard: FilesShard) -> Counts:
    """Write the documents of the shard's files."""
    from codeflow.core.records import write_records

    dropped: Counter[str] = Counter()
    path = shard.output / f"documents-{shard.name}.parquet"
    n = write_records(path, _documents(shard, dropped), Document)
    return Counts(read=n + sum(dropped.values()), kept=n, dropped=dict(sorted(dropped.items())))


def _documents(shard: FilesShard, dropped: Counter[str]) -> Iterator[Document]:
    for location in shard.locations:
        if _is_table(location):
            documents = _of_table(location, shard.config, dropped)
        else:
            documents = _of_file(location, shard.config, shard.licences.get(_place(location), {}), dropped)
        for document in documents:
            if reason := _unwanted(document, shard.config):
                dropped[reason] += 1
            else:
                yield document


def _unwanted(document: Document, config: FilesConfig) -> str:
    if document.language not in BY_NAME:
        return "language_not_in_table" if document.language else "language_unknown"
    domain = domain_of(document.language)
    if domain not in config.domains:
        return f"domain_{domain}"
    return "too_large" if len(document.text) > config.max_file_bytes else ""


def _of_table(location: Location, config: FilesConfig, dropped: Counter[str]) -> Iterator[Document]:
    with opened(location) as stream:
        if location.path.lower().endswith(PARQUET_NAMES):
            rows = parquet_rows(stream, location.path, config.tables.columns)
        else:
            rows = json_rows(stream, location.path.lower(), config.tables.max_line_bytes, dropped)
        for row in rows:
            yield from row_documents(row, config.tables, dropped)


def _of_file(
    location: Location, config: FilesConfig, folders: Mapping[str, str], dropped: Counter[str]
) -> Iterator[Document]:
    try:
        data = _content(location, config.max_file_bytes)
        text = text_of(data)
        if location.path.endswith(".ipynb"):
            text, language = notebook_text(text, config.notebooks)
        else:
            language = detect.language_of(location.path, data)
    except Refused as refusal:
        dropped[str(refusal)] += 1
        return
    own = nearest(location.path, folders)
    origin = Origin(
        source="files",
        repository=config.repository or location.place,
        revision="",
        path=location.path,
        licence=detect.licence_in_text(text) or (own.licence if own else folders.get("") or config.licence),
        fetched_at=location.modified,
    )
    yield Document(sha256_text(text), text, language, origin, detect.flags(location.path, data))


def _content(location: Location, max_bytes: int) -> bytes:
    if _VERSION_CONTROL.intersection(PurePosixPath(location.path).parts):
        raise Refused("version_control")
    if location.is_link:
        raise Refused("symlink")
    if not location.path.isprintable():  # surrogates too: a name that no column can hold
        raise Refused("path_unprintable")
    if location.n_bytes > max_bytes:
        raise Refused("too_large")
    with opened(location) as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise Refused("too_large")
    return data
