"""Where documents are: files of the standard library, of installed packages and of git repositories, listed, not read.

Nothing that is listed is ever imported; packages are found by their metadata on disk.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Collection as Container
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from codeflow.corpus.git_files import GITLINK_MODE, SYMLINK_MODE, TreeEntry, blob_reader, tree_entries
from codeflow.corpus.git_repository import Repository
from codeflow.corpus.licence import licence_of_package
from codeflow.corpus.licence_files import MAX_BYTES, FolderLicence, is_licence_file, licences_of_folders, nearest

_METADATA_FOLDER = re.compile(r"[^/]+\.dist-info(?:/licenses)?")
_NOT_STDLIB = {"site-packages", "dist-packages"}


@dataclass(frozen=True, slots=True)
class Collection:
    """Files that share everything of their origin but the path."""

    source: str  # "stdlib", "package", "git" or "synthetic-git"
    repository: str
    revision: str
    licence: str
    fetched_at: str  # "": each file's own modification time
    folder: str  # on this machine; never written into data
    is_git: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """One file that may become a document."""

    collection: Collection
    path: str  # below the collection's folder, as it will stand in the origin
    sha: str = ""  # of the blob, for git
    n_bytes: int = -1  # known beforehand only for git
    own: FolderLicence | None = None  # of a folder below the collection's; None: the collection's holds

    @property
    def licence(self) -> str:
        """The SPDX expression that the file falls under where it states none itself; "" for none that is known."""
        return self.own.licence if self.own else self.collection.licence


def stdlib_candidates(dropped: Counter[str]) -> Iterator[Candidate]:
    """Yield the files of the running interpreter's standard library."""
    folder = Path(sysconfig.get_path("stdlib"))
    collection = Collection(
        "stdlib", f"cpython {platform.python_version()}", platform.python_version(), "PSF-2.0", "", str(folder), False
    )
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _NOT_STDLIB)
        if os.path.basename(root) == "__pycache__":
            dropped["bytecode"] += len(files)
            continue
        for name in sorted(files):
            path = (Path(root) / name).relative_to(folder).as_posix()
            if _is_utf8(path):
                yield Candidate(collection, path)
            else:
                dropped["path_invalid_utf8"] += 1


def distributions(excluded: Container[str] = ()) -> list[importlib.metadata.Distribution]:
    """Return the packages installed in this environment, one per name, in the order of their names.

    Those named in `excluded` are left out; letter case and the kind of separator do not count in a name.
    """
    left_out = {_normalised(name) for name in excluded}
    folders = list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))
    found: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions(path=folders):
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(_normalised(name), distribution)
    return [found[name] for name in sorted(found.keys() - left_out)]


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def package_candidates(dropped: Counter[str], excluded: Container[str] = ()) -> Iterator[Candidate]:
    """Yield the files of the packages as `distributions` gives them; those outside of site-packages are counted."""
    seen: set[str] = set()
    for distribution in distributions(excluded):
        folders = licences_of_folders(_licence_texts(distribution))
        collection = _collection_of(distribution, folders)
        if distribution.files is None:
            dropped["package_without_file_list"] += 1
        for file in sorted(distribution.files or [], key=str):
            path = PurePosixPath(file).as_posix()
            if path.startswith(("/", "../")) or "/../" in path or not _is_utf8(path):
                dropped["outside_site_packages"] += 1
            elif path.endswith(".pyc"):
                dropped["bytecode"] += 1
            elif path in seen:
                dropped["listed_twice"] += 1
            else:
                seen.add(path)
                yield Candidate(collection, path, own=nearest(path, folders))


def _licence_texts(distribution: importlib.metadata.Distribution) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of the licence files that a package lists and that are whole files of a usual size."""
    for file in sorted(distribution.files or [], key=str):
        path = PurePosixPath(file).as_posix()
        place = Path(str(distribution.locate_file(file)))
        if not is_licence_file(path) or path.startswith(("/", "../")) or "/../" in path or not _is_utf8(path):
            continue
        try:
            if place.is_file() and not place.is_symlink() and place.stat().st_size <= MAX_BYTES:
                yield path, place.read_bytes()
        except OSError:
            continue


def _stated_beside_metadata(folders: Mapping[str, str]) -> str:
    """Return the licence whose text lies with a package's metadata, where there is one only."""
    found = {licence for folder, licence in folders.items() if _METADATA_FOLDER.match(folder)}
    return found.pop() if len(found) == 1 else ""


def _collection_of(distribution: importlib.metadata.Distribution, folders: Mapping[str, str]) -> Collection:
    metadata = distribution.metadata
    expression, stated = ((metadata.get_all(field) or [""])[0] for field in ("License-Expression", "License"))
    licence = licence_of_package(expression, stated, metadata.get_all("Classifier") or [])
    licence = licence or _stated_beside_metadata(folders)
    name, version = metadata["Name"], distribution.version
    return Collection("package", f"{name} {version}", version, licence, "", str(distribution.locate_file("")), False)


def git_candidates(repository: Repository, dropped: Counter[str]) -> Iterator[Candidate]:
    """Yield the regular files at the repository's head."""
    entries = list(tree_entries(repository.folder, repository.head))
    folders = _licences_at_head(repository, entries)
    licence = folders.get("", "")
    collection = Collection(
        repository.source, repository.name, repository.head, licence, repository.head_time, str(repository.folder), True
    )
    for entry in entries:
        if entry.mode == GITLINK_MODE:
            dropped["submodule"] += 1
        elif entry.mode == SYMLINK_MODE:
            dropped["symlink"] += 1
        elif not _is_utf8(entry.path):
            dropped["path_invalid_utf8"] += 1
        else:
            yield Candidate(collection, entry.path, entry.sha, entry.n_bytes, nearest(entry.path, folders))


def _is_utf8(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _licences_at_head(repository: Repository, entries: list[TreeEntry]) -> dict[str, str]:
    texts = [
        entry
        for entry in entries
        if entry.mode not in (GITLINK_MODE, SYMLINK_MODE) and _is_utf8(entry.path) and is_licence_file(entry.path)
    ]
    with blob_reader(repository.folder) as reader:
        answers = reader.read([entry.sha for entry in texts], MAX_BYTES)
        return licences_of_folders(
            (entry.path, content) for entry, (_, _, content) in zip(texts, answers, strict=True) if content is not None
        )
