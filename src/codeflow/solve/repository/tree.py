"""The files of a repository at one commit, without its history: listed, kept in an artifact, written to a folder.

Nothing of git travels with them: no `.git`, no refs, no later commit. A tree is named by git's own hash of it, so equal
states are one folder. Beside the files lies what an installation would have added: the distribution's metadata, and
version files that a build writes. Submodules are left out, and symlinks that point out of the tree.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from codeflow.core.errors import UserError
from codeflow.core.records import read_records, write_records
from codeflow.core.storage import atomic_path, make_folder, remove_tree
from codeflow.corpus.git_files import GITLINK_MODE, SYMLINK_MODE, blob_reader, tree_entries
from codeflow.solve.repository.project import Project, read_project

TREES, BLOBS = "trees-00000.parquet", "blobs-00000.parquet"
_BLOB_SCHEMA = pa.schema([("sha", pa.string()), ("content", pa.binary())])
_BYTES_PER_GROUP = 16_000_000
_TIME = 946_684_800  # of every file: 2000-01-01, so that times say nothing


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One path with git's mode and blob hash."""

    path: str
    mode: str
    sha: str


@dataclass(frozen=True, slots=True)
class Tree:
    """All files of one commit. `version` is what its distribution's metadata says where its files do not."""

    id: str
    version: str
    files: tuple[TreeFile, ...]


@dataclass(frozen=True, slots=True)
class Exported:
    """A tree on disk: its files, and beside them the metadata of its distribution."""

    files: Path
    metadata: Path


def list_tree(repository: Path, revision: str, tree_id: str, version: str) -> Tree:
    """List the tree of a commit. Raises UserError when there is no such revision."""
    entries = (entry for entry in tree_entries(repository, revision) if entry.mode != GITLINK_MODE)
    files = (TreeFile(entry.path, entry.mode, entry.sha) for entry in entries if entry.path.isprintable())
    return Tree(tree_id, version, tuple(file for file in files if ".git" not in PurePosixPath(file.path).parts))


def read_blobs(repository: Path, shas: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (sha, content) of each blob that is there, once."""
    with blob_reader(repository) as reader:
        for sha, _, content in reader.read(list(dict.fromkeys(shas))):
            if content is not None:
                yield sha, content


def export(tree: Tree, contents: Mapping[str, bytes], cache: Path) -> Exported:
    """Write a tree's files to its folder in `cache`, once; contents by blob hash. A kill leaves nothing half done."""
    folder = cache / "trees" / tree.id
    if not folder.is_dir():
        doing = make_folder(cache / "trees") / f".{tree.id}.{os.getpid()}"
        shutil.rmtree(doing, ignore_errors=True)
        _write(tree, contents, doing)
        try:
            os.replace(doing, folder)
        except OSError:  # another process was faster
            remove_tree(doing)
    return Exported(folder / "files", folder / "metadata")


def _write(tree: Tree, contents: Mapping[str, bytes], folder: Path) -> None:
    files = folder / "files"
    files.mkdir(parents=True)
    for file in tree.files:
        content = contents.get(file.sha)
        if content is None:
            continue
        path = files / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.mode == SYMLINK_MODE:
            _link(files, path, content)
        else:
            path.write_bytes(content)
            path.chmod(0o755 if file.mode == "100755" else 0o644)
    project = read_project({file.path: contents[file.sha] for file in tree.files if file.sha in contents})
    version = project.version or tree.version or "0"
    _write_metadata(project, version, folder / "metadata")
    for name in project.version_files:
        path = files / name
        if ".." not in PurePosixPath(name).parts and path.parent.is_dir() and not path.exists():
            path.write_text(
                f"version = __version__ = {version!r}\nversion_tuple = __version_tuple__ = {_parts(version)}\n"
            )
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
        os.utime(path, (_TIME, _TIME), follow_symlinks=False)


def _link(root: Path, path: Path, content: bytes) -> None:
    target = content.decode("utf-8", "surrogateescape")
    inside = os.path.normpath(os.path.join(os.path.relpath(path.parent, root), target))
    if not os.path.isabs(target) and not inside.startswith(".."):
        path.symlink_to(target)


def _parts(version: str) -> tuple[int | str, ...]:
    return tuple(int(part) if part.isdigit() else part for part in version.split("."))


def _write_metadata(project: Project, version: str, folder: Path) -> None:
    """Write what `importlib.metadata` finds of an installed distribution."""
    folder.mkdir()
    if not project.name:
        return
    info = folder / f"{project.name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project.name}\nVersion: {version}\n")
    groups = [
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in pairs) for name, pairs in project.entry_points
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))


def write_trees(folder: Path, trees: Sequence[Tree], repository: Path) -> int:
    """Write trees and every blob that they name, each once, as an artifact's files. Return the bytes of blobs."""
    write_records(folder / TREES, trees, Tree)
    n_bytes = 0
    shas = sorted({file.sha for tree in trees for file in tree.files})
    with (
        atomic_path(folder / BLOBS) as temporary,
        pq.ParquetWriter(temporary, _BLOB_SCHEMA, compression="zstd") as writer,
    ):
        rows: list[tuple[str, bytes]] = []
        held = 0
        for pair in read_blobs(repository, shas):
            rows.append(pair)
            held += len(pair[1])
            n_bytes += len(pair[1])
            if held >= _BYTES_PER_GROUP:
                writer.write_table(_blob_table(rows))
                rows, held = [], 0
        writer.write_table(_blob_table(rows))
    return n_bytes


def _blob_table(rows: Sequence[tuple[str, bytes]]) -> pa.Table:
    return pa.table([[sha for sha, _ in rows], [content for _, content in rows]], schema=_BLOB_SCHEMA)


def read_trees(folder: Path) -> dict[str, Tree]:
    """Return the trees of an artifact by id."""
    return {tree.id: tree for tree in read_records(folder / TREES, Tree)}


def read_contents(folder: Path, tree: Tree) -> dict[str, bytes]:
    """Return a tree's contents by blob hash. Raises UserError when one is missing."""
    wanted = sorted({file.sha for file in tree.files})
    table = pq.read_table(folder / BLOBS, filters=[("sha", "in", wanted)]) if wanted else _blob_table([])
    found = dict(zip(table["sha"].to_pylist(), table["content"].to_pylist(), strict=True))
    if len(found) < len(wanted):
        raise UserError(f"{folder / BLOBS} lacks {len(wanted) - len(found)} files of tree {tree.id}; make it again")
    return found
