"""Rows of Parquet and JSON lines files -> documents, by the column names of the published corpora.

The Stack (v1, v2), StarCoderData, C4, FineWeb, Dolma, RedPajama and the like map without code: each thing that a
document needs has the names that these use, tried in order. The Stack v2's rows of whole repositories (`files`) give
one document per file. Other schemas are named in the configuration.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.languages import BY_NAME
from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin
from codeflow.corpus import detect
from codeflow.corpus.code_language import named_language

_LINES = (".jsonl", ".ndjson", ".json")  # a bare .json is a file of data
PARQUET_NAMES = (".parquet",)
JSON_LINES_NAMES = (".jsonl", ".ndjson", *(f"{name}{packed}" for name in _LINES for packed in (".gz", ".zst")))
_ROWS_PER_BATCH = 256
_NAMED = 12  # columns that an error names
_FILES = "files"  # The Stack v2: one row per repository


class Columns(Config):
    """Names under which a row holds what a document needs, the first that is there wins; dots reach into structs."""

    text: tuple[str, ...] = ("content", "text", "code", "raw_content", "contents", "body")
    language: tuple[str, ...] = ("language", "lang", "programming_language", "gha_language")
    path: tuple[str, ...] = ("path", "file_path", "max_stars_repo_path", "filename", "url", "metadata.url", "meta.url")
    repository: tuple[str, ...] = (
        "repo_name",
        "repository",
        "repo",
        "max_stars_repo_name",
        "repo_url",
        "repository_name",
    )
    revision: tuple[str, ...] = (
        "revision_id",
        "revision",
        "max_stars_repo_head_hexsha",
        "commit_id",
        "commit",
        "blob_id",
    )
    licence: tuple[str, ...] = ("detected_licenses", "licence", "license", "licenses", "max_stars_repo_licenses")
    fetched_at: tuple[str, ...] = (
        "revision_date",
        "committer_date",
        "visit_date",
        "date",
        "timestamp",
        "created",
        "added",
    )
    tags: dict[str, str] = {
        "is_vendor": "vendored",
        "is_generated": "generated",
        "star_events_count": "stars",
        "max_stars_count": "stars",
    }  # column -> tag; numbers and booleans only


class TableSettings(Config):
    """How rows become documents."""

    columns: Columns = Columns()
    default_language: str = "Text"  # of rows with neither a known language nor a path that tells one
    max_line_bytes: int = 50_000_000  # of a JSON line


def parquet_rows(stream: BinaryIO, name: str, columns: Columns) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a Parquet file, a few hundred in memory.

    Raises UserError naming a damaged file, or one that has no column for texts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(stream) as file:
            _require_text(file.schema_arrow.names, name, columns)
            for batch in file.iter_batches(_ROWS_PER_BATCH):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name} is not a readable Parquet file ({reason}); fetch it again or leave it out") from None


def _require_text(found: Sequence[str], name: str, columns: Columns) -> None:
    """Raise UserError when none of a table's columns can hold its texts, as in tables that only list files."""
    if _FILES in found or any(text.partition(".")[0] in found for text in columns.text):
        return
    listed = ", ".join(found[:_NAMED]) + (", ..." if len(found) > _NAMED else "")
    raise UserError(
        f"{name} has no column for texts (it has {listed or 'none'}; looked for {', '.join(columns.text)}); "
        f"join the texts to it, or name their column: tables.columns.text='[\"...\"]'"
    )


def json_rows(stream: BinaryIO, name: str, max_bytes: int, dropped: Counter[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a JSON lines file, packed (.gz, .zst) or not; count the lines that are none.

    Raises UserError naming a file whose packing is damaged.
    """
    try:
        for line in _lines(_unpacked(stream, name), max_bytes, dropped):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                dropped["json_line_damaged"] += 1
                continue
            if isinstance(row, dict):
                yield row
            else:
                dropped["json_line_no_object"] += 1
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{name} cannot be unpacked ({error}); fetch it again or leave it out") from None


def _unpacked(stream: BinaryIO, name: str) -> BinaryIO:
    if name.endswith(".gz"):
        return gzip.open(stream, "rb")  # type: ignore[return-value]
    if name.endswith(".zst"):
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(stream, "zstd"))  # type: ignore[arg-type, return-value]
    return stream


def _lines(stream: BinaryIO, max_bytes: int, dropped: Counter[str]) -> Iterator[bytes]:
    too_long = False
    while line := stream.readline(max_bytes):
        whole = line.endswith(b"\n") or len(line) < max_bytes
        if too_long or not whole:
            dropped["json_line_too_long"] += whole
            too_long = not whole
        elif line.strip():
            yield line


def row_documents(row: Mapping[str, Any], settings: TableSettings, dropped: Counter[str]) -> Iterator[Document]:
    """Yield the documents of a row: one, or one per file of a row that holds a repository's files."""
    files = row.get(_FILES)
    if isinstance(files, list) and not any(name in row for name in settings.columns.text):
        for file in files:
            if isinstance(file, Mapping):
                yield from row_documents({**row, _FILES: None, **file}, settings, dropped)
            else:
                dropped["row_without_text"] += 1
        return
    columns = settings.columns
    text = _first(row, columns.text)
    if not isinstance(text, str) or not text.strip():
        dropped["row_without_text" if not isinstance(text, str) else "empty"] += 1
        return
    text = text.encode("utf-8", "replace").decode()  # JSON can hold halves of characters
    path = _word(_first(row, columns.path))
    origin = Origin(
        source="table",
        repository=_word(_first(row, columns.repository)),
        revision=_word(_first(row, columns.revision)),
        path=path,
        licence=_licence(_first(row, columns.licence)) or detect.licence_in_text(text),
        fetched_at=_word(_first(row, columns.fetched_at)),
    )
    language = _language(_word(_first(row, columns.language)), path, text) or settings.default_language
    tags = {tag: float(row[name]) for name, tag in columns.tags.items() if isinstance(row.get(name), int | float)}
    yield Document(sha256_text(text), text, language, origin, {tag: value for tag, value in tags.items() if value})


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        value: Any = row
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and value != "":
            return value
    return None


def _word(value: Any) -> str:
    if value is None or isinstance(value, list | dict):
        return ""
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return text.encode("utf-8", "replace").decode()


def _licence(value: Any) -> str:
    """Return an SPDX expression: several detected licences all hold."""
    if isinstance(value, list):
        return " AND ".join(sorted({str(item) for item in value if item}))
    return value if isinstance(value, str) else ""


def _language(stated: str, path: str, text: str) -> str:
    if stated in BY_NAME:
        return stated
    if named := named_language([stated]):
        return named
    if not path or "://" in path:  # a page's address says nothing about its language
        return ""
    return detect.language_of(path, text.encode())
