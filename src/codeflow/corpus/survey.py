"""Looks at every candidate file once, and reads the chosen ones again into documents: the two kinds of shard work.

The first look decides by content (hash, size, language); only its few numbers per file are kept, so that a sample can
be drawn from any amount of files in little memory.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from codeflow.core.errors import InfrastructureError
from codeflow.core.languages import BY_NAME, domain_of
from codeflow.core.manifest import PROGRESS, Counts
from codeflow.core.storage import sha256_text, write_text
from codeflow.core.types import Document, Origin
from codeflow.corpus import detect
from codeflow.corpus.docstrings import docstring_document
from codeflow.corpus.git_files import blob_reader
from codeflow.corpus.git_repository import iso_time
from codeflow.corpus.installed import Candidate
from codeflow.corpus.plain_text import Refused, text_of

_LICENCE_FILE = re.compile(r"^(?:licen[cs]es?|copying|notice|authors)(?:[.\-_].*)?$", re.I)
_METADATA_FOLDER = re.compile(r"(?:^|/)[^/]+\.(?:dist|egg)-info/")
_METADATA_FILES = {"METADATA", "PKG-INFO"}
_CONTENT_TYPE = re.compile(r"^Description-Content-Type:\s*([\w/.+-]+)", re.M | re.I)
_DESCRIPTION_LANGUAGES = {"text/markdown": "Markdown", "text/x-rst": "reStructuredText", "text/plain": "Text"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What the first look admits."""

    domains: tuple[str, ...]
    max_file_bytes: int
    min_docstring_characters: int


@dataclass(frozen=True, slots=True)
class Look:
    """One shard of the first look."""

    name: str
    output: Path
    candidates: tuple[Candidate, ...]
    limits: Limits

    @property
    def reads(self) -> str:
        """Say what it reads, for messages."""
        return f"{self.candidates[0].path} and {len(self.candidates) - 1} more files"


@dataclass(frozen=True, slots=True)
class Found:
    """A possible document: what the choice is made by."""

    candidate: Candidate
    kind: str  # "file", "docstrings" (of a module) or "description" (of a package)
    file_sha256: str
    n_bytes: int  # of the document's text
    language: str

    @property
    def domain(self) -> str:
        """Return "code", "general" or "data"."""
        return domain_of(self.language)


@dataclass(frozen=True, slots=True)
class Reading:
    """One shard of documents."""

    name: str
    output: Path
    chosen: tuple[Found, ...]
    limits: Limits

    @property
    def reads(self) -> str:
        """Say what it reads, for messages."""
        return f"{self.chosen[0].candidate.path} and {len(self.chosen) - 1} more files"


def look_path(output: Path, name: str) -> Path:
    """Return where the result of a first look lies; it goes when the artifact is sealed."""
    return output / PROGRESS / "looks" / f"{name}.jsonl"


def look(shard: Look) -> Counts:
    """Look at the shard's candidates; write what may become documents, return the counts of the rest by reason."""
    dropped: Counter[str] = Counter()
    lines: list[str] = []
    for number, data in _contents(shard.candidates, shard.limits.max_file_bytes, dropped):
        try:
            for found in _look_at(shard.candidates[number], data, shard.limits):
                lines.append(json.dumps([number, found.kind, found.file_sha256, found.n_bytes, found.language]))
        except Refused as refusal:
            dropped[str(refusal)] += 1
    write_text(look_path(shard.output, shard.name), "".join(line + "\n" for line in lines))
    return Counts(read=len(lines) + sum(dropped.values()), dropped=dict(sorted(dropped.items())))


def looked(shard: Look) -> Iterator[Found]:
    """Yield what the shard's first look found."""
    with open(look_path(shard.output, shard.name), encoding="utf-8") as file:
        for line in file:
            number, kind, file_sha256, n_bytes, language = json.loads(line)
            yield Found(shard.candidates[number], kind, file_sha256, n_bytes, language)


def _look_at(candidate: Candidate, data: bytes, limits: Limits) -> Iterator[Found]:
    text = text_of(data)
    sha256 = hashlib.sha256(data).hexdigest()
    if _METADATA_FOLDER.search(candidate.path):
        described, language = _description(text)
        if not described.strip():
            raise Refused("package_metadata")
        kind, n_bytes = "description", len(described.encode())
    else:
        kind, language, n_bytes = "file", detect.language_of(candidate.path, data), len(text.encode())
    domain = domain_of(language) if language in BY_NAME else ""
    if not domain:
        raise Refused("language_unknown" if not language else "language_not_in_table")
    if domain not in limits.domains:
        raise Refused(f"domain_{domain}")
    yield Found(candidate, kind, sha256, n_bytes, language)
    if language == "Python" and "general" in limits.domains:
        document = docstring_document(text, limits.min_docstring_characters)
        if document:
            yield Found(candidate, "docstrings", sha256, len(document[0].encode()), document[1])


def _description(text: str) -> tuple[str, str]:
    """Return (long description, language) of a package's metadata file."""
    headers, _, body = text.replace("\r\n", "\n").partition("\n\n")
    found = _CONTENT_TYPE.search(headers)
    return body, _DESCRIPTION_LANGUAGES.get(found[1].lower() if found else "", "reStructuredText")


def _unread_reason(candidate: Candidate) -> str:
    """Return why a candidate is dropped for its path alone, or ""."""
    name = PurePosixPath(candidate.path).name
    if _METADATA_FOLDER.search(candidate.path) and name not in _METADATA_FILES:
        return "package_metadata"
    if _LICENCE_FILE.match(name):
        return "licence_file"
    if name not in _METADATA_FILES and not detect.may_be_known(candidate.path):
        return "language_not_in_table"
    return ""


def _contents(candidates: Sequence[Candidate], max_bytes: int, dropped: Counter[str]) -> Iterator[tuple[int, bytes]]:
    """Yield (index, content) of the candidates that can be read; count the others in `dropped`."""
    blobs: dict[str, list[int]] = {}
    for number, candidate in enumerate(candidates):
        if reason := _unread_reason(candidate):
            dropped[reason] += 1
        elif candidate.collection.is_git:
            if candidate.n_bytes > max_bytes:
                dropped["too_large"] += 1
            else:
                blobs.setdefault(candidate.collection.folder, []).append(number)
        else:
            try:
                yield number, _read_file(Path(candidate.collection.folder) / candidate.path, max_bytes)
            except Refused as refusal:
                dropped[str(refusal)] += 1
    for folder, numbers in blobs.items():
        with blob_reader(Path(folder)) as reader:
            answers = reader.read([candidates[number].sha for number in numbers], max_bytes)
            for number, (_, _, data) in zip(numbers, answers, strict=True):
                if data is None:
                    dropped["missing"] += 1
                else:
                    yield number, data


def _read_file(path: Path, max_bytes: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Refused("symlink") from None
        raise Refused("missing" if error.errno in (errno.ENOENT, errno.ENOTDIR) else "unreadable") from None
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Refused("not_a_file")
        if status.st_size > max_bytes:
            raise Refused("too_large")
        return file.read()


def read_documents(shard: Reading) -> Counts:
    """Write the chosen documents to their shard. Raises InfrastructureError when a file changed since then."""
    from codeflow.core.records import write_records

    n = write_records(shard.output / f"documents-{shard.name}.parquet", _documents(shard), Document)
    return Counts(kept=n)


def _documents(shard: Reading) -> Iterator[Document]:
    candidates = [found.candidate for found in shard.chosen]
    n = 0
    for number, data in _contents(candidates, shard.limits.max_file_bytes, Counter()):
        found = shard.chosen[number]
        if hashlib.sha256(data).hexdigest() != found.file_sha256:
            break
        yield _document(found, data, shard.limits)
        n += 1
    if n < len(candidates):
        raise InfrastructureError("files changed while they were being collected; run it again")


def _document(found: Found, data: bytes, limits: Limits) -> Document:
    candidate = found.candidate
    text, path = text_of(data), candidate.path
    licence = detect.licence_in_text(text) or candidate.licence
    if found.kind == "description":
        text, _ = _description(text)
    elif found.kind == "docstrings":
        document = docstring_document(text, limits.min_docstring_characters)
        assert document
        text, path = document[0], f"{path}#docstrings"
    collection = candidate.collection
    origin = Origin(
        source=collection.source,
        repository=collection.repository,
        revision=collection.revision,
        path=path,
        licence=licence,
        fetched_at=collection.fetched_at or iso_time((Path(collection.folder) / candidate.path).stat().st_mtime),
    )
    return Document(sha256_text(text), text, found.language, origin, detect.flags(candidate.path, data))
