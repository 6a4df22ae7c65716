"""Files anywhere that fsspec reaches: patterns -> a listing, and opened streams.

A location is a path, a glob (`crawl/*.warc.gz`), a folder (with everything below it) or a URL of any protocol that
fsspec knows (`s3://bucket/*.parquet`, `https://...`, `zip://inner*::outer.zip`). Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from codeflow.core.errors import InfrastructureError, UserError


@dataclass(frozen=True, slots=True)
class Location:
    """One file: how fsspec opens it, its place below what was asked for, and what tells its content's version."""

    url: str
    path: str  # below the folder or the glob's fixed part, with forward slashes; never a path of this machine
    n_bytes: int  # -1 where the store does not say
    version: str  # fsspec's unique key, or ETag and the like


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
        raise UserError(f"cannot read '{pattern}': {error}") from None
    try:
        if system.isdir(root):
            listed: dict[str, Any] = system.find(root, detail=True)
            fixed = root
        elif any(sign in root for sign in "*?["):
            listed = {path: info for path, info in system.glob(root, detail=True).items() if info["type"] == "file"}
            fixed = root[: min(root.find(sign) for sign in "*?[" if sign in root)].rpartition("/")[0]
        else:
            listed = {root: system.info(root)} if system.exists(root) else {}
            fixed = root.rpartition("/")[0]
    except OSError as error:
        raise InfrastructureError(f"cannot list '{pattern}' ({error}); check the address and your access") from None
    _, chained, outer = pattern.partition("::")
    for path, info in listed.items():
        url = system.unstrip_protocol(path) + chained + outer
        version = next(
            (str(info[key]) for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified") if key in info), ""
        )
        below = path.removeprefix(fixed).lstrip("/") or path.rpartition("/")[2]
        size = info.get("size")
        yield Location(url, below, -1 if size is None else int(size), version)
