"""Files anywhere that fsspec reaches: patterns -> a listing, and opened streams.

A location is a path, a glob (`crawl/*.warc.gz`), a folder (with everything below it) or a URL of any protocol that
fsspec knows (`s3://bucket/*.parquet`, `https://...`, `zip://inner*::outer.zip`). Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, cast

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.corpus.git_repository import iso_time

_TIMES = ("mtime", "LastModified", "last_modified", "updated")
_VERSIONS = ("ETag", "etag", "md5Hash", *_TIMES)


@dataclass(frozen=True, slots=True)
class Location:
    """One file: how fsspec opens it, its place below what was asked for, and what tells its content's version."""

    url: str
    path: str  # below the folder or the glob's fixed part, with forward slashes; never a path of this machine
    place: str  # name of that folder
    n_bytes: int  # -1 where the store does not say
    version: str  # ETag or time of change: what tells that the content is another one
    modified: str = ""  # ISO 8601 UTC, where the store says
    is_link: bool = False  # a symbolic link, on disks


def located(patterns: Sequence[str]) -> list[Location]:
    """Return the files that the patterns name, each once, in the order of patterns and of paths within one.

    Raises UserError for a pattern that names nothing and for a protocol without its package.
    """
    found: dict[str, Location] = {}
    for pattern in patterns:
        matches = sorted(_matches(pattern), key=lambda location: location.url)
        if not matches:
            raise UserError(f"no file at '{pattern}'; give a file, a folder or a glob that matches something")
        for location in matches:
            found.setdefault(location.url, location)
    return list(found.values())


def fingerprint(locations: Iterable[Location]) -> str:
    """Return one line per file: what work on these files depends on."""
    return "\n".join(f"{item.url} {item.n_bytes} {item.version}" for item in locations)


@contextmanager
def opened(location: Location) -> Iterator[BinaryIO]:
    """Open the file for reading bytes. Raises InfrastructureError when it is gone or out of reach."""
    import fsspec

    with ExitStack() as stack:
        try:
            file = stack.enter_context(fsspec.open(location.url, "rb"))  # type: ignore[arg-type]
        except OSError as error:
            raise InfrastructureError(f"cannot read {location.path} ({error}); check that it is still there") from None
        yield cast(BinaryIO, file)


def _matches(pattern: str) -> Iterable[Location]:
    import fsspec

    try:
        system, root = fsspec.url_to_fs(pattern)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"cannot read '{pattern}': {error}; give a path, or a URL of a protocol that fsspec knows"
        ) from None
    try:
        if system.isdir(root):
            listed: dict[str, Any] = system.find(root, detail=True)
            fixed = root
        elif any(sign in root for sign in "*?["):
            matching = system.glob(root, detail=True)
            listed = {path: info for path, info in matching.items() if info["type"] == "file"}
            if matching and not listed:
                raise UserError(f"'{pattern}' matches folders only; end it in /** for the files below them")
            fixed = root[: min(root.find(sign) for sign in "*?[" if sign in root)].rpartition("/")[0]
        else:
            listed = {root: system.info(root)} if system.exists(root) else {}
            fixed = root.rpartition("/")[0]
    except OSError as error:
        raise InfrastructureError(f"cannot list '{pattern}' ({error}); check the address and your access") from None
    _, chained, outer = pattern.partition("::")
    for path, info in listed.items():
        url = system.unstrip_protocol(path) + chained + outer
        below = path.removeprefix(fixed).lstrip("/") or path.rpartition("/")[2]
        size = info.get("size")
        yield Location(
            url=url,
            path=below,
            place=fixed.rpartition("/")[2],
            n_bytes=-1 if size is None else int(size),
            version=next((str(info[key]) for key in _VERSIONS if key in info), ""),
            modified=_iso(next((info[key] for key in _TIMES if key in info), None)),
            is_link=bool(info.get("islink")),
        )


def _iso(moment: Any) -> str:
    if isinstance(moment, datetime):
        moment = moment.timestamp()
    return iso_time(moment) if isinstance(moment, int | float) else ""
