"""Artifacts: a folder with `manifest.json`, `config.json` and data; how one is begun, sealed, read and checked.

    begin.json      exists while the artifact is unfinished; says what it will be, so that the same work resumes
    progress/       one small file per finished shard while the artifact is unfinished
    config.json     the resolved configuration
    manifest.json   written last: what it is, from what it was made, counts, measurements, files with SHA-256
    run.json        what is not reproducible: seconds, peak memory, machine (not part of the fingerprint)

Equal inputs and configurations give equal `manifest.json` bytes, save for paths of inputs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from codeflow import __version__
from codeflow.core.config import Config, canonical_json, validate
from codeflow.core.errors import UserError
from codeflow.core.storage import crash_point, make_folder, remove_tree, sha256_file, write_text

MANIFEST, BEGIN, CONFIG, RUN, PROGRESS = "manifest.json", "begin.json", "config.json", "run.json", "progress"
_NOT_DATA = {MANIFEST, BEGIN, CONFIG, RUN}  # at the top of an artifact; a file of that name further down is data


class Counts(Config):
    """What a stage read, kept and dropped by reason. `read == kept + sum(dropped)` wherever records map one to one."""

    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)
    notes: dict[str, int] = Field(default_factory=dict)  # other things counted: repairs, secrets replaced, ...

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            read=self.read + other.read,
            kept=self.kept + other.kept,
            dropped=_sum(self.dropped, other.dropped),
            notes=_sum(self.notes, other.notes),
        )


def _sum(left: Mapping[str, int], right: Mapping[str, int]) -> dict[str, int]:
    return {key: left.get(key, 0) + right.get(key, 0) for key in sorted({*left, *right})}


class FileRecord(Config):
    """One file of an artifact."""

    n_bytes: int
    sha256: str


class InputRecord(Config):
    """One input of an artifact: which artifact, where it lay, and what it held."""

    kind: str
    path: str
    fingerprint: str


class Manifest(Config):
    """What an artifact is and from what it was made."""

    kind: str
    key: str  # hash of kind, configuration and input fingerprints: equal keys mean equal work
    codeflow_version: str
    inputs: dict[str, InputRecord]
    counts: Counts
    metrics: dict[str, Any]  # reproducible measurements and remarks of the stage
    files: dict[str, FileRecord]
    fingerprint: str  # hash of kind and files: what dependants are keyed on

    @property
    def n_bytes(self) -> int:
        """Bytes of data in the artifact."""
        return sum(file.n_bytes for file in self.files.values())


class Begun(Config):
    """The content of `begin.json`."""

    kind: str
    key: str
    inputs: dict[str, InputRecord]


def work_key(kind: str, config: Config, inputs: Mapping[str, InputRecord], extra: str = "") -> str:
    """Return the identity of a piece of work: equal keys may reuse each other's result.

    `extra` is whatever else the outcome depends on (the state of the outside world that a source reads).
    """
    parts = {name: record.fingerprint for name, record in inputs.items()}
    text = canonical_json({"kind": kind, "config": config.model_dump(mode="json"), "inputs": parts, "extra": extra})
    return hashlib.sha256(text.encode()).hexdigest()


def begin(output: Path, kind: str, config: Config, inputs: Mapping[str, InputRecord], key: str) -> bool:
    """Prepare `output` for work. Returns True when unfinished work with the same key is there to resume.

    Anything else that lies in `output` is removed; the caller has decided that it is stale.
    """
    begun = read_begun(output)
    if begun and begun.key == key and not (output / MANIFEST).exists():
        return True
    remove_tree(output)
    make_folder(output)
    write_text(output / CONFIG, config.model_dump_json(indent=2))
    write_text(output / BEGIN, Begun(kind=kind, key=key, inputs=dict(inputs)).model_dump_json(indent=2))
    return False


def read_begun(output: Path) -> Begun | None:
    """Return what an unfinished artifact was going to be, or None."""
    path = output / BEGIN
    return Begun.model_validate_json(path.read_text()) if path.exists() else None


def seal(output: Path, counts: Counts, metrics: Mapping[str, Any] | None = None) -> Manifest:
    """Finish the artifact in `output`: hash its files and write `manifest.json`. Every `run` ends with this call."""
    begun = read_begun(output)
    assert begun, f"{output} was not begun"
    remove_tree(output / PROGRESS)
    files = {
        path.relative_to(output).as_posix(): FileRecord(n_bytes=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.relative_to(output).as_posix() not in _NOT_DATA and not path.name.startswith(".")
    }
    content = canonical_json({"kind": begun.kind, "files": {name: record.sha256 for name, record in files.items()}})
    manifest = Manifest(
        kind=begun.kind,
        key=begun.key,
        codeflow_version=__version__,
        inputs=begun.inputs,
        counts=counts,
        metrics=json.loads(canonical_json(dict(metrics or {}))),
        files=files,
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
    )
    crash_point("before manifest")
    write_text(output / MANIFEST, manifest.model_dump_json(indent=2))
    crash_point("after manifest")
    (output / BEGIN).unlink()
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a finished artifact. Raises UserError when there is none."""
    path = folder / MANIFEST
    if not path.exists():
        state = "unfinished" if (folder / BEGIN).exists() else "not an artifact (no manifest.json)"
        raise UserError(f"{folder} is {state}; run the stage that makes it first")
    try:
        tree = json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path} is damaged; delete {folder} to have it made again") from None
    return validate(Manifest, tree, origin=str(path))


def input_record(folder: Path) -> InputRecord:
    """Describe a finished artifact as the input of another."""
    manifest = read_manifest(folder)
    return InputRecord(kind=manifest.kind, path=str(folder), fingerprint=manifest.fingerprint)


def check_files(folder: Path, deep: bool = False) -> Manifest:
    """Check that a finished artifact's files are all there and whole: sizes, and with `deep` also hashes.

    Raises UserError naming the file. Returns the manifest.
    """
    manifest = read_manifest(folder)
    fix = f"delete {folder} to have it made again"
    for name, record in manifest.files.items():
        path = folder / name
        if not path.exists():
            raise UserError(f"artifact file {path} is missing; {fix}")
        if path.stat().st_size != record.n_bytes:
            raise UserError(f"artifact file {path} has {path.stat().st_size} of {record.n_bytes} bytes; {fix}")
        if deep and sha256_file(path) != record.sha256:
            raise UserError(f"artifact file {path} does not match its SHA-256; {fix}")
    return manifest


def require_kind(folder: Path, kinds: Iterable[str]) -> Manifest:
    """Check that `folder` is a whole artifact of one of `kinds`. Raises UserError otherwise."""
    manifest = check_files(folder)
    allowed = list(kinds)
    if manifest.kind not in allowed:
        raise UserError(f"{folder} holds '{manifest.kind}', needed: {' or '.join(allowed)}")
    return manifest
