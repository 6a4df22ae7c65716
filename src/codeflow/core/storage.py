"""Files that are never half-written, one lock per folder, and points at which a test may kill the process.

Everything that a run leaves behind goes through `atomic_path`: written under a temporary name in the same folder,
synced, renamed, and the folder synced. A kill at any moment leaves the old file or the new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from codeflow.core.errors import UserError

CRASH_AT = "CODEFLOW_CRASH_AT"
CRASH_LOG = "CODEFLOW_CRASH_LOG"
_CRASH_RECORD_BYTES = 128
_SYNCS = 16  # files that are synced at the same time, at most


def crash_point(label: str) -> None:
    """Count a moment at which a kill must be harmless; SIGKILL the whole process group at the chosen one.

    Active only in the kill campaign: `CODEFLOW_CRASH_LOG` names a file that all processes of a run append fixed-size
    records to (its length numbers the moments over all processes) and `CODEFLOW_CRASH_AT` is the number to die at.
    """
    log = os.environ.get(CRASH_LOG)
    if not log:
        return
    record = label.encode()[: _CRASH_RECORD_BYTES - 1].ljust(_CRASH_RECORD_BYTES - 1) + b"\n"
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, record)
        number = os.lseek(descriptor, 0, os.SEEK_CUR) // _CRASH_RECORD_BYTES
    finally:
        os.close(descriptor)
    if number == int(os.environ.get(CRASH_AT, "0")):
        os.killpg(os.getpgrp(), signal.SIGKILL)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is synced and renamed to `path`."""
    with atomic_paths([path]) as (temporary,):
        yield temporary


@contextmanager
def atomic_paths(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Do as `atomic_path` for several files of one folder, which the disk syncs together: that takes the time of one.

    Each is whole or not there; a kill may leave the first ones in place and not the others.
    """
    folder = paths[0].parent
    assert all(path.parent == folder for path in paths)
    temporaries = [path.with_name(f".{path.name}.tmp") for path in paths]
    make_folder(folder)
    try:
        yield temporaries
    except BaseException:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
        raise
    for path in paths:
        crash_point(f"before fsync {path.name}")
    _sync_all(temporaries)
    for temporary, path in zip(temporaries, paths, strict=True):
        crash_point(f"before rename {path.name}")
        os.replace(temporary, path)
        crash_point(f"after rename {path.name}")
    _sync(folder)


def _sync_all(paths: Sequence[Path]) -> None:
    if len(paths) == 1:
        _sync(paths[0])
        return
    with ThreadPoolExecutor(min(len(paths), _SYNCS)) as threads:
        for _ in threads.map(_sync, paths):
            pass


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_note(path: Path, text: str) -> None:
    """Write `text` unsynced: a kill leaves all or nothing, a crash of the machine may also leave an empty file.

    For what is told apart from damage when it is read, and can be made again.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    crash_point(f"before rename {path.name}")
    os.replace(temporary, path)
    crash_point(f"after rename {path.name}")


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> Path:
    """Create `path` and its parents. Raises UserError when the place cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create folder {path}: {error.strerror}; choose an output folder you can write to"
        ) from None
    if not os.access(path, os.W_OK):
        raise UserError(f"folder {path} is read-only; choose an output folder you can write to")
    return path


def remove_tree(path: Path) -> None:
    """Remove a folder so that a kill in between never leaves something that looks whole: rename first, then delete."""
    if path.exists():
        doomed = path.with_name(f".{path.name}.deleted")
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(path, doomed)
        crash_point(f"after rename for deletion {path.name}")
        shutil.rmtree(doomed, ignore_errors=True)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process. Raises UserError at once when another process holds it.

    The lock is an flock on `folder/.lock`: it vanishes with its process, so a killed run leaves nothing to clean up.
    """
    make_folder(folder)
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{folder} is in use by {holder}; wait for it, or give this run another --output folder"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Return the hexadecimal SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
