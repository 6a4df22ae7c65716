"""Training state on disk: torch DCP folders that are whole or not there, each file with its SHA-256.

    checkpoints/step-00000120/     __0_0.distcp ...   the tensors, one file per process
                                   .metadata          DCP's index of them
                                   complete.json      written last: step, remarks, bytes and SHA-256 of every file

A folder is written under a temporary name, synced and renamed. One that is truncated or changed is refused with the
name of the file, and the one before it is used. State saved by any number of processes loads into any other number.

Not covered yet: asynchronous saves.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.manifest import FileRecord
from codeflow.core.progress import say
from codeflow.core.storage import crash_point, make_folder, remove_tree, sha256_file, write_text
from codeflow.parallel.mesh import World

COMPLETE = "complete.json"
_PREFIX = "step-"


class Complete(Config):
    """The content of `complete.json`."""

    step: int  # updates done
    about: dict[str, Any]  # what the saver wants to know again: JSON only
    files: dict[str, FileRecord]


class _Writer(FileSystemWriter):
    """DCP's writer without the random id and the absolute path that it would leave in the index."""

    def storage_meta(self) -> StorageMeta | None:
        return StorageMeta()


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], about: Mapping[str, Any], world: World) -> None:
    """Write `tensors` to `folder`, whole or not at all. Every process calls it; an older `folder` is replaced.

    Equal tensors, step and remarks give equal bytes.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    if world.is_first:
        make_folder(folder.parent)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        crash_point(f"before state {folder.name}")
    world.barrier()
    save_tensors(dict(tensors), storage_writer=_Writer(temporary))
    if world.is_first:
        crash_point(f"after state {folder.name}")
        complete = Complete(step=step, about=dict(about), files=_records(temporary))
        write_text(temporary / COMPLETE, complete.model_dump_json(indent=2))
        remove_tree(folder)
        crash_point(f"before rename {folder.name}")
        os.replace(temporary, folder)
        crash_point(f"after rename {folder.name}")
        _sync_folder(folder.parent)
    world.barrier()


def _records(folder: Path) -> dict[str, FileRecord]:
    return {
        path.name: FileRecord(n_bytes=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(folder.iterdir())
        if path.name != COMPLETE
    }


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(folder: Path) -> Complete:
    """Return what a checkpoint says of itself, after checking every file's size and hash.

    Raises UserError naming the first file that is missing, truncated or changed.
    """
    path = folder / COMPLETE
    try:
        complete = Complete.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} is no complete checkpoint (no {COMPLETE}); use another one") from None
    except (ValidationError, UnicodeDecodeError):
        raise UserError(f"checkpoint file {path} is damaged; use another checkpoint") from None
    for name, record in complete.files.items():
        file = folder / name
        if not file.exists():
            raise UserError(f"checkpoint file {file} is missing; use another checkpoint")
        n_bytes = file.stat().st_size
        if n_bytes != record.n_bytes:
            raise UserError(f"checkpoint file {file} has {n_bytes} of {record.n_bytes} bytes; use another checkpoint")
        if sha256_file(file) != record.sha256:
            raise UserError(f"checkpoint file {file} does not match its SHA-256; use another checkpoint")
    return complete


def load(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors` in place from a checkpoint that `read` or `newest` has accepted. Every process calls it.

    Raises UserError when the checkpoint has no such tensor or one of another shape.
    """
    saved = FileSystemReader(folder).read_metadata().state_dict_metadata
    for name, tensor in tensors.items():
        if name not in saved:
            raise UserError(f"{folder} holds no tensor '{name}'; it belongs to another model or optimizer")
        size = getattr(saved[name], "size", None)
        if size != tensor.shape:
            raise UserError(f"{folder}: '{name}' has shape {list(size or [])}, needed {list(tensor.shape)}")
    with torch.no_grad():
        load_tensors(dict(tensors), storage_reader=FileSystemReader(folder))


def step_folder(root: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` updates."""
    return root / f"{_PREFIX}{step:08d}"


def step_folders(root: Path) -> list[Path]:
    """Return the checkpoint folders under `root`, newest first, whole or not."""
    return sorted(root.glob(f"{_PREFIX}*"), reverse=True) if root.exists() else []


def newest(candidates: Iterable[Path], world: World) -> tuple[Path, Complete] | None:
    """Return the first good checkpoint of `candidates` (newest first), or None. Bad ones are named and passed over.

    Every process gets the same answer: the first one looks.
    """
    found: list[Any] = [None]
    if world.is_first:
        for folder in candidates:
            try:
                found = [(str(folder), json.loads(read(folder).model_dump_json()))]
                break
            except UserError as error:
                say(f"  {error}")
    dist.broadcast_object_list(found, src=0)
    if found[0] is None:
        return None
    folder, tree = found[0]
    return Path(folder), Complete.model_validate(tree)


def prune(root: Path, keep: int, world: World) -> None:
    """Remove all but the `keep` newest checkpoints under `root`, and what unfinished saves left there."""
    if world.is_first and root.exists():
        for folder in step_folders(root)[keep:]:
            remove_tree(folder)
        for left in root.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)
