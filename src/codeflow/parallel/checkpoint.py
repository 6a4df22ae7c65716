"""Training state on disk: torch DCP folders that are whole or not there, each file with its SHA-256.

    checkpoints/step-00000120/     __0_0.distcp ...   the tensors, one file per process
                                   index.json         which bytes are which part of which tensor
                                   complete.json      written last: step, remarks, bytes and SHA-256 of every file, and
                                                      the fingerprint of every tensor

A folder is written under a temporary name, read back, synced and renamed. One that is truncated or changed is refused
with the name of the file, and the one before it is used. Fingerprints are taken before anything is copied or written
and compared with the files' tensors after writing and with what is in place after reading. State saved by any number
of processes loads into any other number. `saver` saves in the background.
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
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from codeflow.core.config import Config
from codeflow.core.errors import InfrastructureError, UserError
from codeflow.core.manifest import FileRecord
from codeflow.core.progress import say
from codeflow.core.storage import crash_point, make_folder, remove_tree, sha256_file, sha256_text, write_text
from codeflow.kernels.fingerprint import fingerprint
from codeflow.parallel.checkpoint_index import IndexReader, IndexWriter, parts_in, read_index
from codeflow.parallel.faults import Fault, RankFault, suspects
from codeflow.parallel.fingerprints import Box, box, combined, gathered, of_parts, of_whole
from codeflow.parallel.mesh import World

COMPLETE = "complete.json"
_PREFIX = "step-"


class Complete(Config):
    """The content of `complete.json`."""

    step: int  # updates done
    about: dict[str, Any]  # what the saver wants to know again: JSON only
    files: dict[str, FileRecord]
    fingerprints: dict[str, tuple[int, int]]  # of whole tensors, by name
    sha256: str = ""  # of all of the above

    def digest(self) -> str:
        """Return what `sha256` must be."""
        return sha256_text(self.model_copy(update={"sha256": ""}).model_dump_json())


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    about: Mapping[str, Any],
    world: World,
    pairs: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Write `tensors` to `folder`, whole or not at all. Every process calls it; an older `folder` is replaced.

    `pairs`: fingerprints of this process's parts, int64 (n, 2), if `tensors` are copies that were made since; `group`:
    all processes, where those of the world are busy with something else. Equal tensors, step and remarks give equal
    bytes. Raises RankFault, on every process alike, when a file holds other tensors than were to be written.
    """
    pairs = of_parts(tensors.values()) if pairs is None else pairs
    boxes = [box(tensor) for tensor in tensors.values()]
    temporary = folder.with_name(f".{folder.name}.tmp")
    if world.is_first:
        make_folder(folder.parent)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        crash_point(f"before state {folder.name}")
    dist.barrier(group)
    try:
        save_tensors(dict(tensors), storage_writer=IndexWriter(temporary), process_group=group)
    except CheckpointException as error:
        raise _first(error) from error
    whole = combined(list(tensors), pairs, boxes, group)
    _check_written(temporary, step, dict(zip(tensors, zip(boxes, pairs, strict=True), strict=True)), group)
    if world.is_first:
        crash_point(f"after state {folder.name}")
        complete = Complete(step=step, about=dict(about), files=_records(temporary), fingerprints=whole)
        complete = complete.model_copy(update={"sha256": complete.digest()})
        write_text(temporary / COMPLETE, complete.model_dump_json(indent=2))
        remove_tree(folder)
        crash_point(f"before rename {folder.name}")
        os.replace(temporary, folder)
        crash_point(f"after rename {folder.name}")
        _sync_folder(folder.parent)
    dist.barrier(group)


def _first(error: CheckpointException) -> BaseException:
    """Return what the first process that failed met, instead of DCP's BaseException around it."""
    return min(error.failures.items())[1][0]


def _check_written(
    folder: Path, step: int, own: Mapping[str, tuple[Box, Tensor]], group: dist.ProcessGroup | None
) -> None:
    """Compare what this process's file holds with what was to be written there; every process learns the outcome."""
    names = list(own)
    bad = torch.zeros(len(names), dtype=torch.int64)
    for name, part, tensor in parts_in(folder, f"__{dist.get_rank(group)}_"):
        where, pair = own[name]
        same = where == Box(part.offset, part.shape) and torch.equal(fingerprint(tensor, part.offset), pair)
        bad[names.index(name)] |= not same
    rows = gathered(bad, group).nonzero().tolist()
    faults = [Fault("checkpoint", names[i], (rank,), step, "written as something else") for rank, i in rows]
    if faults:
        raise RankFault(f"silent error: {faults[0]}; {folder.name} is not kept", suspects(faults), faults)


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
    complete = _complete(folder)
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


def _complete(folder: Path) -> Complete:
    path = folder / COMPLETE
    try:
        complete = Complete.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} is no complete checkpoint (no {COMPLETE}); use another one") from None
    except (ValidationError, UnicodeDecodeError):
        raise UserError(f"checkpoint file {path} is damaged; use another checkpoint") from None
    if complete.sha256 != complete.digest():
        raise UserError(f"checkpoint file {path} does not match its SHA-256; use another checkpoint")
    return complete


def load(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors` in place from a checkpoint that `read` or `newest` has accepted. Every process calls it.

    Raises UserError when the checkpoint has no such tensor or one of another shape, and InfrastructureError when what
    is in place afterwards is not what was saved.
    """
    saved = read_index(folder).tensors
    for name, tensor in tensors.items():
        if name not in saved:
            raise UserError(f"{folder} holds no tensor '{name}'; it belongs to another model or optimizer")
        if saved[name].shape != tensor.shape:
            raise UserError(f"{folder}: '{name}' has shape {list(saved[name].shape)}, needed {list(tensor.shape)}")
    try:
        with torch.no_grad():
            load_tensors(dict(tensors), storage_reader=IndexReader(folder))
    except CheckpointException as error:
        reason = str(_first(error)).partition("\n")[0]
        raise UserError(f"checkpoint {folder} cannot be read ({reason}); use another one") from error
    known = _complete(folder).fingerprints
    same = {n: x for n, x in tensors.items() if n in known and str(x.dtype).removeprefix("torch.") == saved[n].dtype}
    for name, pair in of_whole(same).items():
        if pair != known[name]:
            raise InfrastructureError(f"{folder}: '{name}' is not what was saved, though its file is; use another one")


def restore(candidates: Iterable[Path], tensors: Mapping[str, Tensor], world: World) -> tuple[Path, Complete] | None:
    """Fill `tensors` from the first good checkpoint of `candidates` (newest first) and return it, or None.

    Every process calls it. Bad ones are named and passed over. Raises InfrastructureError when one was read in part and
    no other is left.
    """
    left = list(candidates)
    failure: InfrastructureError | None = None
    while (found := newest(left, world)) is not None:
        try:
            load(found[0], tensors)
        except InfrastructureError as error:
            failure = error
            if world.is_first:
                say(f"  {error}")
            left = left[left.index(found[0]) + 1 :]
        else:
            return found
    if failure:
        raise failure
    return None


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


def prune(root: Path, keep: int, world: World, keep_every_steps: int | None = None) -> None:
    """Remove all but the `keep` newest checkpoints under `root`, and what unfinished saves left there.

    Those of every `keep_every_steps` steps stay too. A folder that is empty then goes itself.
    """
    if world.is_first and root.exists():
        for folder in step_folders(root)[keep:]:
            if not keep_every_steps or int(folder.name.removeprefix(_PREFIX)) % keep_every_steps:
                remove_tree(folder)
        for left in root.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)
        if not any(root.iterdir()):
            root.rmdir()
