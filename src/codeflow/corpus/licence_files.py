"""Licences of folders: what the LICENSE files of a tree say, and which of them a file falls under.

A file falls under the licence of the nearest folder above it that has one, so a vendored copy's own licence wins over
the root's. Where that folder's text is not recognised, a vendored copy has no licence that could be told, and any other
folder falls under what lies further up.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from codeflow.core.languages import BY_EXTENSION
from codeflow.corpus.detect import is_vendored
from codeflow.corpus.licence import licence_of_text

MAX_BYTES = 200_000  # of a licence file; larger ones are lists of many
_NAME = re.compile(r"(?:licen[cs]es?|copying|unlicen[cs]e)(?P<rest>(?:[-_.][a-z0-9.+_-]+)?)", re.I)
_PLAIN = {"", ".txt", ".md", ".rst", ".markdown"}
_LESSER = "copying.lesser"  # beside COPYING, which it adds permissions to


@dataclass(frozen=True, slots=True)
class FolderLicence:
    """The licence of a folder below the root: the SPDX expression, "" where its text is not recognised."""

    folder: str
    licence: str


@dataclass(frozen=True, slots=True)
class LicenceFolder:
    """A folder with a licence of its own that documents of an artifact lie in: which copy of what they belong to."""

    repository: str
    folder: str
    licence: str
    vendored: bool  # the folder is one where projects keep copies of others
    n_documents: int


def folders_of(documents: Iterable[tuple[str, FolderLicence | None]]) -> list[LicenceFolder]:
    """Return the folders that documents, as (repository, folder's licence), fall under, in order of their names."""
    counts = Counter((repository, own) for repository, own in documents if own is not None)
    return [
        LicenceFolder(repository, own.folder, own.licence, is_vendored(f"{own.folder}/file"), n)
        for (repository, own), n in sorted(counts.items(), key=lambda item: (item[0][0], item[0][1].folder))
    ]


def is_licence_file(path: str) -> bool:
    """Say whether a file's name is that of a licence text."""
    name = PurePosixPath(path)
    known = BY_EXTENSION.get(name.suffix.lower())
    return bool(_NAME.fullmatch(name.name)) and (known is None or known.domain == "general")


def licences_of_folders(files: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """Return the licence of each folder that has licence files, from (path, content); the root is ""."""
    texts: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for path, content in files:
        place = PurePosixPath(path)
        folder = place.parent.as_posix()
        licence = licence_of_text(content.decode("utf-8", "replace")) if len(content) <= MAX_BYTES else ""
        texts["" if folder == "." else folder][place.name.lower()] = licence
    return {folder: _of_one_folder(found) for folder, found in sorted(texts.items())}


def _of_one_folder(found: Mapping[str, str]) -> str:
    """Return the expression of one folder's licence files, by their names in lower case."""
    lesser = next((licence for name, licence in found.items() if name.startswith(_LESSER)), "")
    plain = sorted({licence for name, licence in found.items() if _rest(name) in _PLAIN and licence})
    if lesser or plain:
        return lesser or (plain[0] if len(plain) == 1 else "")
    offered = set(found.values())  # LICENSE-MIT, LICENSE-APACHE: at the user's choice
    return (
        " OR ".join(sorted(offered)) if "" not in offered and all(_rest(name) not in _PLAIN for name in found) else ""
    )


def _rest(name: str) -> str:
    match = _NAME.fullmatch(name)
    return match["rest"].lower() if match else ""


def nearest(path: str, folders: Mapping[str, str]) -> FolderLicence | None:
    """Return the licence of the nearest folder above `path` and below the root; None where the root's holds."""
    for folder in map(str, PurePosixPath(path).parents):
        if folder in folders and (folders[folder] or is_vendored(f"{folder}/file")):
            return FolderLicence(folder, folders[folder])
    return None
